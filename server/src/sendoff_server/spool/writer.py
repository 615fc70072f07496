"""The one thread that writes, with group commit: all that waits goes into one transaction, and one sync serves it all.

A caller hands in a job and waits for its future, which is resolved after the commit. When the disk refuses a commit, it
is rolled back, every job in it fails, and so does every put that was handed in before the failure was known: what a
sender numbered 5 must not be missing below a 6 that is stored. The connection stays usable and the next job tries anew.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import apsw

from sendoff_server.spool.accounts import Tally
from sendoff_server.spool.errors import SpoolClosed, SpoolError, SpoolFailed, SpoolFull
from sendoff_server.spool.quarantine import suspect
from sendoff_server.spool.records import EventIn, Refusal, SpoolLimits
from sendoff_server.spool.reserve import Reserve
from sendoff_server.spool.sql import ask
from sendoff_server.spool.usage import used, watch

log = logging.getLogger(__name__)

T = TypeVar("T")
GROUP_JOBS = 1_000
GROUP_BYTES = 16 * 1024 * 1024
"""How much one transaction takes; the rest waits for the next one."""

DAMAGE = (apsw.CorruptError, apsw.NotADBError, UnicodeDecodeError)
"""What is raised where a page, or a text, is not what was written."""

RAN_EVERY_MS = 1_000
"""The running time is kept with a commit when it is this much more than what was kept last."""

OTHER_BYTES = 64 * 1024 * 1024
"""What else the file may hold beside the classes' data: clients, books, gauges, pages not filled."""
RECEIPT_BYTES = 512
"""What a receipt takes, at two outputs."""

SHRINK_EVERY_S = 0.05
"""Between two pieces of 1 MiB that are given back to the disk while nobody waits."""
SPARE_PAGES = 256
"""Free pages that are kept for the next batches instead of being given back to the disk."""

ClientRow = tuple[str, str, int, bytes]


@dataclass(slots=True)
class Transaction:
    """What a job may use: the connection, inside a transaction, and the changes to the books."""

    connection: apsw.Connection
    limits: SpoolLimits
    brimming: bool
    """Whether the file takes more than all classes together may, and what else there is: clients, books, receipts."""
    busy: frozenset[int]
    """Items that outputs were given to send, or that are being merged: given up after the others only."""
    ran_ms: int
    """ms that agents of this spool have run in all: age is measured by it, so a jump of the clock expires nothing."""
    now_ms: int
    """Unix ms, for what is shown to people."""
    tally: Tally = field(default_factory=Tally)


@dataclass(slots=True)
class Put:
    """Events and clients to store: all puts of a group are sealed into one batch."""

    events: Sequence[EventIn]
    clients: Sequence[ClientRow]
    generation: int
    size: int
    refusals: Sequence[Refusal] = ()
    """Events that were not taken, and of which that is to be known."""


@dataclass(slots=True)
class Job(Generic[T]):
    """A piece of work and the caller that waits for it."""

    work: Put | Callable[[Transaction], T]
    future: asyncio.Future[T]
    loop: asyncio.AbstractEventLoop
    frees: bool
    """Whether it makes room rather than takes it: then it may use the reserve of a full disk."""


class Writer(threading.Thread):
    """Runs jobs until ``finish()``. ``store`` puts the events and clients of a group's puts into its transaction;
    ``admit`` says whether there is room for events."""

    def __init__(
        self,
        connection: apsw.Connection,
        store: Callable[[Transaction, Sequence[Put]], None],
        admit: Callable[[Transaction], bool],
        limits: SpoolLimits,
        reserve: Reserve,
        running: Callable[[], float],
        clock: Callable[[], int],
    ) -> None:
        super().__init__(name="sendoff-spool", daemon=True)
        self._connection = connection
        self._store = store
        self._admits = admit
        self._limits = limits
        self._reserve = reserve
        self._page = connection.pragma("page_size")
        self._running = running
        self._clock = clock
        watch(connection)
        self.used = used(connection)
        """What each class takes as of the last commit."""
        self._ran_before = ran_ms(connection) - round(running() * 1000)
        self._ran_kept = 0
        self._jobs: deque[Job[Any]] = deque()
        self._ready = threading.Condition()
        self._closed = False
        self._failed_generation = -1
        self._owed = Tally()
        self.leased: frozenset[int] = frozenset()
        """Items that outputs have been given to send."""
        self.merging: frozenset[int] = frozenset()
        """Items that are being merged."""
        self.generation = 0
        """Rises when callers have been told of a failure; a put carries the one it was made in."""
        self.commits = 0
        self.failures = 0
        self.last_failure = ""

    def submit(self, work: Put | Callable[[Transaction], T], *, frees: bool = False) -> "asyncio.Future[T]":
        """Hand in work; await the result. Raises ``SpoolClosed``."""
        loop = asyncio.get_running_loop()
        job: Job[T] = Job(work, loop.create_future(), loop, frees)
        with self._ready:
            if self._closed:
                raise SpoolClosed("the spool is closed")
            self._jobs.append(job)
            self._ready.notify()
        return job.future

    def owe(self, tally: Tally) -> None:
        """Counts to be committed with the next transaction, whichever it is."""
        with self._ready:
            self._owed.add(tally)

    def finish(self) -> None:
        """Do what was handed in, then end the thread. Returns when it has ended."""
        with self._ready:
            self._closed = True
            self._ready.notify()
        self.join()
        if self._owed or self.ran_ms() > self._ran_kept:
            self._commit([])

    def run(self) -> None:
        spare = False
        while (jobs := self._next(SHRINK_EVERY_S if spare else None)) is not None:
            if jobs:
                self._commit(jobs)
            spare = self._shrink(idle=not jobs)

    def _next(self, timeout: float | None) -> list[Job[Any]] | None:
        """The jobs of the next transaction; none after a time-out in seconds; None at the end."""
        with self._ready:
            if not self._ready.wait_for(lambda: self._jobs or self._closed, timeout):
                return []
            if not self._jobs:
                return None
            jobs: list[Job[Any]] = []
            size = 0
            while self._jobs and len(jobs) < GROUP_JOBS and size < GROUP_BYTES:
                job = self._jobs.popleft()
                size += job.work.size if isinstance(job.work, Put) else 0
                jobs.append(job)
            return jobs

    def _commit(self, jobs: list[Job[Any]]) -> None:
        """One transaction for all; if a job is at fault itself, each gets its own, so that it fails alone."""
        taking = [job for job in jobs if not job.frees]
        freeing = [job for job in jobs if job.frees]
        if taking and not self._hold_reserve():
            self._refuse(taking, "the disk is full: make room where agent.data_dir is")
            jobs = freeing
        try:
            answers = self._transaction(jobs)
        except apsw.FullError as error:
            # What was delivered must be taken off the books even now: what takes room gives way, with the reserve.
            if freeing and self._reserve.give_back():
                self._refuse(taking, plain(error))
                self._commit(freeing)
            else:
                self._refuse(jobs, plain(error))
        except DAMAGE as error:
            suspect(Path(self._connection.filename).parent, str(error))
            self._refuse(jobs, plain(error))
        except apsw.Error as error:
            self._refuse(jobs, plain(error))
        except Exception as error:
            if len(jobs) > 1:
                for job in jobs:
                    self._commit([job])
                return
            log.exception("a job of the spool failed")
            self._fail(jobs, error)
        else:
            self._resolve(answers)

    def _transaction(self, jobs: list[Job[Any]]) -> list[tuple[Job[Any], Any]]:
        connection = self._connection
        answers: list[tuple[Job[Any], Any]] = []
        with self._ready:
            owed, self._owed = self._owed, Tally()
        self._roll_back()
        try:
            connection.execute("BEGIN IMMEDIATE")
            brimming = self.used_bytes() >= self._limits.bytes + OTHER_BYTES + self._limits.receipts * RECEIPT_BYTES
            busy = self.leased | self.merging
            transaction = Transaction(connection, self._limits, brimming, busy, self.ran_ms(), self._clock())
            transaction.tally.add(owed)
            puts = self._admit(transaction, jobs, answers)
            if puts:
                self._store(transaction, puts)
            answers += [(job, job.work(transaction)) for job in jobs if not isinstance(job.work, Put)]
            transaction.tally.write(connection)
            taken = used(connection)
            keeping = transaction.ran_ms >= self._ran_kept + RAN_EVERY_MS
            if keeping:
                ask(connection, "set_meta", {"key": "ran_ms", "value": transaction.ran_ms})
            connection.execute("COMMIT")
            self._ran_kept = transaction.ran_ms if keeping else self._ran_kept
            self.used = taken
        except BaseException:
            self.owe(owed)
            self._roll_back()
            raise
        self.commits += 1
        return answers

    def _admit(self, transaction: Transaction, jobs: list[Job[Any]], answers: list[tuple[Job[Any], Any]]) -> list[Put]:
        """The puts that are to be stored; the others get their answer: full, or failed because one before failed."""
        admitted = []
        full: bool | None = None
        for job in jobs:
            put = job.work
            if not isinstance(put, Put):
                continue
            if put.generation <= self._failed_generation:
                answers.append((job, SpoolFailed("an earlier write failed")))
                continue
            if put.events and full is None:
                full = not self._admits(transaction)
            if put.events and full:
                self._failed_generation = max(self._failed_generation, put.generation)
                answers.append((job, SpoolFull("the spool has reached spool.events.limit")))
            else:
                admitted.append(put)
                answers.append((job, None))
        return admitted

    def ran_ms(self) -> int:
        """ms that agents of this spool have run in all. From any thread."""
        return self._ran_before + round(self._running() * 1000)

    def used_bytes(self) -> int:
        """Bytes of the database in use. In the writer's thread only."""
        pages = self._connection.pragma("page_count") - self._connection.pragma("freelist_count")
        return int(pages) * int(self._page)

    def _shrink(self, *, idle: bool) -> bool:
        """Give free pages back to the disk, a little at a time: when nobody waits, or every so often; if any are left.

        ``idle``: nobody waits for anything, so that the file itself can be cut as well.
        """
        connection = self._connection
        try:
            spare = bool(connection.pragma("freelist_count") > SPARE_PAGES)
            if spare and (not self._jobs or self.commits % 64 == 0):
                connection.execute("PRAGMA incremental_vacuum(256)").fetchall()
            if idle and not spare:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            return spare
        except apsw.Error as error:
            log.warning("free space could not be given back: %s", plain(error))
            return False

    def _hold_reserve(self) -> bool:
        """Whether the reserve is there. If not, what is free inside our own files goes back to the disk first."""
        if self._reserve.hold():
            return True
        connection = self._connection
        try:
            for _ in range(8):
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                if self._reserve.hold():
                    return True
                if not connection.pragma("freelist_count"):
                    break
                connection.execute("PRAGMA incremental_vacuum(1024)").fetchall()
        except apsw.Error as error:
            log.debug("no room could be made: %s", plain(error))
        return self._reserve.hold()

    def _roll_back(self) -> None:
        """End a transaction that failed, if SQLite has not done so itself."""
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except apsw.Error as error:
            log.error("a failed transaction could not be rolled back yet: %s", plain(error))

    def _refuse(self, jobs: list[Job[Any]], words: str) -> None:
        """The disk did not take it."""
        self.failures += 1
        if words != self.last_failure:
            log.error("the spool cannot be written: %s", words)
        self.last_failure = words
        self._fail(jobs, SpoolFailed(words))

    def _fail(self, jobs: list[Job[Any]], error: Exception) -> None:
        generations = [job.work.generation for job in jobs if isinstance(job.work, Put)]
        self._failed_generation = max([self._failed_generation, *generations])
        self._resolve([(job, error) for job in jobs])

    def _resolve(self, answers: list[tuple[Job[Any], Any]]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
        for job, answer in answers:
            by_loop.setdefault(job.loop, []).append((job.future, answer))
        for loop, found in by_loop.items():
            try:
                loop.call_soon_threadsafe(self._tell, found)
            except RuntimeError:
                log.warning("%d callers of the spool were gone before their answer came", len(found))

    def _tell(self, found: list[tuple[asyncio.Future[Any], Any]]) -> None:
        """On the callers' loop."""
        for future, answer in found:
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        if any(isinstance(answer, SpoolError) for _, answer in found):
            self.generation += 1


def ran_ms(connection: apsw.Connection) -> int:
    """ms that agents of a spool have run in all, as far as that is kept in it."""
    kept = ask(connection, "get_meta", {"key": "ran_ms"})
    return int(kept[0][0]) if kept else 0


def plain(error: apsw.Error | UnicodeDecodeError) -> str:
    """What SQLite says, in words that say what to do."""
    match error:
        case apsw.FullError():
            return "the disk is full: make room where agent.data_dir is"
        case apsw.ReadOnlyError():
            return "the file or its directory cannot be written: check the mount and the owner of agent.data_dir"
        case apsw.IOError():
            return f"the disk reports an input/output error ({error}): check the disk and the system's log"
        case apsw.CorruptError() | apsw.NotADBError() | UnicodeDecodeError():
            return f"the database is damaged ({error}): restart the agent, which rescues what can be read"
    return str(error)
