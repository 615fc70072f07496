"""One project that clients send to without an agent: its core, clients and rounds. Made when the first connects."""

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from sendoff_server.aggregate import Limits, make_core
from sendoff_server.gateway.direct import storing
from sendoff_server.gateway.direct.client import DirectClient, DirectState
from sendoff_server.gateway.direct.intake import DirectIntake
from sendoff_server.gateway.direct.limits import Allowance, Held
from sendoff_server.gateway.direct.rounds import Round, Rounds, Tally
from sendoff_server.gateway.direct.session import DirectSession
from sendoff_server.gateway.store import Store
from sendoff_server.gateway.store.take import Merge
from sendoff_server.inputs import Link
from sendoff_server.inputs.kept import KeptSession
from sendoff_server.intake.clients import Clients
from sendoff_server.wire.frame import FrameError

if TYPE_CHECKING:
    from sendoff_server.settings import DirectSettings

log = logging.getLogger(__name__)

CHANGED_MOST = 1_000
"""Clients whose state is stored in one round for what changed beside events and points."""
TURNS = 2
"""Bodies of one project that are decoded and taken in at once: the others wait, and leave room to other projects."""
REFUSALS_MOST = 100_000
"""Refused events that are remembered for all clients of a project: a tiny frame that jumps makes a thousand."""
IDLE_S = 60.0
"""So long nothing was heard before a project is put away."""


class Project:
    """``clock``: Unix ms, ``running``: monotonic seconds. Of one event loop."""

    clients: Clients
    intake: DirectIntake
    rounds: Rounds

    def __init__(
        self,
        number: int,
        store: Store,
        settings: "DirectSettings",
        merge: Merge,
        everyone: Held,
        *,
        clock: Callable[[], int],
        running: Callable[[], float],
    ) -> None:
        self.number = number
        self.allowance = Allowance(settings.rate, settings.in_flight, everyone)
        self.turns = asyncio.Semaphore(TURNS)
        """For bodies of requests that are large once they are decoded."""
        self.sessions: set[DirectSession] = set()
        self._store = store
        self._settings = settings
        self._merge = merge
        self._clock = clock
        self._running = running
        self._opening: asyncio.Task[None] | None = None
        self._storing: asyncio.Task[None] | None = None
        self._refused: Counter[tuple[str, str]] = Counter()
        self._keys: set[int] = set()
        self._told: Tally = Counter()
        self._used_at = running()

    def __repr__(self) -> str:
        return f"<Project {self.number} {self.rounds if self.is_open else 'not open'}, {len(self.sessions)} sessions>"

    # ---- for who has connections ----

    def connected(self, origin: str, link: Link, kept: KeptSession | None = None) -> DirectSession:
        """A connection is there: see `inputs.Intake`."""
        return self.enter(DirectSession(self, origin, link))

    def enter(self, session: DirectSession) -> DirectSession:
        self.sessions.add(session)
        self._used_at = self._running()
        return session

    def admit(self, size: int) -> float:
        """Let in a message of `size` bytes: 0, or the seconds after which its sender is to come again."""
        return self.allowance.admit(size, self._running())

    def owes(self, size: int) -> float:
        """Whether what was let in may still be taken, now that it is its turn: as `admit`."""
        return self.allowance.owes(size, self._running())

    def use_key(self, key: int) -> None:
        """A key of the project was shown: that is noted with the next round."""
        self._keys.add(key)

    @property
    def blocked(self) -> str | None:
        """Why nothing can be stored at the moment, or None."""
        return self.rounds.blocked if self.is_open else None

    # ---- for sessions ----

    @property
    def is_open(self) -> bool:
        return self._storing is not None

    async def know(self, name: str) -> None:
        """Have the project open, and the client of this name known if it is stored. Raises ``Busy``, ``DiskFailed``."""
        await self.open()
        if not self.clients.knows(name):
            found = await self._store.keys.read(storing.find_client, self.number, name)
            if found is not None and not self.clients.knows(name) and self.clients.has_room:
                self.clients.adopt(found, self._running())

    def has_room(self, name: str) -> bool:
        """Whether one more client can be known. Raises nothing; counts who is turned away."""
        if self.clients.knows(name) or self.clients.has_room:
            return True
        self.allowance.refused["clients"] += 1
        return False

    def refuse(self, error: FrameError, origin: str) -> None:
        """Count a refused frame of a connection that belongs to nobody yet."""
        self._refused[origin, error.reason] += 1
        self._open_soon()

    # ---- its life ----

    async def open(self) -> None:
        """Have what is stored of the project here. Raises ``Busy`` or ``DiskFailed``."""
        if not self.is_open:
            await asyncio.shield(self._open_soon())

    def _open_soon(self) -> "asyncio.Task[None]":
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(), name=f"open project {self.number}")
            self._opening.add_done_callback(self._opened)
        return self._opening

    async def _open(self) -> None:
        if self.is_open:
            return
        now_ms, agent = self._clock(), secrets.token_hex(16)
        begin = self._store.writer.submit(lambda db: storing.begin_run(db, self.number, now_ms, agent))
        run = await asyncio.wrap_future(begin)
        core = make_core(Limits(max_series=self._settings.max_series), run.gauges, (run.epoch, 1))
        most = self._settings.max_clients
        self.clients = Clients(run.clients, self._running(), most=most, kind=DirectClient)

        def put(round_: Round) -> "asyncio.Future[None]":
            now_ms = self._clock()
            return asyncio.wrap_future(
                self._store.writer.submit(
                    lambda db: storing.store_round(db, self.number, run, round_, now_ms, self._merge)
                )
            )

        self.rounds = Rounds(
            core,
            self.allowance,
            put,
            self._stored,
            self._failed,
            clock=self._clock,
            running=asyncio.get_running_loop().time,
        )
        self.intake = DirectIntake(core, self.clients, self.rounds, clock=self._clock, running=self._running)
        self.intake.know_sources(run.sources)
        self._storing = asyncio.create_task(self.rounds.run(), name=f"rounds of project {self.number}")

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()  # whoever waited has it

    def tick(self) -> None:
        """Once a second: gaps, silence, what changed and what is counted go to the store."""
        if not self.is_open:
            return
        now = self._running()
        before = {client: client.state.gap for client in self.clients if client.holes}
        self.clients.tick(now, {})
        for client, gap in before.items():
            if client.state.gap != gap and isinstance(client, DirectClient):
                self.rounds.recount(client)
        self.clients.forget_refusals(REFUSALS_MOST)
        chores = self.rounds.chores
        if chores.changed or chores.folded or self.rounds.storing_chores:
            return  # those come first: nobody may be folded twice
        chores.keys |= self._keys
        self._keys.clear()
        changed = self.clients.take_changed(CHANGED_MOST)
        chores.changed = [client for client in changed if isinstance(client, DirectClient)]
        chores.folded = [state for state in self.clients.to_fold(now) if isinstance(state, DirectState)]
        refused = Counter(
            {(source, reason): n for source, by in self.intake.refused.items() for reason, n in by.items()}
        )
        self._count("frames", refused + self._refused)
        self._count("later", Counter({("", reason): n for reason, n in self.allowance.refused.items()}))
        self.rounds.remind()

    @property
    def is_idle(self) -> bool:
        """Nothing is here that the store does not know, and nobody was heard of lately."""
        if self.sessions or self._opening is not None or self._running() - self._used_at < IDLE_S:
            return False
        return not self.is_open or (self.rounds.idle and not len(self.clients))

    async def close(self, seconds: float = 0.0) -> bool:
        """Store what waits within so many seconds, then let go. False: it did not go; its senders still hold it."""
        if self._opening is not None:
            await asyncio.wait([self._opening])
        if self._storing is None:
            return True
        self.tick()
        done = await self.rounds.flush(seconds)
        self._storing.cancel()
        await asyncio.wait([self._storing])
        self._storing = None
        return done

    def _count(self, book: str, counts: Counter[tuple[str, str]]) -> None:
        """Add to the books what these running counts grew by."""
        for (source, reason), n in counts.items():
            if grown := n - self._told[book, source, reason]:
                self.rounds.chores.tally[book, source, reason] += grown
                self._told[book, source, reason] = n

    def _stored(self, round_: Round) -> None:
        self._used_at = self._running()
        if round_.folded:
            self.clients.folded(round_.folded)
        for client in {**round_.uptos, **round_.covered}:
            for session in list(client.sessions):
                session.acknowledge()

    def _failed(self) -> None:
        for session in list(self.sessions):
            session.failed()
