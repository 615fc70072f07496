"""Everything between a call and the socket. One lock, tried and never waited for; whoever holds it works for all
(`holder.py`).

A durable frame goes into `pending`. To a socket on this machine the caller writes it: it tries the lock; if it gets it,
it numbers and writes what is pending; if not, the holder does, who looks into `pending` again after it has let go, or
the thread, which is woken: so nothing is left behind, and a signal handler that interrupts the holder merely leaves its
frame with it. A caller gives a holder in another thread a moment to do so before it returns. On a direct route
(`direct.py`) the frame is left to the thread, and the caller neither takes the lock nor touches a socket but the one
that wakes the thread if that sleeps: so a call costs the same whatever the peer does. Where no thread is to be had
callers write there, too. Points go into their own deque and are packed by the thread, or by a caller when many wait.
"""

from __future__ import annotations

import os
import time

from sendoff import guard
from sendoff.metrics import VALUE_LIMIT, Series, member, number, series
from sendoff.sending import worker
from sendoff.sending.buffer import ADMISSION
from sendoff.sending.holder import TICK, Durable, Holder
from sendoff.sending.lock import TryLock
from sendoff.sending.points import EAGER, LIMIT, PORTION
from sendoff.tally import INTERNAL, Tally

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sendoff.sending.routes import Route

    Watch = tuple[tuple[int, bool], ...]

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
THREAD_COMES = 0.5
"""Seconds that a thread may take to come to run, before callers do its work."""
THREAD_LEAVES = 0.5
"""Seconds that the end waits for the thread to come out: thousands of frames, encrypted or compressed, take it a tenth
of that.
"""
THREAD_TRIES = 3
"""Threads that are started at most. Where they never run (uWSGI without `--enable-threads`) each try leaves one behind.
"""


class Outbox:
    """One process's way out. After a fork the child makes a new one."""

    def __init__(
        self, make_route: Callable[[Tally], Route], limit: int, rng: Callable[[], float], linger: float
    ) -> None:
        self.pid = os.getpid()
        self.tally = Tally()
        self.lock = TryLock()
        self.route = make_route(self.tally)
        self.holder = Holder(self.route, self.tally, limit)
        self.points = self.holder.points
        self.pending = self.holder.pending
        self.channel = self.route.channel
        self.waker = worker.Waker()
        self.thread_runs = False
        self.closes_with_process = False
        """Whether `multiprocessing` was asked to close this at the end of its child."""
        self.linger = linger
        self.ended = False
        self._closing = False
        self._rng = rng
        self._hands_over = self.route.hands_over
        self._waited_for: object = None
        self._asleep = True
        """Whether the thread would sleep on while points wait."""
        self._in_poll = True
        """Whether the thread may be asleep now."""
        self._watched: Watch = ()
        self._thread_tries = THREAD_TRIES
        self._thread_after = 0.0
        self._alone_from = float("inf")
        self._turned: tuple[float | None, Watch] = (None, ())
        self._last_stats: dict[str, object] = {}
        self._take_stock()  # for who asks while the lock is held for longer than that waits

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
                self._crowded()
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
        """Number, keep and write a durable frame now, or hand it over to the thread. False if it was dropped, which has
        been counted then.
        """
        if self._closing:
            self.tally.one("event.closed")
            durable.drop("closed")
            return False
        size = len(durable.payload) + ADMISSION
        if not self.holder.has_room(size):
            self.tally.one("event.buffer_full")
            durable.drop("buffer_full")
            return False
        self.holder.pending_bytes += size
        self.pending.append(durable)
        try:
            if self._hands_over and not self.ended and not self._alone():
                if self._in_poll:
                    self._wake()
            else:
                if not self._enter(pack=False):
                    self._see_written(durable)
                self._notify()
        except RecursionError:
            self.tally.full_stack += 1
        except Exception as error:  # noqa: BLE001 - whatever went wrong in writing, the frame is kept
            guard.keep(error, self.tally)
        return not durable.dropped

    def _crowded(self) -> None:
        """Many points wait."""
        if not self._hands_over or self._alone():
            self._enter(pack=True)
        elif self._in_poll:
            self._wake()

    def _alone(self) -> bool:
        """Whether there is no thread to hand anything over to, nor one about to run."""
        return not self.thread_runs and time.monotonic() >= self._alone_from

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
        unwritten = stream is None or self.pending or self.holder.waiting.parcels or self.channel.held.to_write
        if not self.thread_runs or watch != self._watched or (self._asleep and unwritten):
            self._watched = watch
            self._wake()

    def _wake(self) -> None:
        if self.thread_runs:
            self._asleep = self._in_poll = False
            self.waker.wake()
            return
        now = time.monotonic()
        if now < self._thread_after or not self._thread_tries:
            return
        self._thread_after = now + THREAD_RETRY
        self._alone_from = min(self._alone_from, now + THREAD_COMES)
        try:
            worker.start(self)
            self._thread_tries -= 1
        except (RuntimeError, OSError):  # no thread or descriptor to be had, or the end is near: callers write
            self._alone_from = now

    # From here on: for the holder of the lock.

    def _serve_caller(self, pack: bool) -> None:
        self._work(CALLER_FRAMES, PORTION if pack else 0)
        if self.channel.held.bytes > self.holder.limit // 2 or self._hands_over:
            self.channel.receive(time.monotonic())  # where the thread does not run, somebody must

    def _work(self, at_most: int, portion: int, *, flush: bool = False) -> None:
        self.holder.work(time.monotonic(), time.time_ns() // 1_000_000, at_most, portion, flush=flush)

    # From here on: on the client's own thread.

    def turn(self) -> tuple[float | None, Watch]:
        """One round of the thread. Returns how long to sleep at most, and what to watch: descriptors, and whether for
        writing too.
        """
        self._in_poll = False
        if self.channel.keep is not None:
            self.channel.keep.start()  # not only for events: dead processes may have left some
        self.route.prepare()  # may look up a name, and so must not be done under the lock
        if not self.lock.run(self._turn):
            return 0.002, ()
        timeout, watch = self._turned
        self._in_poll = True
        if self.pending or (self._asleep and self.points.queue):
            self._asleep = self._in_poll = False
            timeout = 0.0 if self.pending or self._hands_over else TICK
        return timeout, watch

    def _turn(self) -> None:
        now = time.monotonic()
        self.channel.receive(now)
        due = self._hands_over or self.route.connected or len(self.points.queue) >= EAGER
        due = due or now - self.holder.packed_at >= APART_TICK
        self._work(THREAD_FRAMES, LIMIT if due else 0)
        self.route.report(now)
        timeout = self.holder.due_in(now)
        stream = self.channel.stream
        self._watched = () if stream is None else stream.watch()
        if self._hands_over:
            self._asleep = self.holder.window.ends_at is None
        else:
            self._asleep = timeout is None or timeout > TICK
        self._turned = (timeout, self._watched)

    # From here on: at the end.

    def flush(self, timeout: float, *, patient: bool = True) -> bool:
        """Wait until everything is settled, at most `timeout` seconds. Waits in short sleeps, so greenlets go on.

        Not `patient`: gives up early where no agent ever was, or where only metrics wait and there is no connection.
        """
        deadline = time.monotonic() + timeout
        pause = 0.0005
        while True:
            if self._alone():
                self.route.prepare()
            inside = self.lock.run(self._flush_once)
            if inside and self._hands_over:
                self._notify()  # a connection made here is the thread's to watch
            if inside and self.holder.settled():
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
            if self._alone():
                self.route.prepare()
            if self.lock.run(self._confirm) and self._hands_over:
                self._notify()
        except RecursionError:
            self.tally.full_stack += 1
        except Exception as error:  # noqa: BLE001 - nothing may reach the application
            guard.keep(error, self.tally)

    def _confirm(self) -> None:
        self._work(THREAD_FRAMES, 0)
        self.channel.receive(time.monotonic())

    def _flush_once(self) -> None:
        self._work(THREAD_FRAMES, LIMIT, flush=True)
        self.channel.receive(time.monotonic())

    def _hopeless(self) -> bool:
        if self.channel.absent or self.route.connected:
            return self.channel.absent
        # a gateway may be away for a moment, so points wait for it, but not what the next process sends
        return self.holder.only_kept() if self._hands_over else self.holder.only_metrics()

    def close(self, timeout: float) -> None:
        """Flush, say bye, and end the thread. What was never written is counted as dropped."""
        if self._closing:
            return
        began = time.monotonic()
        self.flush(timeout, patient=False)
        self._closing = True
        last = time.monotonic() + THREAD_LEAVES
        while not self.lock.run(self._end, max(0.0, timeout - (time.monotonic() - began))):
            if time.monotonic() >= last:
                break
            time.sleep(0.002)
        self.ended = self.holder.ended = True
        self.lock.run(self._work, 0, 0)  # for threads that had looked just before; who comes later does it themselves
        if self.thread_runs:
            self.waker.wake()
        else:
            self.waker.close()

    def _end(self, left: float) -> None:
        self._work(THREAD_FRAMES, LIMIT, flush=True)
        self.holder.end(left)
        self.ended = True

    def abandon(self) -> None:
        """In the child after a fork: close what was inherited, without a word."""
        self.ended = self._closing = self.holder.ended = True
        self.route.abandon()
        if self.channel.keep is not None:
            self.channel.keep.abandon()
        self.waker.close()

    def stats(self) -> dict[str, object]:
        """What happened so far; see `sendoff.stats`. Up to 20 ms old if the lock cannot be had."""
        for _ in range(20):
            if self.lock.run(self._take_stock):
                break
            time.sleep(0.001)
        return dict(self._last_stats)

    def _take_stock(self) -> None:
        if self.holder.ended:
            self._work(0, 0)  # who had looked just before the end may have left something since
        self._last_stats = {
            **self.holder.stock(),
            "dropped": self.tally.totals(),
            "internal_error": self.tally.read(INTERNAL) + self.tally.full_stack,
        }

    def __repr__(self) -> str:
        return f"Outbox(pid={self.pid}, {self.holder})"
