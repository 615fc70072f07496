"""The client's spool, for sending without an agent: events that no gateway has acknowledged yet, in a file, so that
they survive the process.

A disk may hang, and nothing on it can be written without waiting. So the spool has a thread of its own: whoever holds
the client's lock only appends to a deque (`add`) and says how far everything is settled (`settle`); the thread writes.
A disk that is slow, full or gone holds up neither callers nor sending: what cannot be written waits here, in order and
bounded, and is sent from memory meanwhile; what finds no room here is counted (`unkept`) and is sent all the same.

There is no fsync: what was written survives the death of the process, not a cut of the power.

Each process writes one file, which it holds locked; `kept.py` has its format, `folder.py` says who may touch it. Files
whose owner is dead are sent by an heir (`heir.py`), as the client that they belong to.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from contextlib import suppress

from sendoff.sending import worker
from sendoff.sending.folder import MAX_BYTES, OURS, Folder, Unusable, close_inherited, write_all
from sendoff.sending.heir import Heir
from sendoff.sending.kept import HEAD, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sendoff.sending.direct import DirectRoute
    from sendoff.sending.kept import Label

PORTION = 1_048_576
"""Bytes written at once."""
PROGRESS = 0.2
"""Seconds between two notes of how far everything is settled, while something is not."""
RETRY = 1.0
"""Seconds until a disk that refused is tried again; doubles up to LONGEST_RETRY."""
LONGEST_RETRY = 10.0
HANGS = 1.0
"""Seconds after which an operation that does not come back is called a trouble."""
LOOK_EVERY = 5.0
"""Seconds between two looks for files whose owner is dead, and by up to as many more at random."""
COMPACT = 1_048_576
"""Bytes of settled records, being more than half of the file, at which it is written anew without them."""
THREAD_TRIES = 3


class OwnFile:
    """The file of this process. `marks` has the number and the end of each frame in it that is not settled."""

    def __init__(self, folder: Folder, label: Label) -> None:
        """Make it. Raises `OSError`."""
        self._folder = folder
        self._label = label
        self._begins = self.end = len(label.to_bytes())
        self._settled_end = self.end
        self._room = 0
        self.marks: deque[tuple[int, int]] = deque()
        self._make_room(0)
        self.fd = folder.make(label.client, label.to_bytes())

    def _make_room(self, size: int) -> None:
        """Make sure that the folder may take `size` bytes more. Looks at it once per portion, so processes that write
        at the same time may go beyond its limit by one each. Raises `OSError`.
        """
        if self._room < size or not self._room:
            self._room = self._folder.room()
            if self._room < size + len(self._label.to_bytes()):
                raise Unusable(errno.ENOSPC, f"has {MAX_BYTES // 1_048_576} MiB in it, which is all it may have")
            self._room = min(self._room, PORTION)

    def append(self, batch: Collection[tuple[int, bytes]]) -> None:
        """Write frames. Raises `OSError`; what was written of them then counts as nothing, and is overwritten."""
        data = b"".join(record(number, frame) for number, frame in batch)
        self._make_room(len(data))
        end = self.end
        self._put(data)
        for number, frame in batch:
            end += HEAD + len(frame)
            self.marks.append((number, end))

    def _put(self, data: bytes) -> None:
        try:
            write_all(self.fd, data, self.end)
        except OSError:
            os.ftruncate(self.fd, self.end)
            raise
        self.end += len(data)
        self._room -= len(data)

    def settle(self, upto: int) -> bool:
        """Note that everything up to `upto` is settled. True if that was news. Raises `OSError`."""
        if not self.marks or self.marks[0][0] > upto:
            return False
        while self.marks and self.marks[0][0] <= upto:
            self._settled_end = self.marks.popleft()[1]
        if not self.marks:
            os.ftruncate(self.fd, self._begins)
            self.end = self._settled_end = self._begins
        elif self._settled_end - self._begins > max(COMPACT, self.end // 2):
            self.rewrite()
        else:
            self._put(record(upto))
        return True

    def rewrite(self) -> None:
        """Replace the file by one without what is settled. Raises `OSError`, and then the old one stays."""
        beginning = self._label.to_bytes()

        def fill(fd: int) -> None:
            at, to = self._settled_end, len(beginning)
            while at < self.end:
                data = os.pread(self.fd, min(PORTION, self.end - at), at)
                write_all(fd, data, to)
                at, to = at + len(data), to + len(data)

        new = self._folder.make(self._label.client, beginning, fill)
        old, self.fd = self.fd, new
        os.close(old)
        shift = self._settled_end - len(beginning)
        self.marks = deque((number, end - shift) for number, end in self.marks)
        self.end -= shift
        self._settled_end = self._begins

    def check(self) -> None:
        """Somebody may have deleted it: then write it anew. Raises `OSError`."""
        if not os.fstat(self.fd).st_nlink:
            self.rewrite()

    def close(self) -> None:
        """Let go of it, and delete it if there is nothing left in it."""
        fd, self.fd = self.fd, -1
        try:
            if not self.marks:
                self._folder.delete(self._label.client + OURS)
        finally:
            os.close(fd)


class Keep:
    """What one client asks of its spool. `limit`: bytes that may wait for the disk."""

    def __init__(
        self,
        path: str,
        label: Label,
        limit: int,
        make_route: Callable[[Label], DirectRoute],
        rng: Callable[[], float],
        busy: Callable[[], object],
    ) -> None:
        """`make_route` makes the way out for a client that is dead; `busy` says whether this one has something to
        write, which comes first.
        """
        self._path = path
        self._label = label
        self._limit = limit
        self._rng = rng
        self._folder = Folder(path)
        self._file: OwnFile | None = None
        self._queue: deque[tuple[int, bytes]] = deque()
        self._batch: deque[tuple[int, bytes]] = deque()
        self._added = self._taken = 0
        self._settled = 0
        self._asleep = True
        self._began_at = 0.0
        self._retry_at = 0.0
        self._retry = RETRY
        self._look_at = 0.0
        self._pause = PROGRESS
        self._tries = THREAD_TRIES
        self._try_at = 0.0
        self._problem = ""
        self.waker = worker.Waker()
        self.heir = Heir(path, label, make_route, busy)
        self._started = False
        self.runs = False
        self.unkept = 0
        """Events for which there was no room here, while the disk took nothing. They were sent from memory."""
        self.ended = False
        self.done = False
        """Whether the thread has let go of everything."""

    # From here on: for the holder of the client's lock.

    def add(self, number: int, frame: bytes) -> None:
        """Keep a frame that has just got its number."""
        if not self.runs:
            self.start()
        size = len(frame)
        if self._added - self._taken + size > self._limit:
            self.unkept += 1
            return
        self._queue.append((number, frame))
        self._added += size
        if self._asleep:
            self._asleep = False
            self.waker.wake()

    def settle(self, upto: int) -> None:
        """Every frame up to `upto` is acknowledged, refused or given up. The thread looks at this by itself."""
        self._settled = upto

    def start(self) -> None:
        """Start the thread, if it does not run and can be started. It may take a while to come to run."""
        now = time.monotonic()
        if self.runs or self.ended or not self._tries or now < self._try_at:
            return
        self._tries -= 1
        self._try_at = now + 5.0
        try:
            self.waker.open()
            worker.native("_thread", "start_new_thread")(_run, (self,))
            self._started = True
        except (RuntimeError, OSError) as error:
            self._problem = f"no thread can be started for it: {error}"

    def kept(self) -> set[int]:
        """The numbers of the frames that are in the file and not settled."""
        file = self._file
        for _ in range(10):
            try:
                return {number for number, _ in file.marks} if file is not None else set()
            except RuntimeError:  # the thread was writing just then
                continue
        return set()

    @property
    def written(self) -> bool:
        """Whether the file has everything that it was given."""
        return not self._queue and not self._batch

    @property
    def trouble(self) -> str:
        """What is wrong with it, or nothing."""
        began_at = self._began_at
        hangs = time.monotonic() - began_at if began_at else 0.0
        if hangs > HANGS:
            return f"the spool {self._path} has not answered for {hangs:.0f} s"
        return f"the spool {self._path} {self._problem}" if self._problem else self.heir.trouble

    def stats(self) -> dict[str, object]:
        """See `sendoff.stats`."""
        file = self._file
        return {
            "kept": len(file.marks) if file is not None else 0,
            "waiting": len(self._queue) + len(self._batch),
            "unkept": self.unkept,
            **self.heir.stats(),
        }

    def close(self, left: float) -> None:
        """Write what waits, and let go of the file; wait for that at most `left` seconds."""
        deadline = time.monotonic() + left
        self._retry_at = 0.0
        self.ended = True
        self.heir.stop()
        self.waker.wake()
        while (self._started and not self.done) or self.heir.runs:
            if time.monotonic() >= deadline:
                break
            time.sleep(0.001)

    def abandon(self) -> None:
        """In the child after a fork: leave the parent's files to the parent."""
        self.ended = self.done = True
        folder = ""
        for fd in (self._folder.fd, self.heir.folder.fd):
            try:
                folder = folder or (os.readlink(f"/proc/self/fd/{fd}") if fd >= 0 else "")
            except OSError:
                continue
        file, self._file = self._file, None
        known = [file.fd] if file is not None else []
        for fd in (*known, self._folder.fd, *self.heir.abandon()):
            with suppress(OSError):
                os.close(fd)
        self._folder.fd = -1
        if folder:
            close_inherited(folder)
        self.waker.close()

    # From here on: on the spool's own thread.

    def turn(self) -> float:
        """One round. Returns the seconds to sleep at most."""
        self._began_at = now = time.monotonic()
        try:
            if now >= self._retry_at:
                self._write()
                self._retry = RETRY
                self._problem = ""
            if now >= self._look_at and not self.ended:
                self._look_at = now + LOOK_EVERY * (1 + self._rng())
                self._look()
        except OSError as error:
            self._failed(now, error.strerror or str(error))
        except Exception as error:  # noqa: BLE001 - the thread must live on; the trouble says what it was
            self._failed(now, f"has met a fault of Sendoff's: {type(error).__name__}: {error}")
        self._began_at = 0.0
        self._asleep = True
        waits = [self._look_at - now]
        if not self.written:
            waits.append(self._retry_at - now)
        elif self._file is not None and self._file.marks:
            waits.append(self._pause)
        return max(0.0, min(waits))

    def _failed(self, now: float, problem: str) -> None:
        self._problem = problem
        self._retry_at = now + self._retry
        self._retry = min(self._retry * 2, LONGEST_RETRY)

    def _write(self) -> None:
        while self._fill_batch():
            if self._file is None:
                self._folder.use()
                self._file = OwnFile(self._folder, self._label)
            self._file.append(self._batch)
            self._taken += sum(len(frame) for _, frame in self._batch)
            self._batch.clear()
        news = self._file is not None and self._file.settle(self._settled)
        self._pause = PROGRESS if news else min(self._pause * 1.5, 2.0)

    def _fill_batch(self) -> bool:
        """Take from the queue what is not settled already, up to a portion. True if there is something to write."""
        for _ in range(len(self._batch)):
            if self._batch[0][0] > self._settled:
                break
            self._taken += len(self._batch.popleft()[1])
        size = sum(len(frame) for _, frame in self._batch)
        while self._queue and size < PORTION:
            number, frame = self._queue.popleft()
            if number <= self._settled:
                self._taken += len(frame)
            else:
                self._batch.append((number, frame))
                size += len(frame)
        return bool(self._batch)

    def _look(self) -> None:
        """Find a file whose owner is dead, and give it to the heir."""
        self._folder.use()
        self._folder.clear()
        if self._file is not None:
            self._file.check()
        if not self.heir.runs:
            self.heir.look()

    def let_go(self) -> None:
        """At the end of the thread."""
        try:
            if self._file is not None:
                self._file.close()
            self._folder.close()
        except OSError as error:
            self._problem = error.strerror or str(error)
        finally:
            self.done = True
            self.waker.close()

    def __repr__(self) -> str:
        return f"Keep({self._path}, {self.stats()})"


def _run(keep: Keep) -> None:
    """The spool's thread, until it is closed. A process that ends without closing needs nothing more of it."""
    if keep.runs:
        return  # a try of before, which was merely late
    keep.runs = True
    make_poll, sleep = worker.native("select", "poll"), worker.native("time", "sleep")
    while not keep.ended:
        timeout = keep.turn()
        if timeout and not keep.ended:
            worker.doze(make_poll, keep.waker, timeout, (), sleep, 0.0)
    keep.turn()
    keep.let_go()
