"""What an output is offered: batches that are sealed, and, where there is room, what is sealed for it at that moment.

Leases of one output exclude each other, and the merging of its backlog while that commits. Reading and merging happen
in threads of their own, so that they hold up no commit; and what is there is offered while metrics of another output
are being merged, one output at a time, as that takes seconds and memory.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any

from sendoff_server.spool import gathering, leasing
from sendoff_server.spool.errors import SpoolError, SpoolFailed
from sendoff_server.spool.items import read_waiting
from sendoff_server.spool.reading import Reading
from sendoff_server.spool.records import OutputSpec, Sealed
from sendoff_server.spool.writer import Writer

log = logging.getLogger(__name__)

DECODED_BYTES = 48 * 1024 * 1024
"""What the batches of one lease hold together at most, decoded: well under the 64 MiB of a body."""


GATHER_BATCHES = 8
"""How many batches one lease gathers at most: it is not to take long."""


class Offers:
    """The leases of all outputs. ``name`` and ``header`` make a batch's, ``lose`` gives up items that are damaged."""

    def __init__(
        self,
        path: Path,
        writer: Writer,
        outputs: Sequence[OutputSpec],
        merge: leasing.Merge,
        epoch: int,
        name: Callable[[], str],
        header: Callable[[str, str, int, int], dict[str, Any]],
        lose: Callable[[Sequence[int]], Awaitable[None]],
    ) -> None:
        self._reading = Reading(path / "spool.db", "sendoff-lease")
        self._merging = Reading(path / "spool.db", "sendoff-seal")
        self._turn = asyncio.Lock()
        """Whose metrics are being merged."""
        self._writer = writer
        self._outputs = {output.name: output for output in outputs}
        self._merge = merge
        self._name = name
        self._header = header
        self._epoch = epoch
        self._lose = lose
        self.locks = {name: asyncio.Lock() for name in self._outputs}
        self._leased: dict[str, frozenset[int]] = {}
        self._moved = set(self._outputs)
        """Outputs that settled something since their metrics were sealed last."""

    def close(self) -> None:
        self._merging.close()
        self._reading.close()

    async def lease(
        self, output: str, now_ms: int, max_batches: int, max_bytes: int, without: Collection[int]
    ) -> list[Sealed]:
        """See ``Spool.lease``."""
        spec = self._outputs[output]
        async with self.locks[output]:
            events = await self._events(spec, max_batches, max_bytes, without)
            left, room = max_batches - len(events), max_bytes - _size(events)
            snapshots = await self._waiting("waiting_snapshots", output, max(left, 1), room, without)
            more = len(snapshots) < left and _size(snapshots) < room
            more = more or (not snapshots and max_batches > 1) or output in self._moved
            if more and not (self._turn.locked() and (events or snapshots)):
                try:
                    if await self._seal(spec, now_ms):
                        self._moved.discard(output)
                        snapshots = await self._waiting("waiting_snapshots", output, max(left, 1), room, without)
                except SpoolFailed:
                    # A disk that takes nothing new must not keep what is sealed from being delivered.
                    if not (events or snapshots):
                        raise
            # However many events there are, one snapshot goes with them, or metrics would wait for their end.
            while len(events) > 1 and not _fits(events + snapshots[:1], max_batches, max_bytes):
                events.pop()
            found = (events + snapshots)[:max_batches]
            while len(found) > 1 and not _fits(found, max_batches, max_bytes):
                found.pop()
            self._lend(output, {batch.item for batch in found}.union(without))
            return found

    def settled(self, output: str, items: Set[int]) -> None:
        """Something moved on: these items are not with the output any more."""
        if items:
            self._moved.add(output)
            self._lend(output, self._leased.get(output, frozenset()) - items)

    def _lend(self, output: str, items: Set[int]) -> None:
        self._leased[output] = frozenset(items)
        self._writer.leased = frozenset().union(*self._leased.values())

    async def _events(self, spec: OutputSpec, most: int, room: int, without: Collection[int]) -> list[Sealed]:
        """Events that wait. If they are gathered for this output, then first as many as there is room for."""
        wait = partial(self._waiting, "waiting_events", spec.name, most, room, without, sealed=spec.gather)
        events = await wait()
        free = min(most - len(events), GATHER_BATCHES) if _size(events) < room else 0
        if spec.gather and free > 0 and await self._gather(spec.name, free):
            events = await wait()
        return events

    async def _gather(self, output: str, most: int) -> bool:
        """Whether any events were gathered."""
        pieces = await self._reading.run(partial(gathering.choose, output=output, most=most))
        batches = []
        for rows in pieces:
            header = self._header(self._name(), "events", 0, 0)
            batch, damaged = await self._reading.run(partial(gathering.gather, rows=rows, header=header))
            if damaged:
                await self._lose(damaged)
            batches.append(batch)
        if batches:
            try:
                await self._writer.submit(lambda transaction: gathering.commit(transaction, output, batches))
            except SpoolFailed:
                # Nothing would ever leave a full disk if it had to be written first.
                await self._writer.submit(lambda transaction: gathering.seal_first(transaction, output), frees=True)
        return bool(batches)

    async def _waiting(
        self, query: str, output: str, most: int, room: int, without: Collection[int], sealed: bool = False
    ) -> list[Sealed]:
        found, damaged = await self._reading.run(
            partial(read_waiting, query=query, output=output, most=most, room=room, without=without, sealed=sealed)
        )
        if damaged:
            await self._lose(damaged)
        return found

    async def _seal(self, spec: OutputSpec, now_ms: int) -> bool:
        """Merge and seal journal rows; whether anything was sealed."""
        rows = await self._reading.run(
            partial(leasing.choose, output=spec.name, interval_ms=spec.interval_ms, now_ms=now_ms, epoch=self._epoch)
        )
        if not rows:
            return False
        async with self._turn:
            merged = await self._merged(spec, rows)
        if merged.damaged:
            await self._lose(merged.damaged)
        return bool(merged.rows) and await self._writer.submit(
            lambda transaction: leasing.seal(transaction, spec.name, merged)
        )

    async def _merged(self, spec: OutputSpec, rows: list[leasing.Row]) -> leasing.Merged:
        """Merge rows, or as many of the newest as can be merged together: a row alone can, or is given up."""
        work = partial(
            leasing.merge_rows,
            merge=self._merge,
            interval_ms=spec.interval_ms,
            base=self._header("", "snapshot", 0, 0),
            output=spec.name,
        )
        while True:
            try:
                return await self._merging.run(partial(work, rows=rows))
            except SpoolError:
                raise
            except Exception:
                if len(rows) == 1:
                    raise
                log.exception("%d rows of metrics cannot be merged for output %s: half of them", len(rows), spec.name)
                rows = rows[: len(rows) // 2]


def _size(batches: Sequence[Sealed]) -> int:
    return sum(len(batch.blob) for batch in batches)


def _fits(batches: Sequence[Sealed], max_batches: int, max_bytes: int) -> bool:
    """Whether they fit one body."""
    decoded = sum(batch.decoded for batch in batches)
    return len(batches) <= max_batches and _size(batches) <= max_bytes and decoded <= DECODED_BYTES
