"""What whoever holds the client's lock does for all: number what is pending, pack what was counted, hand both to the
route, and say when there is something to do again.

Every step is ordered so that an exception raised by a signal handler in the middle leaves a thing twice, where that is
noticed and undone, rather than not at all. Time is passed in.
"""

from __future__ import annotations

import time
from collections import deque

from sendoff.receipt import DROPPED
from sendoff.sending.buffer import ADMISSION, OVERHEAD, Parcel, Waiting
from sendoff.sending.points import Points
from sendoff.sending.window import EMPTY, Window

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sendoff.receipt import Receipt
    from sendoff.sending.routes import Route
    from sendoff.tally import Tally

TICK = 0.1
"""Seconds between two packings while points come in, where nothing sums them up."""
LEAST_FOR_DISK = 0.1
"""Seconds that the spool may take to write the last events, however little is left for the end."""
BUSY_TICK = 1.0
"""Seconds between two looks at a connection of a direct route that takes nothing now: it says when it does."""


class Durable:
    """An event on its way into the buffer. `dropped` is its fate there, `receipt` what is to be told of it."""

    __slots__ = ("dropped", "event_id", "kind", "payload", "receipt", "seq", "t")

    def __init__(self, kind: str, event_id: str, t: int, payload: bytes, receipt: Receipt | None = None) -> None:
        self.kind = kind
        self.event_id = event_id
        self.t = t
        self.payload = payload
        self.receipt = receipt
        self.seq = 0
        self.dropped = False

    def drop(self, reason: str) -> None:
        """It will not be sent."""
        self.dropped = True
        if self.receipt is not None:
            self.receipt.settle(DROPPED, reason)


class Holder:
    """All that waits in this process, and the route that it leaves by. Any thread may add to `pending` and to
    `points.queue`; all else is for the holder of the lock.
    """

    def __init__(self, route: Route, tally: Tally, limit: int) -> None:
        self.route = route
        self.channel = route.channel
        self.tally = tally
        self.limit = limit
        self.points = Points()
        self.window = Window(route.window)
        self.pending: deque[Durable] = deque()
        self.pending_bytes = 0
        """About how many bytes are pending: threads that race may lose an addition, and whoever empties `pending`
        sets it right.
        """
        self.waiting = Waiting()
        self.ended = False
        self.packed_at = 0.0
        self._fresh: deque[Parcel] = deque()

    def has_room(self, size: int) -> bool:
        """Whether an event of `size` bytes fits; for any thread."""
        return self.pending_bytes + size + self.channel.held.bytes + self.waiting.bytes <= self.limit

    def work(self, now: float, wall_ms: int, at_most: int, portion: int, *, flush: bool = False) -> None:
        """Number what is pending, pack up to `portion` of the points, send up to `at_most` frames. What is summed up
        before it is sent waits for its time to be over, unless this is to `flush`.
        """
        if self.ended:
            self._refuse()
            return
        self._take_pending()
        self._keep_fresh()
        if portion and self.window.length:
            self.window.gather(self.points, portion, now)
            if self.window.over(now) or (flush and self.window.size):
                self._pack(now, wall_ms, *self.window.pack(self.route.room()))
        elif portion:
            self._pack(now, wall_ms, *self.points.pack(self.route.room(), portion))
        self.route.send(now, wall_ms, self.waiting, at_most)

    def _take_pending(self) -> None:
        while self.pending:
            durable = self.pending[0]  # taken out last: an interruption leaves it twice, under one id, not nowhere
            size = len(durable.payload) + ADMISSION
            if self.channel.held.bytes + self.waiting.bytes + size > self.limit:
                durable.drop("buffer_full")
                self.tally.many("event.buffer_full", 1)
            else:
                durable.seq = self.channel.held.next_seq
                self.channel.add(durable.kind, durable.event_id, durable.t, durable.payload, durable.receipt)
            self.pending.popleft()
        self.pending_bytes = 0

    def _refuse(self) -> None:
        """For threads that had looked just before the end."""
        while self.pending:
            self.pending[0].drop("closed")
            self.tally.many("event.closed", 1)
            self.pending.popleft()
        while self.points.queue:
            self.tally.many("metric.closed", 1)
            self.points.queue.popleft()

    def _pack(self, now: float, wall_ms: int, payloads: list[tuple[bytes, int]], dropped: int) -> None:
        self.packed_at = now
        fresh = deque([Parcel(payload, points, wall_ms) for payload, points in payloads])
        points, window = self.points, self.window
        if window.length:
            self._fresh, window.kept = fresh, EMPTY  # no call between the two, so no interruption either
        else:
            self._fresh, points.taken = fresh, []
        if dropped:
            self.tally.many("metric.too_long", dropped)
        self._keep_fresh()

    def _keep_fresh(self) -> None:
        """Move what was packed to what waits, as far as there is room."""
        while self._fresh:
            parcel = self._fresh[0]
            used = self.channel.held.bytes + self.waiting.bytes
            if self.waiting.bytes > self.limit // 4 or used + len(parcel.payload) + OVERHEAD > self.limit:
                self.tally.many("metric.buffer_full", parcel.points)
            else:
                self.waiting.add(parcel)
            self._fresh.popleft()

    def due_in(self, now: float) -> float | None:
        """Seconds until something is due; None: only when somebody calls, or the peer answers."""
        channel, stream = self.channel, self.channel.stream
        waits = []
        if (self.points.queue or self.points.taken) and self.window.ends_at is None:
            waits.append(TICK)
        unsent = self.waiting.parcels or channel.held.to_write
        if unsent or (stream is None and (channel.held.sent or self.waiting.sent)):
            soon = max(channel.retry_at - now, 0.001) if stream is None else 0.001
            waits.append((BUSY_TICK if self.window.length else TICK) if channel.busy else soon)
        if self.route.report_due:
            waits.append(TICK)
        due = (self.route.due_at, self.window.ends_at, None if stream is None else stream.due_at)
        waits.extend(max(due_at - now, 0.001) for due_at in due if due_at is not None)
        return min(waits) if waits else None

    def settled(self) -> bool:
        """Whether nothing is on its way: no point unsent, no event unacknowledged, nor a point where that is told."""
        return not (self.pending or self._has_points() or self.channel.held.unfinished or self.channel.busy)

    def only_metrics(self) -> bool:
        """Whether no event is held."""
        return not (self.pending or self.channel.held.unfinished)

    def only_kept(self) -> bool:
        """Whether nothing is held but events in the spool, whose next user sends them."""
        keep = self.channel.keep
        return keep is not None and keep.written and not (keep.unkept or self.pending or self._has_points())

    def _has_points(self) -> bool:
        points, waiting = self.points, self.waiting
        return bool(points.queue or points.taken or self.window.size or self._fresh or waiting.parcels or waiting.sent)

    def end(self, left: float) -> None:
        """Say bye within about `left` seconds. What was never written, nor is in the spool, is counted as dropped."""
        began, keep, kept = time.monotonic(), self.channel.keep, set[int]()
        if keep is not None:
            keep.close(max(left, LEAST_FOR_DISK))
            kept = keep.kept()
        self.channel.unwrite()
        self.tally.many("event.closed", self.channel.held.end(kept))
        self.tally.many("metric.closed", self.waiting.points)
        self.route.end(max(0.0, left - (time.monotonic() - began)), bye=not kept)
        self.ended = True

    def stock(self) -> dict[str, object]:
        """What there is, for `sendoff.stats`."""
        channel = self.channel
        return {
            "client": channel.client,
            "route": self.route.scheme,
            "connected": self.route.connected,
            "events": channel.held.next_seq - 1,
            "acked": channel.acked,
            "held": channel.held.unfinished + len(self.pending),
            "held_bytes": channel.held.bytes + self.pending_bytes,
            "resent": channel.resent,
            "refused": dict(channel.refused),
            "points": self.route.points_sent,
            "points_acked": channel.points_acked,
            "points_waiting": len(self.points.queue) + self.window.size + self.waiting.points,
            "connects": channel.connects,
            "trouble": channel.trouble or (channel.keep.trouble if channel.keep is not None else ""),
            **({"spool": channel.keep.stats()} if channel.keep is not None else {}),
        }

    def __repr__(self) -> str:
        return f"Holder(channel={self.channel}, waiting={self.waiting}, points={self.points}, window={self.window})"
