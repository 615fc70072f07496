"""Frames to the core and to the rounds, as in the agent, but that points are acknowledged as well."""

import hashlib
from collections.abc import Callable

from sendoff_server.aggregate import Core, Found
from sendoff_server.gateway.direct.client import DirectClient
from sendoff_server.gateway.direct.rounds import Rounds
from sendoff_server.intake.client import Client
from sendoff_server.intake.clients import Clients
from sendoff_server.intake.events import make_id
from sendoff_server.intake.intake import Intake
from sendoff_server.intake.points import count_points
from sendoff_server.intake.storms import Storms
from sendoff_server.wire.frame import Frame, Lines, encode_ack

REQUESTS = "http"
"""The origin whose connections are single requests: when one ends, that says nothing of its client."""
STAMPED_MOST = 500
"""Seconds of held-back frames in the core, beyond which it is emptied: it takes no more than 600."""


class DirectIntake(Intake):
    """One project's. Exceptions are kept one by one: a client without an agent has its rate limited instead."""

    def __init__(
        self,
        core: Core,
        clients: Clients,
        rounds: Rounds,
        *,
        clock: Callable[[], int],
        running: Callable[[], float],
    ) -> None:
        super().__init__(core, clients, rounds, host="", storms=Storms(0, 0), clock=clock, running=running)
        self._rounds = rounds
        self._stamped: set[int] = set()
        self._found = 0
        self._at: int | None = None

    def take_frame(self, frame: Frame, client: Client, datagrams: str = "") -> None:
        super().take_frame(frame, client, datagrams)
        if frame.kind == "hello":
            client.state.source = self.source(client.state.service)

    def take_metrics(self, frame: Frame, client: Client, datagrams: str) -> None:
        assert isinstance(client, DirectClient)
        if frame.t is not None:
            self._make_room(frame.t)
        self._found, self._at = 0, frame.n if count_points(frame.payload) else None
        super().take_metrics(frame, client, datagrams)
        self._rounds.points(client, len(frame.payload))

    def take_lines(self, lines: Lines, origin: str) -> None:
        super().take_lines(lines, origin)
        self._rounds.lines(len(lines.data))

    def event_id(self, found: Found, now_ms: int, client: Client | None) -> str:
        """Beside points it is made of what the event is and where it stands, as the frame comes again if these are not
        acknowledged.
        """
        if client is None or self._at is None:
            return super().event_id(found, now_ms, client)
        self._found += 1
        place = f"{client.state.client} {self._at} {self._found} {found!r}"
        return make_id(0, hashlib.sha256(place.encode("utf-8", "surrogatepass")).digest())

    def answer(self, client: Client, told: int) -> bytes:
        assert isinstance(client, DirectClient)
        return encode_ack(client.state.upto, client.refusals(told), client.covered.n)

    def left(self, client: Client, origin: str) -> None:
        if origin != REQUESTS:
            super().left(client, origin)

    def _make_room(self, t: int) -> None:
        """Every second of held-back points opens a window of its own: empty the core before it has too many."""
        self._stamped.add(t // 1_000)
        if len(self._stamped) > STAMPED_MOST:
            self._rounds.rotate()
            self._stamped.clear()
