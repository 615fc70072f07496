"""Sends what dead processes left in the spool, as the clients that they were: their hello, their frames as they are,
and no bye. What was stored before is a repeat to the gateway, which drops it.

A thread of its own, there only while there is something to send, so that neither a slow file nor a slow network holds
up what this process has to say itself; a file is read in portions. It holds the file's lock until all is acknowledged
and the file deleted; if this process dies meanwhile, the next heir begins again.

Only files that were written for the same key are touched. Events of one project must not end up in another's because
two apps share a folder or one was configured anew; `python -m sendoff.spool` shows them, and hands them over.
"""

from __future__ import annotations

import os
import time

from sendoff.sending import worker
from sendoff.sending.buffer import Waiting
from sendoff.sending.folder import ASIDE, OURS, Folder
from sendoff.sending.kept import ANY_KEY, Unreadable, look_through, records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sendoff.sending.direct import DirectRoute
    from sendoff.sending.kept import Found, Label

PORTION = 262_144
"""Bytes of a dead client's frames that are in memory at a time, and one frame more."""
FRAMES = 64
"""Frames handed over in one go."""
GIVE_WAY = 0.05
"""Seconds to wait while this process has something to write itself."""
WAYS_GIVEN = 100
"""Times that it does so before it sends a portion all the same."""
LONGEST_SLEEP = 1.0
EXPIRES = 30 * 86_400.0
"""Seconds after which a file that no key fits is deleted."""


class Heir:
    """What a process does for those that died before it."""

    def __init__(
        self, path: str, label: Label, make_route: Callable[[Label], DirectRoute], busy: Callable[[], object]
    ) -> None:
        self.folder = Folder(path)
        self._label = label
        self._make_route = make_route
        self._busy = busy
        self._own = label.client + OURS
        self._strange: dict[str, tuple[int, int]] = {}
        self._fd = -1
        self._route: DirectRoute | None = None
        self.waker = worker.Waker()
        self.runs = False
        self.ended = False
        self.adopted = 0
        self.adopted_files = 0
        self.refused: dict[str, int] = {}
        self.damaged = 0
        self.damaged_bytes = 0
        self.expired = 0
        self._problem = ""

    # From here on: on the spool's thread.

    def look(self) -> None:
        """Start the thread if there is a file whose owner is dead. Raises `OSError`."""
        self.folder.use()
        name, fd = next(self._orphans(), ("", -1))
        if fd < 0:
            return
        self.runs = True
        try:
            self.waker = worker.Waker()
            self.waker.open()
            self._fd = fd
            worker.native("_thread", "start_new_thread")(self._run, (name,))
        except (RuntimeError, OSError) as error:
            self.runs = False
            self._fd = -1
            self.waker.close()
            os.close(fd)
            self._problem = f"no thread can be started for what dead processes left: {error}"

    def _orphans(self) -> Iterator[tuple[str, int]]:
        """(name, descriptor) of files of the dead, locked. A caller that stops asking owns the last one."""
        sizes = self.folder.sizes((OURS,))
        self._strange = {name: seen for name, seen in self._strange.items() if name in sizes}
        for name, found in sizes.items():
            seen = (found.st_ino, found.st_mtime_ns)
            if name == self._own or self._strange.get(name) == seen:
                if name != self._own and time.time() - found.st_mtime > EXPIRES:
                    self._expire(name)
                continue
            fd = self.folder.take(name)
            if fd is not None:
                yield name, fd

    def _expire(self, name: str) -> None:
        fd = self.folder.take(name)
        if fd is not None:
            self.folder.delete(name)
            self.expired += 1
            os.close(fd)

    # From here on: on the heir's thread.

    def _run(self, name: str) -> None:
        try:
            while name and not self.ended:
                self._adopt(name)
                name, self._fd = next(self._orphans(), ("", -1))
        except Exception as error:  # noqa: BLE001 - nobody above could take it; the trouble says what it was
            self._problem = f"what dead processes left cannot be sent: {type(error).__name__}: {error}"
        finally:
            self._let_go()
            self.waker.close()
            self.runs = False

    def _let_go(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        route, self._route = self._route, None
        if route is not None:
            route.leave()
            if given_up := route.channel.dropped().get("event.unacceptable", 0):
                self.refused["unacceptable"] = self.refused.get("unacceptable", 0) + given_up

    def _adopt(self, name: str) -> None:
        """Send one file, and delete it. Raises `OSError`."""
        fd = self._fd
        size = os.fstat(fd).st_size
        try:
            found = look_through(lambda at, count: os.pread(fd, count, at), size)
            if found.label.client != name.removesuffix(OURS):
                raise Unreadable("it is named like another client's")
        except Unreadable as error:
            self.damaged += 1
            self.damaged_bytes += size
            self._problem = f"{name} was set aside as {ASIDE}: {error}"
            self.folder.set_aside(name)
            self._let_go()
            return
        if found.label.key_hash not in (self._label.key_hash, ANY_KEY):
            seen = os.fstat(fd)
            self._strange[name] = (seen.st_ino, seen.st_mtime_ns)
            self._let_go()
            return
        if self._send(found):
            if found.damaged:
                self.damaged += 1
                self.damaged_bytes += found.damaged
            self.adopted_files += 1
            self.folder.delete(name)
        self._let_go()

    def _send(self, found: Found) -> bool:
        """True if everything in it is acknowledged or refused; False if this process ends before."""
        fd = self._fd
        source = (
            (number, data)
            for number, data, _ in records(lambda at, count: os.pread(fd, count, at), found.begins, found.good)
            if data and number > found.settled
        )
        self._route = route = self._make_route(found.label)
        held = route.channel.held
        given_way = 0
        more = found.frames > 0
        while not self.ended:
            if more and not held.unfinished:
                portion = _portion(source)
                more = bool(portion)
                held.restore(portion)
            if not more and not held.unfinished:
                return True
            if self._busy() and given_way < WAYS_GIVEN:
                given_way += 1
                self._sleep(GIVE_WAY)
                continue
            given_way = 0
            self._sleep(self._exchange(route))
        return False

    def _exchange(self, route: DirectRoute) -> float:
        """Read and write what can be now. Returns how long to sleep at most."""
        channel, now = route.channel, time.monotonic()
        acked = channel.acked
        channel.receive(now)
        route.prepare()
        route.send(time.monotonic(), time.time_ns() // 1_000_000, _NOTHING, FRAMES)
        self.adopted += channel.acked - acked
        for reason, count in channel.refused.items():
            self.refused[reason] = self.refused.get(reason, 0) + count
        channel.refused.clear()
        self._problem = f"what dead processes left waits: {channel.trouble}" if channel.failures else ""
        if not channel.held.unfinished:
            return 0.0
        stream, now = channel.stream, time.monotonic()
        if stream is None:
            return min(max(channel.retry_at - now, GIVE_WAY), LONGEST_SLEEP)
        return LONGEST_SLEEP if stream.due_at is None else min(max(stream.due_at - now, 0.001), LONGEST_SLEEP)

    def _sleep(self, seconds: float) -> None:
        if seconds:
            route = self._route
            stream = route.channel.stream if route is not None else None
            watch = () if stream is None else stream.watch()
            worker.doze(
                worker.native("select", "poll"), self.waker, seconds, watch, worker.native("time", "sleep"), 0.0
            )

    # From here on: from elsewhere.

    @property
    def trouble(self) -> str:
        """What is wrong, or nothing."""
        if self._problem or not self._strange:
            return self._problem
        return (
            f"{len(self._strange)} files of dead processes in the spool were written for another key: see "
            f"`python -m sendoff.spool {self.folder.path}`"
        )

    def stats(self) -> dict[str, object]:
        """See `sendoff.stats`."""
        return {
            "adopted": self.adopted,
            "adopted_files": self.adopted_files,
            "refused": dict(self.refused),
            "damaged": self.damaged,
            "damaged_bytes": self.damaged_bytes,
            "other_key": len(self._strange),
            "expired": self.expired,
        }

    def stop(self) -> None:
        """End the thread soon."""
        self.ended = True
        self.waker.wake()

    def abandon(self) -> list[int]:
        """In the child after a fork: let go of the connection; gives the descriptors that are to be closed."""
        self.ended = True
        fds = [fd for fd in (self._fd, self.folder.fd) if fd >= 0]
        self._fd = self.folder.fd = -1
        if self._route is not None:
            self._route.abandon()
        self.waker.close()
        return fds


_NOTHING = Waiting()
"""Its metrics died with the client. Never filled."""


def _portion(source: Iterator[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    portion: list[tuple[int, bytes]] = []
    size = 0
    while size < PORTION:
        number, frame = next(source, (0, b""))
        if not number:
            break
        portion.append((number, frame))
        size += len(frame)
    return portion
