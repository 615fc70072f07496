"""The one thread that writes. Work that waits is committed together, so a sync is paid once for many requests.

Deleting is writing, too, and needs room: on a full disk what frees gets the reserve, and nothing else is stored until
the reserve can be made again.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import apsw

from sendoff_server.spool.reserve import Reserve

T = TypeVar("T")
log = logging.getLogger(__name__)
GROUP = 64
"""Pieces of work in one transaction at most."""
REMEMBERED_S = 60.0


class Busy(Exception):
    """Too much work waits for the disk. Try again later."""


class DiskFailed(Exception):
    """The disk is full or fails; nothing of this piece of work was stored."""


@dataclass(slots=True)
class _Work:
    run: Callable[[apsw.Connection], Any]
    frees: bool
    done: "Future[Any]" = field(default_factory=Future)
    result: Any = None
    error: BaseException | None = None


class Writer:
    """Owns the writing connection. ``submit`` may be called from any thread."""

    def __init__(self, db: apsw.Connection, reserve: Reserve, *, waiting: int = 256) -> None:
        self._db = db
        self._reserve = reserve
        self._queue: queue.Queue[_Work | None] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._loop, name="gateway-writer", daemon=True)
        self._failed: tuple[str, float] | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finish what waits, then close the connection. Blocks."""
        self._queue.put(None)
        self._thread.join()

    def failing(self) -> str | None:
        """Why storing failed the last time it was tried. Forgotten after a while, or who waits would wait for ever."""
        failed = self._failed
        return failed[0] if failed is not None and time.monotonic() - failed[1] < REMEMBERED_S else None

    def submit(self, run: Callable[[apsw.Connection], T], *, frees: bool = False) -> "Future[T]":
        """Have ``run`` called within a transaction; the future is set after the commit. Raises ``Busy``.

        ``frees``: it makes more room than it takes, so it may use the reserve of a full disk.
        """
        work = _Work(run, frees)
        try:
            self._queue.put_nowait(work)
        except queue.Full:
            raise Busy("the disk cannot keep up") from None
        return work.done

    def _loop(self) -> None:
        ending = False
        while not ending:
            group = [self._queue.get()]
            while len(group) < GROUP and not self._queue.empty():
                group.append(self._queue.get_nowait())
            ending = None in group
            works = [work for work in group if work is not None and work.done.set_running_or_notify_cancel()]
            if works:
                self._commit(works)
        self._db.close()

    def _commit(self, works: list[_Work]) -> None:
        taking = [work for work in works if not work.frees]
        freeing = [work for work in works if work.frees]
        if taking and not self._hold_reserve():
            self._fail(taking, apsw.FullError())
            works = freeing
        if not works:
            return
        before = self._db.total_changes()
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for work in works:
                self._run(work)
            self._db.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - whatever failed, nothing was stored and everyone must be told
            self._roll_back()
            if isinstance(error, apsw.FullError) and freeing and self._reserve.give_back():
                self._fail([work for work in works if not work.frees], error)
                self._commit(freeing)
            else:
                self._fail(works, error)
            return
        if self._db.total_changes() != before:  # what changes nothing needs no room
            self._failed = None
        for work in works:
            if work.error is not None:
                work.done.set_exception(work.error)
            else:
                work.done.set_result(work.result)

    def _fail(self, works: list[_Work], error: Exception) -> None:
        failure = _translate(error)
        self._failed = str(failure), time.monotonic()
        for work in works:
            work.done.set_exception(failure)

    def _hold_reserve(self) -> bool:
        """Whether the reserve is there. If not, what the log has no more use for goes back to the disk first."""
        if self._reserve.hold():
            return True
        try:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except apsw.Error as error:
            log.debug("no room could be made: %s", error)
        return self._reserve.hold()

    def _run(self, work: _Work) -> None:
        """One piece fails alone: a savepoint takes back what it did. A failing disk fails the whole group."""
        work.error = None  # of a try before, on a full disk
        self._db.execute("SAVEPOINT work")
        try:
            work.result = work.run(self._db)
        except (apsw.FullError, apsw.IOError, apsw.BusyError, apsw.CorruptError, apsw.NotADBError):
            raise
        except Exception as error:  # noqa: BLE001 - handed to the one who asked
            self._db.execute("ROLLBACK TO work")
            work.error = error
        self._db.execute("RELEASE work")

    def _roll_back(self) -> None:
        """SQLite has often rolled back by itself by now, as when the disk is full."""
        if self._db.in_transaction:
            try:
                self._db.execute("ROLLBACK")
            except apsw.Error:
                log.exception("a transaction could not be rolled back")


def _translate(error: Exception) -> Exception:
    if isinstance(error, apsw.FullError):
        return DiskFailed("the disk is full")
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return DiskFailed(f"the store is damaged ({error})")
    if isinstance(error, apsw.Error):
        return DiskFailed(f"the disk fails ({error})")
    return error
