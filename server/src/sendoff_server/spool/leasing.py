"""From journal rows to sealed snapshots: choosing rows, merging them, and the one transaction that seals the result.

Reading and merging happen outside the writer's thread, since a merge may take seconds; only ``seal`` runs in it. Leases
of one output exclude each other, and the merging of the backlog; what was given up meanwhile undoes the sealing.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import apsw
import msgspec

from sendoff_server.spool.items import SNAPSHOT, DamagedBlob, GoneBlob, add_item, read_blob, take, unseal
from sendoff_server.spool.sql import ask
from sendoff_server.spool.writer import Transaction
from sendoff_server.wire.batch import encode_batch

log = logging.getLogger(__name__)

Merge = Callable[[Iterable[Iterable[bytes]], int], list[bytes]]

PART_BYTES = 4 * 1024 * 1024
"""A merged snapshot beyond this is sealed in several parts."""
MERGE_ROWS = 600
MERGE_BYTES = 64 * 1024 * 1024
"""What one merge takes at most; the rest of a backlog is for the next lease. Rows are decoded one at a time."""
MERGED_BYTES = 8 * 1024 * 1024
"""What a merge may come to: all of it is in memory at once, in objects of ten times that size."""
_CLOCK_JUMP_MS = 10_000
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class _Points(msgspec.Struct):
    n: int


@dataclass(frozen=True, slots=True)
class Row:
    """A journal row without its blob."""

    item: int
    epoch: int
    first: int
    """The number of its first window …"""
    window: int
    """… and of its last."""
    length: int
    """ms of its windows: 1,000 as it came in, more once a backlog was merged."""
    made: int
    born: int
    n: int
    decoded: int
    sources: str

    def merged(self, length_ms: int) -> int:
        """Bytes that it comes to at most, or nearly, when it is merged with its neighbours to windows of a length."""
        return self.decoded * min(self.length, length_ms) // length_ms


@dataclass(frozen=True, slots=True)
class Part:
    """A finished part of a merged snapshot, ready to be stored."""

    header: dict[str, object]
    lines: list[bytes]
    points: int
    blob: bytes


@dataclass(frozen=True, slots=True)
class Merged:
    """What became of some rows: parts to seal, and rows that could not be used."""

    rows: list[Row]
    parts: list[Part]
    damaged: list[int]


def choose(connection: apsw.Connection, output: str, interval_ms: int, now_ms: int, epoch: int) -> list[Row]:
    """The newest journal rows of an output whose interval is over, up to what one merge takes, without a gap."""
    most = MERGE_ROWS + interval_ms // 1000 + 1
    rows = ask(connection, "free_journal", {"output": output, "most": most})
    chosen: list[Row] = []
    size = merged = 0
    for row in (Row(*values) for values in rows):
        if not chosen and not _complete(row, interval_ms, now_ms, epoch):
            continue
        size += row.decoded
        merged += row.merged(interval_ms)
        if chosen and (not follows(chosen[-1], row) or size > MERGE_BYTES or len(chosen) == MERGE_ROWS):
            break
        if chosen and merged > MERGED_BYTES:
            break
        chosen.append(row)
    return chosen


def follows(newer: Row, row: Row) -> bool:
    """Whether no window lies between two rows: one that does may be sealed already, and covers must not overlap."""
    return (row.epoch, row.window) == (newer.epoch, newer.first - 1)


def _complete(row: Row, interval_ms: int, now_ms: int, epoch: int) -> bool:
    """Whether the interval that a row belongs to is over: no more rows can come for it."""
    # A rotation is made just after its second ended. A row of another run, or from a future that a clock's jump back
    # has made unreachable, is complete: nothing else will come to it.
    interval_end = ((row.made - 1_000) // interval_ms + 1) * interval_ms
    return interval_end <= now_ms or row.epoch != epoch or row.made > now_ms + _CLOCK_JUMP_MS


def merge_rows(
    connection: apsw.Connection,
    rows: Sequence[Row],
    merge: Merge,
    interval_ms: int,
    base: dict[str, object],
    output: str,
) -> Merged:
    """Merge rows and finish the parts. Rows that are damaged, or that the core refuses, are set apart."""
    with connection:
        good, damaged, lines = merge_good(connection, rows, merge, interval_ms)
    parts = list(_parts(lines, good, base, output)) if good else []
    return Merged(good, parts, damaged)


def merge_good(
    connection: apsw.Connection, rows: Sequence[Row], merge: Merge, length_ms: int
) -> tuple[list[Row], list[int], list[bytes]]:
    """The rows that could be merged, the items of those that could not, and the merged lines.

    Rows that are gone are left out: whoever took them, or gave them up, has counted them. Inside a transaction, so that
    none goes while it is read.
    """
    damaged: list[int] = []
    good: list[Row] = []
    for row in rows:
        try:
            read_blob(connection, row.item)
            good.append(row)
        except GoneBlob:
            continue
        except DamagedBlob as error:
            log.error("a second of metrics is damaged and lost: %s", error)
            damaged.append(row.item)
    try:
        lines = merge(_decoded(connection, good), length_ms)
    except Exception:
        # One row in it must be at fault: find it, and keep the others.
        log.exception("a snapshot could not be merged")
        bad = [row for row in good if not _mergeable(connection, row, merge, length_ms)]
        damaged += [row.item for row in bad]
        good = [row for row in good if row not in bad]
        if not bad:
            raise
        lines = merge(_decoded(connection, good), length_ms)
    return good, damaged, lines


def seal(transaction: Transaction, output: str, merged: Merged) -> bool:
    """Rows out, parts in. False, and nothing is changed, if a row is not there any more: it was given up meanwhile."""
    connection = transaction.connection
    if not all_wait(connection, [output], [row.item for row in merged.rows]):
        return False
    for row in merged.rows:
        take(connection, output, row.item)
    sources = add_sources(merged.rows)
    for part in merged.parts:
        add_item(
            connection,
            SNAPSHOT,
            part.header,
            part.lines,
            counts={"": part.points},
            sources=sources,
            outputs=[output],
            born=max(row.born for row in merged.rows),
            window=(merged.rows[0].epoch, max(row.window for row in merged.rows)),
            first=min(row.first for row in merged.rows),
            blob=part.blob,
        )
    return True


def all_wait(connection: apsw.Connection, outputs: Sequence[str], items: Sequence[int]) -> bool:
    """Whether each of the outputs still waits for each of the items."""
    values = {"items": msgspec.json.encode(items).decode(), "outputs": msgspec.json.encode(outputs).decode()}
    return int(ask(connection, "waiting_for", values)[0][0]) == len(outputs) * len(items)


def add_sources(rows: Iterable[Row]) -> dict[str, int]:
    """The points of some rows by source."""
    sources: Counter[str] = Counter()
    for row in rows:
        sources.update(msgspec.json.decode(row.sources, type=dict[str, int]))
    return dict(sources)


def batch_id(agent: str, output: str, covers: Sequence[int]) -> str:
    """A snapshot's id, a function of (agent, output, covers)."""
    name = output if _PLAIN.fullmatch(output) else blake2b(output.encode(), digest_size=12).hexdigest()
    return f"sn-{agent}-{name}-" + "-".join(map(str, covers))


def points_of(line: bytes) -> int:
    """How many points a snapshot line holds."""
    return msgspec.json.decode(line, type=_Points).n


def _decoded(connection: apsw.Connection, rows: Sequence[Row]) -> Iterator[list[bytes]]:
    for row in rows:
        yield unseal(read_blob(connection, row.item))[1]


def _mergeable(connection: apsw.Connection, row: Row, merge: Merge, interval_ms: int) -> bool:
    try:
        return all(points_of(line) >= 0 for line in merge(_decoded(connection, [row]), interval_ms))
    except Exception:
        log.exception("the core refuses what it journaled at %d: these points are lost", row.made)
        return False


def _parts(lines: Sequence[bytes], rows: Sequence[Row], base: dict[str, object], output: str) -> Iterator[Part]:
    first, last = min(row.first for row in rows), max(row.window for row in rows)
    for number, piece in enumerate(_cut(lines)):
        covers = [rows[0].epoch, first, last, number]
        header = {
            **base,
            "batch": batch_id(str(base["agent"]), output, covers),
            "type": "snapshot",
            "count": len(piece),
            "made": max(row.made for row in rows),
            "covers": covers,
        }
        yield Part(header, piece, sum(map(points_of, piece)), encode_batch(header, piece))


def _cut(lines: Sequence[bytes]) -> Iterator[list[bytes]]:
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if piece and size + len(line) > PART_BYTES:
            yield piece
            piece, size = [], 0
        piece.append(line)
        size += len(line) + 1
    if piece:
        yield piece
