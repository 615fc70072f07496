"""Everything between a call and the socket. One lock, tried and never waited for; whoever holds it works for all.

A durable frame goes into `pending`, and then the caller tries the lock. If it gets it, it numbers and writes what is
pending; if not, the holder does, who looks into `pending` again after it has let go, or the thread, which is woken: so
nothing is left behind, and a signal handler that interrupts the holder merely leaves its frame with it. A caller gives
a holder in another thread a moment to do so before it returns. Points go into their own deque and are packed by the
thread every TICK, or by a caller when many wait.
"""

from __future__ import annotations

import os
import time
from collections import deque
from contextlib import suppress

from sendoff import guard
from sendoff.metrics import VALUE_LIMIT, Series, member, number, series
from sendoff.receipt import DROPPED
from sendoff.sending import worker
from sendoff.sending.buffer import ADMISSION, OVERHEAD, Parcel, Waiting
from sendoff.sending.lock import TryLock
from sendoff.sending.points import EAGER, LIMIT, PORTION, Points
from sendoff.tally import INTERNAL, Tally

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sendoff.receipt import Receipt
    from sendoff.sending.routes import Route

    Watch = tuple[tuple[int, bool], ...]

TICK = 0.1
"""Seconds between two packings while points come in."""
APART_TICK = 1.0
"""The same while there is no connection: the points of a frame lie at most this far apart, as it says one time for
all.
"""
CALLER_FRAMES = 32
"""Frames that one call writes at most, its own and those found waiting."""
MOMENTS = (0, 0.00002, 0.00005, 0.0001, 0.0002, 0.0004, 0.0008)
"""Seconds that a caller gives another thread to write its frame, once for each time that one is inside: 1.6 ms at most,
all together. Where other threads compute, each look also waits for the interpreter's lock, as every write does; that is
when the other thread needs it most, so no clock cuts this short.
"""
THREAD_FRAMES = 4_096
THREAD_RETRY = 5.0
"""Seconds until a thread that did not come to run is tried again: starting it may fail, or be interrupted."""
THREAD_TRIES = 3
"""Threads that are started at most. Where they never run (uWSGI without `--enable-threads`) each try leaves one behind.
"""


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


class Outbox:
    """One process's way out. After a fork the child makes a new one."""

    def __init__(
        self, make_route: Callable[[Tally], Route], limit: int, rng: Callable[[], float], linger: float
    ) -> None:
        self.pid = os.getpid()
        self.tally = Tally()
        self.lock = TryLock()
        self.points = Points()
        self.pending: deque[Durable] = deque()
        self.waiting = Waiting()
        self.route = make_route(self.tally)
        self.channel = self.route.channel
        self.waker = worker.Waker()
        self.ended = False
        self._rng = rng
        self.linger = linger
        self._limit = limit
        self._closing = False
        self._pending_bytes = 0
        """About how many bytes are pending: threads that race may lose an addition, and whoever empties `pending`
        sets it right.
        """
        self._waited_for: object = None
        self._asleep = True
        self._watched: Watch = ()
        self.thread_runs = False
        self.closes_with_process = False
        """Whether `multiprocessing` was asked to close this at the end of its child."""
        self._thread_tries = THREAD_TRIES
        self._thread_after = 0.0
        self._packed_at = 0.0
        self._fresh: deque[Parcel] = deque()
        self._turned: tuple[float | None, Watch] = (None, ())
        self._last_stats: dict[str, object] = {}

    # From here on: on the callers' threads.

    def point(self, line: Series | None, value: object) -> None:
        """Count one point; no lock, and no system call unless the thread must be woken."""
        if self._closing:
            self.tally.one("metric.closed")
            return
        if line is None:
            self.tally.one("metric.invalid")
            return
        try:
            kind = type(value)
            if not ((kind is int or kind is float) and -1e15 < value < 1e15 and line.kind != "s"):  # type: ignore[operator]
                value = self._checked(line, value)
                if value is None:
                    return
            if line.rate < 1 and self._rng() >= line.rate:
                return
            queue = self.points.queue
            if len(queue) >= LIMIT:
                self.tally.one("metric.buffer_full")
            else:
                queue.append((line, value))  # type: ignore[arg-type]
            if self._asleep:
                self._wake()
            if len(queue) >= EAGER:
                self._enter(pack=True)
        except RecursionError:
            self.tally.full_stack += 1
        except Exception as error:  # noqa: BLE001 - nothing may reach the application
            guard.keep(error, self.tally)

    def named(self, name: str, kind: str, value: object, rate: float, tags: dict[str, object]) -> None:
        """Count one point of a series that is not bound."""
        try:
            self.point(series(name, kind, rate, tags), value)
        except RecursionError:
            self.tally.full_stack += 1
        except Exception as error:  # noqa: BLE001 - nothing may reach the application
            guard.keep(error, self.tally)

    def _checked(self, line: Series, value: object) -> int | float | str | None:
        if line.kind == "s":
            text = member(value)
            if text is None:
                self.tally.one("metric.invalid")
            return text
        try:
            good = number(value)
        except Exception:  # noqa: BLE001 - whatever a foreign `__float__` raises, this is no number
            good = None
        if good is None or (line.kind != "g" and abs(good) / line.rate > VALUE_LIMIT):
            self.tally.one("metric.invalid")
            return None
        return good

    def submit(self, durable: Durable) -> bool:
        """Number, keep and write a durable frame now. False if it was dropped, which has been counted then."""
        if self._closing:
            self.tally.one("event.closed")
            durable.drop("closed")
            return False
        size = len(durable.payload) + ADMISSION
        if self._pending_bytes + size + self.channel.held.bytes + self.waiting.bytes > self._limit:
            self.tally.one("event.buffer_full")
            durable.drop("buffer_full")
            return False
        self._pending_bytes += size
        self.pending.append(durable)
        try:
            if not self._enter(pack=False):
                self._see_written(durable)
            self._notify()
        except RecursionError:
            self.tally.full_stack += 1
        except Exception as error:  # noqa: BLE001 - whatever went wrong in writing, the frame is kept
            guard.keep(error, self.tally)
        return not durable.dropped

    def _enter(self, pack: bool) -> bool:
        """Work if nobody does; see the head of this file for why nothing is left behind. False if somebody did."""
        if not self.lock.run(self._serve_caller, pack):
            return False
        while self.pending and self.lock.run(self._serve_caller, pack):
            pass
        return True

    def _see_written(self, durable: Durable) -> None:
        """Another thread is inside and will write it. Give it a moment to, as `os._exit` may be what comes next."""
        holder = self.lock.holder
        if holder is not None and holder is self._waited_for:
            return  # somebody has waited for this one, in vain
        sleep = worker.native("time", "sleep")
        for pause in MOMENTS:
            if self.lock.mine or durable.dropped or 0 < durable.seq <= self.channel.held.whole:
                return
            sleep(pause)  # a thread that has just let go of the interpreter's lock needs as long to take it
            if self._enter(pack=False):
                return
        self._waited_for = holder

    def _notify(self) -> None:
        """Wake the thread if what it should watch has changed since it fell asleep, or if there is none yet."""
        stream = self.channel.stream
        watch = () if stream is None else stream.watch()
        unwritten = stream is None or self.pending or self.waiting.parcels or self.channel.held.to_write
        if not self.thread_runs or watch != self._watched or (self._asleep and unwritten):
            self._watched = watch
            self._wake()

    def _wake(self) -> None:
        if self.thread_runs:
            self._asleep = False
            self.waker.wake()
            return
        now = time.monotonic()
        if now < self._thread_after or not self._thread_tries:
            return
        self._thread_after = now + THREAD_RETRY
        with suppress(RuntimeError, OSError):  # no thread or descriptor to be had, or the end is near: callers write
            worker.start(self)
            self._thread_tries -= 1

    # From here on: for the holder of the lock.

    def _serve_caller(self, pack: bool) -> None:
        self._work(CALLER_FRAMES, PORTION if pack else 0)
        if self.channel.held.bytes > self._limit // 2:
            self.channel.receive(time.monotonic())  # where the thread does not run, somebody must

    def _work(self, at_most: int, pack: int) -> None:
        if self.ended:
            self._refuse_pending()
            return
        now, wall_ms = time.monotonic(), time.time_ns() // 1_000_000
        self._take_pending()
        self._keep_fresh()
        if pack:
            self._pack(now, wall_ms, pack)
        self.route.send(now, wall_ms, self.waiting, at_most)

    def _take_pending(self) -> None:
        while self.pending:
            durable = self.pending[
                0
            ]  # taken out last: an interruption leaves it twice, under one id, rather than not at all
            size = len(durable.payload) + ADMISSION
            if self.channel.held.bytes + self.waiting.bytes + size > self._limit:
                durable.drop("buffer_full")
                self.tally.many("event.buffer_full", 1)
            else:
                durable.seq = self.channel.held.next_seq
                self.channel.add(durable.kind, durable.event_id, durable.t, durable.payload, durable.receipt)
            self.pending.popleft()
        self._pending_bytes = 0

    def _refuse_pending(self) -> None:
        """For threads that had looked just before the end."""
        while self.pending:
            self.pending[0].drop("closed")
            self.tally.many("event.closed", 1)
            self.pending.popleft()

    def _pack(self, now: float, wall_ms: int, at_most: int) -> None:
        self._packed_at = now
        payloads, dropped = self.points.pack(self.route.room(), at_most)
        fresh = deque([Parcel(payload, points, wall_ms) for payload, points in payloads])
        self._fresh, self.points.taken = fresh, []  # no call between the two, so no interruption either
        if dropped:
            self.tally.many("metric.too_long", dropped)
        self._keep_fresh()

    def _keep_fresh(self) -> None:
        """Move what was packed to what waits, as far as there is room."""
        while self._fresh:
            parcel = self._fresh[0]
            used = self.channel.held.bytes + self.waiting.bytes
            if self.waiting.bytes > self._limit // 4 or used + len(parcel.payload) + OVERHEAD > self._limit:
                self.tally.many("metric.buffer_full", parcel.points)
            else:
                self.waiting.add(parcel)
            self._fresh.popleft()

    # From here on: on the client's own thread.

    def turn(self) -> tuple[float | None, Watch]:
        """One round of the thread. Returns how long to sleep at most, and what to watch: descriptors, and whether for
        writing too.
        """
        self.route.prepare()  # may look up a name, and so must not be done under the lock
        if not self.lock.run(self._turn):
            return 0.002, ()
        timeout, watch = self._turned
        if self.pending or (self._asleep and self.points.queue):
            self._asleep = False
            timeout = 0.0 if self.pending else TICK
        return timeout, watch

    def _turn(self) -> None:
        now = time.monotonic()
        self.channel.receive(now)
        due = self.route.connected or now - self._packed_at >= APART_TICK or len(self.points.queue) >= EAGER
        self._work(THREAD_FRAMES, LIMIT if due else 0)
        self.route.report(now)
        timeout = self._next(now)
        stream = self.channel.stream
        self._watched = () if stream is None else stream.watch()
        self._asleep = timeout is None or timeout > TICK
        self._turned = (timeout, self._watched)

    def _next(self, now: float) -> float | None:
        """Seconds until something is due; None: only when somebody calls, or the agent answers."""
        waits = []
        if self.points.queue or self.points.taken:
            waits.append(TICK)
        if (
            self.waiting.parcels
            or self.channel.held.to_write
            or (self.channel.stream is None and (self.channel.held.sent or self.waiting.sent))
        ):
            soon = max(self.channel.retry_at - now, 0.001) if self.channel.stream is None else 0.001
            waits.append(TICK if self.channel.busy else soon)
        if self.route.report_due:
            waits.append(TICK)
        stream = self.channel.stream
        due = (self.route.due_at, None if stream is None else stream.due_at)
        waits.extend(max(due_at - now, 0.001) for due_at in due if due_at is not None)
        return min(waits) if waits else None

    # From here on: at the end.

    def settled(self) -> bool:
        """Whether nothing is on its way: no point unsent, no event unacknowledged."""
        points = self.points
        return not (
            self.pending
            or points.queue
            or points.taken
            or self._fresh
            or self.waiting.parcels
            or self.waiting.sent
            or self.channel.held.unfinished
            or self.channel.busy
        )

    def flush(self, timeout: float, *, patient: bool = True) -> bool:
        """Wait until everything is settled, at most `timeout` seconds. Waits in short sleeps, so greenlets go on.

        Not `patient`: gives up early where no agent ever was, or where only metrics wait and there is no connection.
        """
        deadline = time.monotonic() + timeout
        pause = 0.0005
        while True:
            inside = self.lock.run(self._flush_once)
            if inside and self.settled():
                return True
            if inside and not patient and self._hopeless():
                return False
            left = deadline - time.monotonic()
            if not left > 0:  # NaN is no time either
                return False
            time.sleep(min(pause, left))
            pause = min(pause * 2, 0.02)

    def confirm(self) -> None:
        """For who waits for one event: write what is to be written, take what the agent has said."""
        try:
            self.lock.run(self._confirm)
        except RecursionError:
            self.tally.full_stack += 1
        except Exception as error:  # noqa: BLE001 - nothing may reach the application
            guard.keep(error, self.tally)

    def _confirm(self) -> None:
        self._work(THREAD_FRAMES, 0)
        self.channel.receive(time.monotonic())

    def _flush_once(self) -> None:
        self._work(THREAD_FRAMES, LIMIT)
        self.channel.receive(time.monotonic())

    def _hopeless(self) -> bool:
        return self.channel.absent or not (self.route.connected or self.channel.held.unfinished or self.pending)

    def close(self, timeout: float) -> None:
        """Flush, say bye, and end the thread. What was never written is counted as dropped."""
        if self._closing:
            return
        began = time.monotonic()
        self.flush(timeout, patient=False)
        self._closing = True
        for _ in range(50):
            if self.lock.run(self._end, max(0.0, timeout - (time.monotonic() - began))):
                break
            time.sleep(0.002)
        self.ended = True
        if self.thread_runs:
            self.waker.wake()
        else:
            self.waker.close()

    def _end(self, left: float) -> None:
        self._work(THREAD_FRAMES, LIMIT)
        self.tally.many("event.closed", self.channel.held.end())
        self.tally.many("metric.closed", self.waiting.points)
        self.route.end(left)
        self.ended = True

    def abandon(self) -> None:
        """In the child after a fork: close what was inherited, without a word."""
        self.ended = self._closing = True
        self.route.abandon()
        self.waker.close()

    def stats(self) -> dict[str, object]:
        """What happened so far; see `sendoff.stats`. Up to 20 ms old if the lock cannot be had."""
        for _ in range(20):
            if self.lock.run(self._take_stock):
                break
            time.sleep(0.001)
        return dict(self._last_stats)

    def _take_stock(self) -> None:
        channel = self.channel
        self._last_stats = {
            "client": channel.client,
            "connected": channel.stream is not None,
            "events": channel.held.next_seq - 1,
            "acked": channel.acked,
            "held": channel.held.unfinished,
            "held_bytes": channel.held.bytes,
            "resent": channel.resent,
            "refused": dict(channel.refused),
            "points": self.route.points_sent,
            "points_waiting": len(self.points.queue) + self.waiting.points,
            "dropped": self.tally.totals(),
            "connects": channel.connects,
            "internal_error": self.tally.read(INTERNAL) + self.tally.full_stack,
            "trouble": channel.trouble,
        }

    def __repr__(self) -> str:
        return f"Outbox(pid={self.pid}, channel={self.channel}, waiting={self.waiting}, points={self.points})"
