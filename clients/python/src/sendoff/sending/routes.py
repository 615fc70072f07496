"""Which sockets carry what: a Unix socket everything, or UDP the metrics and TCP the events. One small contract; the
route to a gateway, over ZeroMQ or HTTP, is in `direct.py`.

Used by the holder of the client's lock, but for `prepare`, which the client's own thread calls without it.
"""

from __future__ import annotations

import time

from sendoff import frame
from sendoff.sending import udp
from sendoff.sending.buffer import Waiting
from sendoff.sending.channel import HELD_BACK_MS, Channel
from sendoff.sending.contract import Gone
from sendoff.sending.stream import SocketStream, open_tcp
from sendoff.sending.unix import open_unix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Protocol

    from sendoff.settings import Address
    from sendoff.tally import Tally

    class Route(Protocol):
        """What the outbox asks of a route."""

        channel: Channel
        scheme: str
        hands_over: bool
        """Whether callers leave everything to the thread."""
        window: float
        """Seconds for which points are summed up before they are sent; 0: they are sent one by one."""

        @property
        def connected(self) -> bool: ...
        @property
        def points_sent(self) -> int: ...
        @property
        def report_due(self) -> bool: ...
        @property
        def due_at(self) -> float | None: ...
        def room(self) -> int: ...
        def prepare(self) -> None: ...
        def send(self, now: float, wall_ms: int, waiting: Waiting, at_most: int) -> None: ...
        def report(self, now: float) -> None: ...
        def end(self, left: float, *, bye: bool = True) -> None: ...
        def abandon(self) -> None: ...


STREAM_ROOM = 32_768
"""Bytes of metric lines in one frame on a stream."""
UNIX_LONGEST_WAIT = 1.0
TCP_LONGEST_WAIT = 5.0
REPORT_EVERY = 1.0
"""Seconds between two frames that only report drops."""
SILENCE = 0.5
"""Seconds without points on a datagram socket after which it says how many there were, so that a loss at the very end
is seen as well. Said again after twice as long each time, as that datagram can be lost, too.
"""
SAYINGS = 4
LOOK_UP_EVERY = 60.0
"""Seconds after which a host given by name is looked up again."""
LOOK_UP_RETRY = 1.0
"""The same for one that was not found."""
FAREWELL = 0.25
"""Seconds at most that a TCP connection may take to be closed by the peer, so that our bye is not lost with a reset."""


_NOTHING = Waiting()
"""For a channel that carries no metrics. Never filled."""


class UnixRoute:
    """Everything on one connection."""

    scheme = "unix"
    hands_over = False
    window = 0.0

    def __init__(
        self, address: Address, client: str, who: Mapping[str, str], pid: int, tally: Tally, rng: Callable[[], float]
    ) -> None:
        self.channel = Channel(
            lambda: open_unix(address.path), client, who, pid, tally, rng, longest_wait=UNIX_LONGEST_WAIT
        )
        self._reported_at = 0.0

    @property
    def connected(self) -> bool:
        """Whether metrics can be written now."""
        return self.channel.stream is not None

    @property
    def points_sent(self) -> int:
        """Points written so far."""
        return self.channel.n

    @property
    def report_due(self) -> bool:
        """Whether drops were counted that no frame has reported, and one could."""
        return self.channel.report_due

    @property
    def due_at(self) -> float | None:
        """When something is to be said though nobody calls: never on a stream, which loses nothing in silence."""
        return None

    def room(self) -> int:
        """Bytes for the lines of one frame."""
        return STREAM_ROOM

    def prepare(self) -> None:
        """Nothing to look up."""

    def send(self, now: float, wall_ms: int, waiting: Waiting, at_most: int) -> None:
        """Write durable frames, then metrics."""
        self.channel.pump(now, wall_ms, waiting, at_most)

    def report(self, now: float) -> None:
        """Report drops if nothing else has."""
        self._reported_at = report(self.channel, now, self._reported_at)

    def end(self, left: float, *, bye: bool = True) -> None:
        """Say bye and close."""
        farewell(self.channel, 0.0)

    def abandon(self) -> None:
        """Close the descriptor without a word."""
        if self.channel.stream is not None:
            self.channel.stream.forget()


class UdpRoute:
    """Metrics by UDP, each socket its own client; events by TCP to the same host and port."""

    scheme = "udp"
    hands_over = False
    window = 0.0

    def __init__(
        self,
        address: Address,
        new_client: Callable[[], str],
        who: Mapping[str, str],
        pid: int,
        tally: Tally,
        rng: Callable[[], float],
    ) -> None:
        self._address = address
        self._new_client = new_client
        self._who = who
        self._tally = tally
        self._where = udp.numeric(address.host)
        self._by_name = self._where is None
        self._looked_up_at = 0.0
        self._datagrams: udp.Datagrams | None = None
        self._sent_before = 0
        self._reported = 0
        self._reported_at = 0.0
        self._points_at = 0.0
        self._said = SAYINGS
        self.channel = Channel(
            self._open, new_client(), who, pid, tally, rng, longest_wait=TCP_LONGEST_WAIT, reasons="event."
        )

    def _open(self) -> SocketStream:
        if self._where is None:
            raise Gone(f"the name {self._address.host} is not looked up yet")
        host, family = self._where
        return open_tcp(host, self._address.port, family)

    @property
    def connected(self) -> bool:
        """Whether a socket for metrics is there: datagrams need no connection."""
        return self._where is not None

    @property
    def points_sent(self) -> int:
        """Points that the kernel has taken."""
        return self._sent_before + (self._datagrams.n if self._datagrams is not None else 0)

    @property
    def report_due(self) -> bool:
        """Whether drops were counted that no frame has reported, and one could."""
        return self.channel.report_due or (self._datagrams is not None and self._reported != self._tally.version)

    @property
    def due_at(self) -> float | None:
        """When the number of points is to be said again, after a silence."""
        if self._datagrams is None or self._said >= SAYINGS:
            return None
        return self._points_at + SILENCE * ((2 << self._said) - 1)

    def room(self) -> int:
        """Bytes for the lines of one datagram: what the largest possible header leaves."""
        limit = self._datagrams.limit if self._datagrams is not None else udp.NETWORK
        header = frame.metrics("0" * 32, 2**53, b"", t=2**53, dropped=self._tally.totals("metric."), who=self._who)
        return max(limit - len(header) - 20, 256)

    def prepare(self) -> None:
        """Look the host's name up, at first and every minute. On the client's own thread only, as it may take
        seconds.
        """
        now = time.monotonic()
        if not self._by_name or (
            self._looked_up_at and now - self._looked_up_at < (LOOK_UP_EVERY if self._where else LOOK_UP_RETRY)
        ):
            return
        self._looked_up_at = now
        try:
            where = udp.look_up(self._address.host, self._address.port)[0]
        except OSError as error:
            self.channel.trouble = f"the name {self._address.host} is not found: {error}"
            self.channel.retry_at = now + LOOK_UP_RETRY  # also where only metrics wait; what waits is bounded
            return
        if where != self._where:
            self._where = where
            self._drop_socket()

    def _drop_socket(self) -> None:
        old, self._datagrams = self._datagrams, None
        if old is not None:
            self._sent_before += old.n
            self._say_bye(old)

    def _say_bye(self, sock: udp.Datagrams) -> None:
        if sock.n or self._reported != self._tally.version:
            sock.send(frame.bye(sock.client, 0, sock.n, self._tally.totals("metric.")))
        sock.close()

    def send(self, now: float, wall_ms: int, waiting: Waiting, at_most: int) -> None:
        """Send metrics as datagrams, then durable frames by TCP."""
        self._send_metrics(now, wall_ms, waiting, at_most)
        self.channel.pump(now, wall_ms, _NOTHING, at_most)

    def _send_metrics(self, now: float, wall_ms: int, waiting: Waiting, at_most: int) -> None:
        for _ in range(at_most):
            if not waiting.parcels or self._where is None:
                return
            if self._datagrams is None:
                host, family = self._where
                try:
                    self._datagrams = udp.Datagrams(host, self._address.port, family, self._new_client())
                except OSError:
                    self._tally.many("metric.send_failed", waiting.parcels[0].points)
                    waiting.done(waiting.parcels[0])
                    continue
            parcel = waiting.parcels[0]
            fate = self._send_one(parcel.payload, parcel.made if wall_ms - parcel.made > HELD_BACK_MS else None)
            if fate == udp.LATER:
                return
            if fate == udp.TAKEN:
                self._datagrams.n += parcel.points
                self._points_at, self._said = now, 0
            else:
                reason = "metric.agent_absent" if fate == udp.REFUSED else "metric.send_failed"
                self._tally.many(reason, parcel.points)
            waiting.done(parcel)

    def _send_one(self, payload: bytes, t: int | None) -> str:
        assert self._datagrams is not None
        version = self._tally.version
        sock = self._datagrams
        dropped = self._tally.totals("metric.") if version else {}
        fate = sock.send(frame.metrics(sock.client, sock.n, payload, t=t, dropped=dropped, who=self._who))
        if fate == udp.TAKEN:
            self._reported = version
        return fate

    def report(self, now: float) -> None:
        """Report drops of metrics in an empty datagram, drops of events on the stream. An empty datagram also says how
        many points there were, and so is sent only after a silence.
        """
        due_at = self.due_at
        if due_at is not None and now >= due_at:
            self._send_one(b"", None)
            self._said += 1
        if not self.report_due or now - self._reported_at < REPORT_EVERY:
            return
        silent = now - self._points_at >= SILENCE
        if self._datagrams is not None and silent and self._reported != self._tally.version:
            self._send_one(b"", None)
        elif not self.channel.report_due:
            return
        self._reported_at = now
        report(self.channel, now, now - REPORT_EVERY)

    def end(self, left: float, *, bye: bool = True) -> None:
        """Bye on both, with the last numbers."""
        if self._datagrams is not None:
            self._say_bye(self._datagrams)
        farewell(self.channel, min(left, FAREWELL))

    def abandon(self) -> None:
        """Close the descriptors without a word."""
        if self._datagrams is not None:
            self._datagrams.close()
        if self.channel.stream is not None:
            self.channel.stream.forget()


def report(channel: Channel, now: float, last: float) -> float:
    """Report drops if nothing else has, and the last time was not just now. Returns when that was."""
    if now - last < REPORT_EVERY:
        return last
    try:
        return now if channel.report() else last
    except Gone as gone:
        channel.lost(now, gone)
        return now


def farewell(channel: Channel, wait: float) -> None:
    """Say bye, and give the peer up to `wait` seconds to read it before the connection is closed."""
    began = time.monotonic()
    try:
        channel.say_bye(began)
        deadline = began + wait
        ended = False
        while wait and channel.stream is not None and time.monotonic() < deadline:
            if channel.stream.job is not None and channel.stream.go_on():
                channel.stream.job = None
            if channel.stream.job is None and not ended:
                channel.stream.end_writing()
                ended = True
            channel.stream.read()
            time.sleep(0.002)
    except Gone:
        pass  # closed by the peer, which is what was waited for
    if channel.stream is not None:
        channel.stream.close()
        channel.stream = None
