"""Whether the spool is what it should be: checksums, sums, books. Changes nothing."""

from collections.abc import Iterator
from typing import Any

import apsw

from sendoff_server.spool import accounts
from sendoff_server.spool.items import EVENTS, checksum, unseal
from sendoff_server.spool.shares import by_line
from sendoff_server.spool.sql import QUERIES, ask

MOST = 1_000
"""Faults that are named; the others are only counted."""
ROWS = 100


def checking(connection: apsw.Connection) -> dict[str, Any]:
    """Everything that is wrong, in words, and how much was looked at."""
    faults: list[str] = []
    looked = {"items": 0, "dead": 0, "bytes": 0}
    found = 0
    for fault in _faults(connection, looked):
        found += 1
        if len(faults) < MOST:
            faults.append(fault)
    return {"faults": faults, "found": found, "looked_at": looked}


def _faults(connection: apsw.Connection, looked: dict[str, int]) -> Iterator[str]:
    for (answer,) in connection.execute("PRAGMA integrity_check(100)"):
        if answer != "ok":
            yield f"the database: {answer}"
    for table, row, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        yield f"a row of {table} ({row}) has lost its {parent}"
    yield from _sums(connection)
    yield from _blobs(connection, looked)
    for imbalance in accounts.read_books(connection).balance():
        yield f"the books do not balance: {imbalance}"


def _sums(connection: apsw.Connection) -> Iterator[str]:
    for item, n, contents in ask(connection, "wrong_contents"):
        yield f"item {item} holds {n}, but by source {contents}"
    for (item,) in ask(connection, "orphans"):
        yield f"item {item} waits for no output"
    for number, output in ask(connection, "strayed_receipts"):
        yield f"the receipt of {number} says that it waits for {output}, but nothing does"


def _blobs(connection: apsw.Connection, looked: dict[str, int]) -> Iterator[str]:
    """A few rows at a time: a read that lasts would keep the write-ahead log from being folded in."""
    for what, name in (("check_items", "items"), ("check_dead", "dead")):
        after = 0
        before = -1
        while before < after:
            before = after
            for row in connection.execute(QUERIES[what], {"after": after, "most": ROWS}):
                after, batch, kind, lines, sources, expected, blob = row
                looked[name] += 1
                looked["bytes"] += len(blob)
                if fault := _blob(batch, kind, lines, sources, expected, blob, dead=name == "dead"):
                    yield f"{'item ' if name == 'items' else 'dead/'}{after} ({batch}): {fault}"


def _blob(batch: str, kind: int, lines: int, sources: str, expected: bytes, blob: bytes, *, dead: bool) -> str | None:
    if checksum(blob) != expected:
        return "its data is damaged"
    try:
        header, found = unseal(blob)
    except Exception as error:  # noqa: BLE001  # whatever is wrong with it is what is asked for
        return f"its data cannot be read: {error}"
    if len(found) != lines:
        return f"it should have {lines} lines and has {len(found)}"
    if not dead and header["batch"] != batch:
        return f"its data calls itself {header['batch']}"
    if kind == EVENTS and sources and len(by_line(sources)) != lines:
        return "its sources do not fit its lines"
    return None
