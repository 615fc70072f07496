"""The way out without an agent: everything on one connection of ZeroMQ or HTTP, whose receiver says what it has stored,
events and points. Also the way to an agent over ZeroMQ, which speaks the same.

What is different from a socket beside the app (`routes.py`): what was sent is kept until it is stored; a network lies
between, so nothing but a refusal is held against a frame, and the waits between two tries grow longer; and a host's
name must be looked up, which may take seconds and is done by the client's own thread, without the lock.
"""

from __future__ import annotations

import _socket
import time

from sendoff.sending.channel import Channel
from sendoff.sending.contract import Gone
from sendoff.sending.routes import STREAM_ROOM, farewell, report
from sendoff.sending.udp import look_up, numeric

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sendoff.sending.buffer import Waiting
    from sendoff.sending.contract import Opener, Stream
    from sendoff.settings import Address
    from sendoff.tally import Tally

LONGEST_WAIT = 30.0
"""Seconds at most between two tries to reach a gateway; half of it on average."""
LOCAL_LONGEST_WAIT = 1.0
"""The same on this machine."""
LOOK_UP_EVERY = 60.0
"""Seconds after which the host's name is looked up again, if a connection is to be made."""
FAREWELL = 1.0
"""Seconds at most that the last words may take."""
NETWORK = ("zmq+curve", "https", "http")
WINDOWS = {"zmq+curve": 1.0, "https": 2.0, "http": 2.0}
"""Seconds for which points are summed up before they are sent: the more, the more a frame or a request costs."""
LOCAL_WINDOW = 0.1
"""The same to an agent on this machine."""


def make_opener(address: Address, linger: float) -> Opener:
    """What makes connections to `address`. Raises `SettingError` where something is missing that it needs."""
    if address.scheme.startswith("zmq"):
        from sendoff.sending.zmq import ZmqOpener

        return ZmqOpener(address, linger)
    from sendoff.sending.https import HttpsOpener

    return HttpsOpener(address)


class DirectRoute:
    """Everything on one connection, which says what is stored."""

    hands_over = True

    def __init__(
        self,
        address: Address,
        opener: Opener,
        client: str,
        who: Mapping[str, str],
        pid: int,
        tally: Tally,
        rng: Callable[[], float],
    ) -> None:
        self.scheme = address.scheme
        self.window = WINDOWS.get(address.scheme, LOCAL_WINDOW)
        self._opener = opener
        self._host, self._port = opener.reaches
        network = address.scheme in NETWORK
        known = numeric(self._host) if self._host else ("", _socket.AF_UNIX)
        self._by_name = known is None
        self._places = [known] if known else []
        self._turn = 0
        self._by_requests = address.scheme in ("https", "http")
        self._looked_up_at = 0.0
        self._reported_at = 0.0
        self.channel = Channel(
            self._open,
            client,
            who,
            pid,
            tally,
            rng,
            longest_wait=LONGEST_WAIT if network else LOCAL_LONGEST_WAIT,
            patient=network,
            keeps_points=True,
        )

    def _open(self) -> Stream:
        """To the next of the host's addresses, so that one which does not answer is passed over."""
        if not self._places:
            raise Gone(self.channel.trouble)  # `prepare` has said why
        self._turn += 1 if self.channel.failures else 0
        return self._opener.open(*self._places[self._turn % len(self._places)])

    @property
    def connected(self) -> bool:
        """Whether a connection is there, was there until its orderly end, or was not tried yet."""
        channel = self.channel
        return channel.stream is not None or (not channel.failures and (channel.in_order or not channel.connects))

    @property
    def points_sent(self) -> int:
        """Points handed over so far."""
        return self.channel.n

    @property
    def report_due(self) -> bool:
        """Whether drops were counted that no frame has reported, and one could: over HTTP only with something else."""
        return not self._by_requests and self.channel.report_due

    @property
    def due_at(self) -> float | None:
        """When something is to be said though nobody calls: never."""
        return None

    def room(self) -> int:
        """Bytes for the lines of one frame."""
        return STREAM_ROOM

    def prepare(self) -> None:
        """Look the host's name up, if a connection may be made next. May take seconds: never on a caller's thread,
        unless that waits for us anyway.
        """
        self._opener.prepare()
        channel, now = self.channel, time.monotonic()
        old = not self._places or now - self._looked_up_at >= LOOK_UP_EVERY
        if (
            not self._by_name
            or not old
            or channel.stream is not None
            or (self._looked_up_at and now < channel.retry_at)
        ):
            return
        try:
            self._places = look_up(self._host, self._port)
        except OSError as error:
            channel.trouble = f"the name {self._host} is not found: {error}"
        self._looked_up_at = now

    def send(self, now: float, wall_ms: int, waiting: Waiting, at_most: int) -> None:
        """Hand over durable frames, then metrics, once it is known where to and how. A name that is not found is a
        connection that fails: there is a wait before the next try.
        """
        if (self._places or self._looked_up_at) and self._opener.ready:
            self.channel.pump(now, wall_ms, waiting, at_most)

    def report(self, now: float) -> None:
        """Report drops if nothing else has."""
        if self._by_requests:
            return
        self._reported_at = report(self.channel, now, self._reported_at)

    def end(self, left: float, *, bye: bool = True) -> None:
        """Say bye, and let go of everything. Not `bye`: somebody else will go on as this client."""
        if not bye:
            self.leave()
            return
        began = time.monotonic()
        farewell(self.channel, min(left, FAREWELL))
        self._opener.close(max(0.0, min(left, FAREWELL) - (time.monotonic() - began)))

    def leave(self) -> None:
        """Let go of everything without a word: there is more of this client's to say, for somebody else."""
        if self.channel.stream is not None:
            self.channel.stream.close()
            self.channel.stream = None
        self._opener.close(0.0)

    def abandon(self) -> None:
        """In the child after a fork: leave the parent's connection alone."""
        if self.channel.stream is not None:
            self.channel.stream.forget()
        self._opener.forget()
