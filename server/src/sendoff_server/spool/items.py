"""Items of the spool: put in, read back with their checksum verified, and taken out."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import apsw
import msgspec
import xxhash

from sendoff_server.spool.records import Sealed
from sendoff_server.spool.sql import ask, tell
from sendoff_server.wire.batch import BodyLimits, decode_body, encode_batch, peek_header

EVENTS, SNAPSHOT, JOURNAL = 0, 1, 2
KINDS: Mapping[int, Any] = {EVENTS: "events", SNAPSHOT: "snapshot", JOURNAL: "journal"}

_OWN = BodyLimits(raw=1 << 31, decoded=1 << 31, batches=1, line=1 << 31, members=1, lines=1 << 31)
"""What the spool wrote itself and has just checked needs no limits."""


class DamagedBlob(Exception):
    """A blob is not what was stored."""


class GoneBlob(DamagedBlob):
    """There is none any more: its item was taken, or given up and counted."""


def checksum(blob: bytes) -> bytes:
    """128 bits of XXH3: a flipped bit is what it is to find, not an attacker who can write to the disk."""
    return xxhash.xxh3_128_digest(blob)


def unseal(blob: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """Header and lines of a blob whose checksum was verified."""
    batch = decode_body(blob, "zstd", _OWN)[0]
    return batch.header, batch.lines


def add_item(
    connection: apsw.Connection,
    kind: int,
    header: dict[str, Any],
    lines: Sequence[bytes],
    *,
    counts: Mapping[str, int],
    sources: Any,
    outputs: Iterable[str],
    born: int,
    window: tuple[int, int] = (0, 0),
    first: int = 0,
    length_ms: int = 1000,
    blob: bytes | None = None,
    place: int | None = None,
    sealed: bool = False,
) -> int:
    """Store a batch for some outputs; its item. ``counts``: events by source, or points with the source ''.

    ``born``: the agent's running time in ms when the data came in. ``window``: the epoch and the number of the last
    window, ``first`` that of the first, if there are several. ``place``: where it stands in the line, if not last.
    ``sealed``: events that are ready to be offered also by an output that gathers.
    """
    blob = blob if blob is not None else encode_batch(header, lines)
    values = {
        "id": header["batch"],
        "kind": kind,
        "epoch": window[0],
        "window": window[1],
        "first": first,
        "length": length_ms,
        "born": born,
        "made": header["made"],
        "lines": len(lines),
        "n": sum(counts.values()),
        "decoded": sum(map(len, lines)) + len(lines) + 300,
        "sources": msgspec.json.encode(sources).decode(),
        "checksum": checksum(blob),
        "blob": blob,
    }
    item = int(ask(connection, "add_item", values)[0][0])
    tell(connection, "add_content", [(item, source, n) for source, n in counts.items()])
    tell(connection, "add_delivery", [(output, kind, place or item, item, sealed) for output in outputs])
    return item


def take(connection: apsw.Connection, output: str, item: int) -> int | None:
    """An output is done with an item: the place it had. None if it was done before, and then nothing may be counted."""
    done = ask(connection, "take_delivery", {"output": output, "item": item})
    ask(connection, "drop_item", {"item": item})
    return int(done[0][0]) if done else None


def runs(sources: Iterable[str]) -> list[list[Any]]:
    """The sources of an events batch's lines, as they are kept: [[source, lines], …]."""
    return [[source, sum(1 for _ in run)] for source, run in groupby(sources)]


def read_waiting(
    connection: apsw.Connection,
    query: str,
    output: str,
    most: int,
    room: int,
    without: Collection[int] = (),
    sealed: bool = False,
) -> tuple[list[Sealed], list[int]]:
    """Batches up to a number and a size but for some items, and the items whose blob is damaged.

    ``sealed``: only events that were gathered.
    """
    found: list[Sealed] = []
    damaged: list[int] = []
    # One by one: the blobs of a backlog would not fit in memory.
    values = {"output": output, "most": most, "without": msgspec.json.encode(list(without)).decode(), "sealed": sealed}
    for (chosen,) in ask(connection, query, values):
        for item, _, kind, lines, n, made, decoded, expected, blob in ask(connection, "sealed", {"item": chosen}):
            if checksum(blob) != expected:
                damaged.append(item)
                continue
            # A batch goes by the name that it says of itself, whatever became of its row.
            name = peek_header(blob)["batch"]
            room -= len(blob)
            if room < 0 and found:
                return found, damaged
            found.append(Sealed(item, name, KINDS[kind], lines, n, made, decoded, blob))
    return found, damaged


def read_blob(connection: apsw.Connection, item: int) -> bytes:
    """An item's blob. Raises ``DamagedBlob``, and ``GoneBlob`` if the item is gone."""
    rows = ask(connection, "blob", {"item": item})
    if not rows:
        raise GoneBlob(f"item {item} is gone")
    expected, blob = rows[0]
    if checksum(blob) != expected:
        raise DamagedBlob(f"item {item} is not what was stored")
    return bytes(blob)
