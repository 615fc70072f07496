"""The durable store of what is not delivered yet: put in, leased to outputs, settled; and the books over all of it.

Five threads beside the caller's: the writer (``writer.py``), one that reads and one that merges for leases
(``offering.py``), one that merges the backlog (``merging.py``), and one that reads for the books, so that none holds
up another. Every promise is in one place:
- acknowledged means synced, with the books that count it, in one transaction (``writer.py``);
- a sealed batch never changes and keeps its id until it is settled (``leasing.py``, ``settling.py``);
- damage is set apart and counted, and the rest goes on (``database.py``, ``_lose``).
"""

import asyncio
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import apsw

from sendoff_server.ledger import Books
from sendoff_server.spool import accounts, folding, keeping, leasing, receipts
from sendoff_server.spool.database import let_go, open_database
from sendoff_server.spool.errors import SpoolFailed
from sendoff_server.spool.intake import Copied, Intake, batch_header, count_rotation, wanting_events
from sendoff_server.spool.lock import Lock
from sendoff_server.spool.lookthrough import LookThrough
from sendoff_server.spool.merging import Merging
from sendoff_server.spool.offering import Offers
from sendoff_server.spool.outputs import reconcile
from sendoff_server.spool.quarantine import keep_blob, suspicion, sync_folder
from sendoff_server.spool.reading import Reading, look_once
from sendoff_server.spool.records import (
    ClientState,
    EventIn,
    OutputSpec,
    Refusal,
    Rotation,
    Sealed,
    Settlement,
    SpoolLimits,
)
from sendoff_server.spool.reserve import Reserve
from sendoff_server.spool.room import expire, give_up, has_room
from sendoff_server.spool.settling import settle
from sendoff_server.spool.sql import ask
from sendoff_server.spool.unknown import unknown_losses
from sendoff_server.spool.writer import Put, Transaction, Writer, plain

log = logging.getLogger(__name__)

T = TypeVar("T")


def wall_ms() -> int:
    """Unix time in ms."""
    return time.time_ns() // 1_000_000


class Spool:
    """One agent's spool. Made by ``Spool.open``; its coroutines may be called from any event loop."""

    def __init__(
        self,
        path: Path,
        connection: apsw.Connection,
        lock: Lock,
        reserve: Reserve,
        outputs: Sequence[OutputSpec],
        merge: leasing.Merge,
        host: str,
        limits: SpoolLimits,
        clock: Callable[[], int],
        running: Callable[[], float],
    ) -> None:
        self._path = self.path = path
        self._connection = connection
        self._lock = lock
        self._outputs = sorted(output.name for output in outputs)
        self._clock = clock
        self._limits = limits
        self.host = host
        self.agent_id: str = _meta(connection, "agent_id")
        self.epoch: int = _meta(connection, "epoch")
        self.next_window = 1
        """The number of this run's first window; the epoch is new with every start."""
        self.gauges = [bytes(key) + b"\0" + bytes(state) for key, state in ask(connection, "gauges")]
        self.clients: dict[str, ClientState] = accounts.read_clients(connection)
        self.quarantined: Path | None = None
        """Where a damaged spool was moved to at this start."""
        self._intake = Intake(outputs, self.agent_id, host, self.epoch)
        self._writer = Writer(connection, self._store, self._admit, limits, reserve, running, clock)
        self._looking = Reading(path / "spool.db", "sendoff-books")
        self._offers = Offers(
            path, self._writer, outputs, merge, self.epoch, self._intake.name, self._intake.header, self._lose_items
        )
        self._merging = Merging(path / "spool.db", self._writer, outputs, self._offers.locks, self._lose_items)
        self._look_through: LookThrough | None = None
        self._prune_ms = 0
        self._closed = threading.Lock()
        self._writer.start()

    @classmethod
    def open(
        cls,
        path: Path,
        outputs: Sequence[OutputSpec],
        *,
        merge: leasing.Merge,
        host: str,
        now_ms: int,
        limits: SpoolLimits,
        clock: Callable[[], int] = wall_ms,
        running: Callable[[], float] = time.monotonic,
        kept_lock: int | None = None,
    ) -> "Spool":
        """Open or make the spool in the directory ``path``.

        ``merge`` is the core's (it runs in a thread), ``limits`` what may wait in it, ``clock`` gives Unix ms,
        ``running`` monotonic seconds, from any thread; ``kept_lock`` is what ``close`` gave. Raises ``SpoolLocked``,
        ``SpoolTooNew``, or ``SpoolFailed`` if the disk refuses.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = Lock(path / "spool.lock", kept_lock)
        except OSError as error:
            raise SpoolFailed(f"the spool's directory {path} cannot be used: {error}") from error
        try:
            reserve = Reserve(path / "reserve")
            reserve.give_back()  # opening needs room too
            opened = open_database(path, outputs, now_ms, closed_well=lock.was_kept)
            connection = opened.connection
            try:
                sync_folder(path)
                sync_folder(path.parent)
                _begin_run(connection, now_ms, host, outputs)
                reconcile(connection, outputs, now_ms)
                spool = cls(path, connection, lock, reserve, outputs, merge, host, limits, clock, running)
            except (apsw.Error, OSError) as error:
                let_go(connection)
                words = plain(error) if isinstance(error, apsw.Error) else str(error)
                raise SpoolFailed(words) from error
        except BaseException:
            lock.release()
            raise
        spool.quarantined = opened.quarantined
        if not opened.checked:
            spool._look_through = LookThrough(path)
            spool._look_through.start()
        return spool

    def __repr__(self) -> str:
        return f"<Spool {self._path} agent {self.agent_id[:8]} epoch {self.epoch} outputs {self._outputs}>"

    async def put(
        self, events: Sequence[EventIn], clients: Sequence[ClientState], refusals: Sequence[Refusal] = ()
    ) -> None:
        """Store events, what is known of their clients, and what was refused; returns when all is on the disk.

        Raises ``SpoolFull`` and ``SpoolFailed``; then nothing was stored, of this put nor of any put that was made
        before that was known. ``ValueError`` for a line that contains LF.
        """
        for event in events:
            if b"\n" in event.line:
                raise ValueError(f"the line of event {event.id} contains a line feed")
        size = sum(len(event.line) for event in events)
        rows = [accounts.pack_client(client) for client in clients]
        await self._writer.submit(Put(tuple(events), rows, self._writer.generation, size, refusals))

    async def receipt(self, event: str) -> dict[str, Any] | None:
        """What is known of an event whose sender asked for a receipt: see ``receipts.read``. Raises ``SpoolFailed``."""
        return await self._looking.run(partial(receipts.read, event=event))

    async def journal(self, rotation: Rotation) -> None:
        """Store one second of metrics with its counts and gauges. Raises ``SpoolFailed``: try again, then ``lose``.

        A full spool is no error here: the points are counted lost{spool_full}.
        """
        copy = Copied.of(rotation)

        def journal(transaction: Transaction) -> None:
            self._intake.journal(transaction, copy)
            self._prune(transaction)

        await self._writer.submit(journal)

    def lose(self, rotation: Rotation, reason: str = "disk_failed") -> None:
        """Give a rotation up: its points are counted lost with the next commit. Its gauges stay known to the core."""
        tally = accounts.Tally()
        count_rotation(tally, Copied.of(rotation), reason)
        self._writer.owe(tally)

    def lose_events(self, by_source: Mapping[str, int], reason: str) -> None:
        """Count events that nobody holds any more (sent by a StatsD client) and that could not be stored."""
        tally = accounts.Tally()
        self._intake.count_lost_events(tally, by_source, reason)
        self._writer.owe(tally)

    async def lease(
        self,
        output: str,
        now_ms: int,
        *,
        max_batches: int = 64,
        max_bytes: int = 8 * 1024 * 1024,
        without: Collection[int] = (),
    ) -> list[Sealed]:
        """What an output is to send next: events (oldest first), then snapshots (newest first), but always one.

        Sealed batches come again, under the same id, until they are settled, but not those ``without`` which it asks
        (items that are under way or wait for a time of their own). If there is room, the newest journal rows whose
        interval is over are merged and sealed first: what is sealed cannot be merged any more, so an outage must not
        seal what nobody takes. Raises ``SpoolFailed``, ``KeyError`` for an unknown output.
        """
        return await self._offers.lease(output, now_ms, max_batches, max_bytes, without)

    async def settle(self, output: str, results: Sequence[Settlement]) -> None:
        """Record what became of batches, for good. Settling one twice changes nothing. Raises ``SpoolFailed``."""
        now_ms = self._clock()
        await self._writer.submit(lambda transaction: settle(transaction, output, results, now_ms), frees=True)
        self._offers.settled(output, {result.batch.item for result in results})

    async def expire(self) -> int:
        """Give up what is older than its class's age, counted; the number of rows. Raises ``SpoolFailed``."""
        gone = total = await self._writer.submit(expire, frees=True)
        while gone:
            gone = await self._writer.submit(expire, frees=True)
            total += gone
        return total

    async def books(self) -> Books:
        """The books as of one commit. ``frames`` and ``kernel`` are the agent's to fill in. Raises ``SpoolFailed``."""
        return await self._looking.run(accounts.read_books)

    async def look(self, work: Callable[[apsw.Connection], T]) -> T:
        """Read by a connection of its own, for as long as it takes. Raises ``SpoolFailed``."""
        return await asyncio.to_thread(look_once, self._path / "spool.db", work)

    def ran_ms(self) -> int:
        """ms that agents of this spool have run in all: what the age of what waits is measured by."""
        return self._writer.ran_ms()

    async def replay(self, wish: keeping.Replaying) -> dict[str, Any]:
        """Let dead letters wait for their outputs again: see ``keeping``. Raises ``SpoolFailed``."""
        return await self._writer.submit(lambda transaction: keeping.replaying(transaction, wish, self._outputs))

    async def purge(self, wish: keeping.Purging) -> dict[str, Any]:
        """Throw away what nobody wants to send any more: see ``keeping``. Raises ``SpoolFailed``."""
        return await self._writer.submit(lambda transaction: keeping.purging(transaction, wish), frees=True)

    async def remember(self, output: str, dedupe_s: int) -> None:
        """Keep for how long a destination recognises repeats: a replay after that is asked about."""
        values = {"key": f"dedupe_s/{output}", "value": dedupe_s}
        await self._writer.submit(lambda transaction: ask(transaction.connection, "set_meta", values))

    async def fold_clients(self, before_ms: int) -> list[str]:
        """Fold clients that ended and were last seen before a time into their service's totals; their ids."""

        def fold(transaction: Transaction) -> list[str]:
            return accounts.fold_clients(transaction.connection, transaction.tally, before_ms)

        return await self._writer.submit(fold)

    async def unfold(self, keys: Sequence[str] | None = None) -> int:
        """Send out one line for each of these folds (all, if None) in place of what they count; how many there were.

        Nothing that names one of them may be put afterwards. Raises ``SpoolFailed``.
        """
        now_ms = self._clock()
        return await self._writer.submit(lambda transaction: self._intake.unfold(transaction, keys, now_ms))

    async def merge_backlog(self, merge: leasing.Merge, most: int = 1) -> int:
        """Give journal rows that wait long longer windows (``merging.py``); how many rows came of it, at most ``most``.

        ``merge``: a core's, which nobody else uses meanwhile. Raises ``SpoolFailed``.
        """
        pressure = self._writer.used.metrics / max(self._limits.metrics.bytes, 1)
        return await self._merging.step(merge, self._intake.header("", "journal", 0, 0), pressure, most)

    async def stats(self) -> dict[str, Any]:
        """Sizes and numbers for the status page; bytes and ms."""
        size, backlog, dead = await self._looking.run(_look)
        ((lines, exceptions),) = await self._looking.run(partial(ask, query="folding"))
        unknown = await self._looking.run(unknown_losses)
        return {
            "path": str(self._path),
            "used_bytes": size,
            "limit_bytes": self._limits.bytes,
            "events_bytes": self._writer.used.events,
            "events_limit_bytes": self._limits.events.bytes,
            "metrics_bytes": self._writer.used.metrics,
            "metrics_limit_bytes": self._limits.metrics.bytes,
            "commits": self._writer.commits,
            "failures": self._writer.failures,
            "last_failure": self._writer.last_failure,
            "quarantined": [str(kept) for kept in sorted((self._path / "quarantine").glob("*"))],
            "unknown": [asdict(loss) for loss in unknown],
            "damaged": suspicion(self._path) or None,
            "waiting": backlog,
            "dead_letters": dead,
            "folding": {"lines": lines, "exceptions": exceptions},
        }

    def close(self, *, keep_lock: bool = False) -> int | None:
        """Commit what was handed in, then let go of the files and the lock. Blocks for that long; twice is fine.

        With ``keep_lock`` the lock stays, as a descriptor for the next ``open`` in this process.
        """
        if not self._closed.acquire(blocking=False):
            return None
        self._writer.finish()
        if self._look_through is not None:
            self._look_through.stop()
        self._merging.close()
        self._offers.close()
        self._looking.close()
        try:
            self._connection.pragma("wal_checkpoint", "truncate")
        except apsw.Error as error:
            log.warning("the write-ahead log could not be folded into the spool: %s", plain(error))
        let_go(self._connection)
        if keep_lock:
            return self._lock.keep()
        self._lock.release()
        return None

    def _store(self, transaction: Transaction, puts: Sequence[Put]) -> None:
        self._intake.store(transaction, puts, self._clock())
        self._prune(transaction)

    def _prune(self, transaction: Transaction) -> None:
        """Once a minute, with a commit that is made anyway, old receipts go. In the writer's thread."""
        if transaction.ran_ms >= self._prune_ms:
            before = transaction.ran_ms - round(self._limits.receipts_s * 1000)
            more = receipts.prune(transaction.connection, before, self._limits.receipts)
            self._prune_ms = transaction.ran_ms + (0 if more else receipts.PRUNE_EVERY_MS)

    def _admit(self, transaction: Transaction) -> bool:
        return has_room(transaction, "events")

    async def _lose_items(self, items: Sequence[int]) -> None:
        await self._writer.submit(lambda transaction: _lose(transaction, items, self._path), frees=True)


def _meta(connection: apsw.Connection, key: str) -> Any:
    return ask(connection, "get_meta", {"key": key})[0][0]


def _begin_run(connection: apsw.Connection, now_ms: int, host: str, outputs: Sequence[OutputSpec]) -> None:
    """A new epoch, higher than any before, even if the clock went back or the spool was restored from a copy.

    What the run before had folded goes out now, for the outputs that it had.
    """
    with connection:
        known = {row[0]: row[1] for row in ask(connection, "meta")}
        values = {
            "agent_id": known.get("agent_id") or os.urandom(16).hex(),
            "epoch": max(int(known.get("epoch", 0)) + 1, now_ms),
        }
        tally = accounts.Tally()
        name = f"ev-{values['agent_id']}-{values['epoch']}-0"
        header = batch_header(name, "events", 0, now_ms, str(values["agent_id"]), host)
        folding.unfold(connection, tally, None, header, folding.fold_outputs(connection))
        tally.write(connection)
        values["fold_outputs"] = json.dumps(wanting_events(outputs))
        for key, value in values.items():
            ask(connection, "set_meta", {"key": key, "value": value})


def _lose(transaction: Transaction, items: Sequence[int], folder: Path) -> None:
    """Damaged items: kept aside as files for whoever wants to look, counted lost for every output that waited."""
    connection = transaction.connection
    for item in items:
        for name, _ in ask(connection, "name_of_item", {"item": item}):
            keep_blob(folder, name, ask(connection, "blob", {"item": item})[0][1])
    give_up(transaction, items, "disk_failed")


def _look(connection: apsw.Connection) -> tuple[int, list[dict[str, Any]], list[dict[str, Any]]]:
    pages = connection.pragma("page_count") - connection.pragma("freelist_count")
    backlog = [
        {"output": output, "items": items, "oldest_ms": oldest} for output, items, oldest in ask(connection, "backlog")
    ]
    names = ("dead", "output", "batch", "kind", "at", "status", "code", "excerpt", "lines", "n")
    dead = [dict(zip(names, row, strict=True)) for row in ask(connection, "dead_letters", {"most": 100})]
    for letter in dead:
        letter["excerpt"] = letter["excerpt"].decode("utf-8", "replace")
    return pages * connection.pragma("page_size"), backlog, dead
