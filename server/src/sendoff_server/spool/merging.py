"""Merging the backlog: journal rows that wait get longer windows, so that an outage costs resolution, not totals.

A row waits in windows of one second for two minutes, then of 10 s, after an hour of one minute, after a day of ten
minutes, and sooner when metrics have little room left. Several windows share a row: those of a minute, of ten minutes,
of two hours. Each point is so rewritten three times at most, however long the outage.

What is merged stays a journal row: unsealed, in the same place in the line, for the same outputs. Rows that several
outputs wait for are merged once for all of them, and only rows that exactly the same outputs wait for; an output that
catches up takes its part as ever, and the others go on sharing. Windows in one row follow each other without a gap and
are of one run of the agent, since a sealed snapshot says which windows it covers.

Reading and merging take seconds and happen in a thread of their own, without holding up a lease: should one have taken
a row meanwhile, what was merged is thrown away (``commit``), and nothing has changed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import apsw
import msgspec

from sendoff_server.spool.errors import SpoolError
from sendoff_server.spool.items import JOURNAL, add_item, take
from sendoff_server.spool.leasing import MERGE_BYTES, Merge, Row, add_sources, all_wait, follows, merge_good
from sendoff_server.spool.reading import Reading
from sendoff_server.spool.records import OutputSpec
from sendoff_server.spool.sql import ask
from sendoff_server.spool.writer import Transaction, Writer
from sendoff_server.wire.batch import encode_batch

log = logging.getLogger(__name__)

TIERS = ((120_000, 10_000), (3_600_000, 60_000), (86_400_000, 600_000))
"""From this age in ms, windows of this length in ms."""
SPANS = {10_000: 60_000, 60_000: 600_000, 600_000: 7_200_000}
"""How many ms of windows of a length share a row."""
HURRY = ((0.75, 100), (0.5, 10))
"""When metrics take more than this share of their limit, a row counts as so many times older."""
GROUP_BYTES = 4 * 1024 * 1024
"""Decoded bytes beyond which windows get a row each, so that no row and no merge grows too large."""
MOST_ROWS = 5_000
"""How many rows one look for work reads."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A journal row, and the outputs that wait for it, sorted."""

    row: Row
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that are to become one."""

    rows: list[Row]
    outputs: tuple[str, ...]
    length_ms: int


@dataclass(frozen=True, slots=True)
class Coarse:
    """What rows have become: a row of longer windows to be stored in their place, and rows that could not be used."""

    group: Group
    rows: list[Row]
    lines: list[bytes]
    header: dict[str, Any]
    blob: bytes
    damaged: list[int]


def tier(age_ms: int, pressure: float) -> int:
    """How long the windows of a row are to be, in ms, that waits for so long.

    ``pressure``: the share of their limit that metrics take.
    """
    hurried = age_ms * next((times for share, times in HURRY if pressure > share), 1)
    return max((length for age, length in TIERS if hurried >= age), default=1_000)


def find(connection: apsw.Connection, intervals: dict[str, int], ran_ms: int, pressure: float) -> list[Group]:
    """What there is to merge, oldest first. ``intervals``: ms by output, for which rows wait even without an outage."""
    found = []
    for *values, outputs in ask(connection, "journal_to_merge", {"length": TIERS[-1][1], "most": MOST_ROWS}):
        found.append(Waiting(Row(*values), tuple(sorted(msgspec.json.decode(outputs)))))
    found.sort(key=lambda one: (one.row.epoch, one.row.window))
    return list(plan(found, intervals, ran_ms, pressure))


def plan(waiting: Sequence[Waiting], intervals: dict[str, int], ran_ms: int, pressure: float) -> Iterator[Group]:
    """Cut rows, oldest first, into groups to be merged: from the longest windows down, each row at most once."""
    left = list(waiting)
    for _, length in reversed(TIERS):
        rest: list[Waiting] = []
        for run in _runs(left, length):
            rows = [one.row for one in run]
            outputs = run[0].outputs
            # What waits for its interval waits for no outage, unless longer windows make no difference to it.
            slow = [intervals.get(output, 0) for output in outputs]
            extra = max((interval for interval in slow if interval % SPANS[length]), default=0)
            ages = [ran_ms - row.born - extra for row in rows]
            # Only a whole span is merged: its rows are old enough, and none can come any more.
            whole = min(ages) >= SPANS[length] or run[-1] is not left[-1]
            if not (whole and min(tier(age, pressure) for age in ages) >= length):
                rest += run
                continue
            for piece in _pieces(rows, length):
                if any(row.length < length for row in piece):
                    yield Group(piece, outputs, length)
        left = rest


def _runs(waiting: Iterable[Waiting], length_ms: int) -> Iterator[list[Waiting]]:
    """Rows of one span of time that the same outputs wait for, without a gap in their numbers."""
    run: list[Waiting] = []
    for one in waiting:
        if run and not (
            follows(one.row, run[-1].row)
            and one.outputs == run[-1].outputs
            and _span(one.row, SPANS[length_ms]) == _span(run[-1].row, SPANS[length_ms])
        ):
            yield run
            run = []
        run.append(one)
    if run:
        yield run


def _pieces(rows: list[Row], length_ms: int) -> Iterator[list[Row]]:
    """The rows as they are if they are small, else by their windows; a window that is still too large is cut."""
    if sum(row.merged(length_ms) for row in rows) <= GROUP_BYTES and sum(row.decoded for row in rows) <= MERGE_BYTES:
        yield rows
        return
    for _, window in groupby(rows, key=lambda row: _span(row, length_ms)):
        piece: list[Row] = []
        size = 0
        for row in window:
            if piece and size + row.decoded > MERGE_BYTES:
                yield piece
                piece, size = [], 0
            piece.append(row)
            size += row.decoded
        yield piece


def _span(row: Row, length_ms: int) -> int:
    """The number of the span that a row's last window ended in: a rotation is made just after its second."""
    return (row.made - 1_000) // length_ms


def coarsen(connection: apsw.Connection, group: Group, merge: Merge, base: dict[str, Any]) -> Coarse:
    """Read and merge the rows of a group. ``base``: what every header of this agent says."""
    with connection:
        rows, damaged, lines = merge_good(connection, group.rows, merge, group.length_ms)
    if not rows:
        return Coarse(group, [], [], {}, b"", damaged)
    header = {
        **base,
        "batch": f"jr-{rows[0].epoch}-{rows[0].first}-{rows[-1].window}",
        "type": "journal",
        "count": len(lines),
        "made": max(row.made for row in rows),
    }
    return Coarse(group, rows, lines, header, encode_batch(header, lines), damaged)


def commit(transaction: Transaction, coarse: Coarse) -> bool:
    """Rows out, one row in. False, and nothing is changed, if an output does not wait for all of them any more."""
    connection, outputs, rows = transaction.connection, coarse.group.outputs, coarse.rows
    if not all_wait(connection, outputs, [row.item for row in rows]):
        return False
    # Not its own number: what was merged before has one that is newer than what it holds.
    place = max(take(connection, output, row.item) or 0 for row in rows for output in outputs)
    add_item(
        connection,
        JOURNAL,
        coarse.header,
        coarse.lines,
        # What its rows said, not what its lines say: merging moves no book.
        counts={"": sum(row.n for row in rows)},
        sources=add_sources(rows),
        outputs=outputs,
        born=max(row.born for row in rows),
        window=(rows[-1].epoch, rows[-1].window),
        first=rows[0].first,
        length_ms=coarse.group.length_ms,
        blob=coarse.blob,
        place=place,
    )
    return True


class Merging:
    """Does it, a group at a time, with a reading thread of its own."""

    def __init__(
        self,
        path: Path,
        writer: Writer,
        outputs: Sequence[OutputSpec],
        leases: Mapping[str, asyncio.Lock],
        lose: Callable[[Sequence[int]], Awaitable[None]],
    ) -> None:
        self._reading = Reading(path, "sendoff-merge")
        self._writer = writer
        self._intervals = {output.name: output.interval_ms for output in outputs}
        self._leases = leases
        self._lose = lose
        self._refused: set[int] = set()
        """First rows of groups that could not be merged, though none of their rows is at fault."""

    async def step(self, merge: Merge, base: dict[str, Any], pressure: float, most: int) -> int:
        """Merge up to ``most`` groups, oldest first; how many were. Raises ``SpoolFailed``."""
        done = 0
        ran_ms = self._writer.ran_ms()
        look = partial(find, intervals=self._intervals, ran_ms=ran_ms, pressure=pressure)
        for group in await self._reading.run(look):
            if done == most:
                break
            if group.rows[0].item in self._refused:
                continue
            # The oldest are merged first, and give way first: a full class would never get a merge done.
            self._writer.merging = frozenset(row.item for row in group.rows)
            try:
                done += await self._merge(group, merge, base)
            except SpoolError:
                raise
            except Exception:
                log.exception("%d rows of metrics cannot be merged and wait as they are", len(group.rows))
                self._refused.add(group.rows[0].item)
            finally:
                self._writer.merging = frozenset()
        return done

    async def _merge(self, group: Group, merge: Merge, base: dict[str, Any]) -> bool:
        """Whether the group is one row now."""
        coarse = await self._reading.run(partial(coarsen, group=group, merge=merge, base=base))
        if coarse.damaged:
            await self._lose(coarse.damaged)
        if not coarse.rows:
            return False
        async with AsyncExitStack() as held:
            # In one order, so that two never wait for each other.
            for output in group.outputs:
                if output in self._leases:
                    await held.enter_async_context(self._leases[output])
            return await self._writer.submit(partial(commit, coarse=coarse))

    def close(self) -> None:
        self._reading.close()
