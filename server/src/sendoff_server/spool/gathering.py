"""Gathering small event batches for an output that sends one batch a request: else a request would carry one event.

What comes in is stored in batches as small as the moments between two commits. Such an output is offered none of them
as they came: at the lease, those at the front of its line become one batch of up to 1,000 events, of this output alone,
and are then sealed (``delivery.sealed``): offered under their one id until they are settled. Only as many as the lease
has room for, so that what waits behind a dead destination is gathered later, and better.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import apsw
import msgspec

from sendoff_server.spool import receipts
from sendoff_server.spool.items import EVENTS, DamagedBlob, add_item, read_blob, take, unseal
from sendoff_server.spool.leasing import all_wait
from sendoff_server.spool.sql import ask
from sendoff_server.spool.writer import Transaction
from sendoff_server.wire.batch import encode_batch

GATHER_EVENTS = 1_000
GATHER_BYTES = 1024 * 1024
"""What a gathered batch holds at most, as a batch that comes in does."""


@dataclass(frozen=True, slots=True)
class Loose:
    """An event row that is not sealed yet, without its blob."""

    item: int
    place: int
    lines: int
    decoded: int
    made: int
    born: int
    sources: str


@dataclass(frozen=True, slots=True)
class Gathered:
    """Rows that become one batch. A single row is not copied: ``lines`` is None and it is only sealed."""

    rows: list[Loose]
    counts: dict[str, int]
    lines: list[bytes] | None
    header: dict[str, Any]
    blob: bytes


def choose(connection: apsw.Connection, output: str, most: int) -> list[list[Loose]]:
    """The front of an output's line, cut into batches: up to ``most`` of them, each as large as may be."""
    rows = ask(connection, "loose_events", {"output": output, "most": most * GATHER_EVENTS})
    return [piece for piece, _ in zip(_cut([Loose(*values) for values in rows]), range(most), strict=False)]


def _cut(rows: Sequence[Loose]) -> Iterator[list[Loose]]:
    piece: list[Loose] = []
    lines = size = 0
    for row in rows:
        if piece and (lines + row.lines > GATHER_EVENTS or size + row.decoded > GATHER_BYTES):
            yield piece
            piece, lines, size = [], 0, 0
        piece.append(row)
        lines += row.lines
        size += row.decoded
    if piece:
        yield piece


def gather(connection: apsw.Connection, rows: Sequence[Loose], header: dict[str, Any]) -> tuple[Gathered, list[int]]:
    """Read rows into one batch with this header; and the items that are damaged."""
    good: list[Loose] = []
    lines: list[bytes] = []
    damaged: list[int] = []
    for row in rows if len(rows) > 1 else ():
        try:
            lines += unseal(read_blob(connection, row.item))[1]
            good.append(row)
        except DamagedBlob:
            damaged.append(row.item)
    if len(rows) == 1 or len(good) <= 1:
        # Looked at when it is offered.
        return Gathered(good or ([] if damaged else list(rows)), {}, None, {}, b""), damaged
    header = {**header, "count": len(lines), "made": good[0].made}
    counts: Counter[str] = Counter()
    for row in good:
        counts.update(dict(ask(connection, "contents_of_item", {"item": row.item})))
    return Gathered(good, dict(counts), lines, header, encode_batch(header, lines)), damaged


def commit(transaction: Transaction, output: str, batches: Sequence[Gathered]) -> None:
    """Seal batches. One of which a row was given up meanwhile is left for the next time."""
    connection = transaction.connection
    for batch in batches:
        items = [row.item for row in batch.rows]
        if not items or not all_wait(connection, [output], items):
            continue
        if batch.lines is None:
            ask(connection, "seal_events", {"output": output, "item": items[0]})
            continue
        for row in batch.rows:
            take(connection, output, row.item)
        heir = add_item(
            connection,
            EVENTS,
            batch.header,
            batch.lines,
            counts=batch.counts,
            sources=_join(batch.rows),
            outputs=[output],
            born=max(row.born for row in batch.rows),
            blob=batch.blob,
            place=batch.rows[0].place,
            sealed=True,
        )
        for item in items:
            receipts.move(connection, output, item, heir)


def seal_first(transaction: Transaction, output: str) -> None:
    """The first row in the line is offered as it is: what a disk that takes no new batch can still do."""
    rows = ask(transaction.connection, "loose_events", {"output": output, "most": 1})
    for item, *_ in rows:
        ask(transaction.connection, "seal_events", {"output": output, "item": item})


def _join(rows: Sequence[Loose]) -> list[list[Any]]:
    """The sources of all lines, in their order."""
    found = [run for row in rows for run in msgspec.json.decode(row.sources, type=list[tuple[str, int]])]
    return [[source, sum(n for _, n in same)] for source, same in groupby(found, key=lambda run: run[0])]
