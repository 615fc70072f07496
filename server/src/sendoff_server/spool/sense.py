"""What can stand in a row of the spool: SQLite takes any value that has the form of one."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import msgspec

from sendoff_server.ledger import LOST, REJECTED, EventsBook, LinesBook, PointsInBook, PointsOutBook
from sendoff_server.spool.items import EVENTS, JOURNAL

TOTAL = 1 << 53
"""A count beyond this was not counted."""
_BOOKS: Mapping[str, type] = {
    "events": EventsBook,
    "points_in": PointsInBook,
    "points_out": PointsOutBook,
    "lines": LinesBook,
}
_REASONS: Mapping[str, Mapping[str, str]] = {"lost": LOST, "rejected": REJECTED}
_CLIENT_NAMES = ("events", "points", "gap", "dropped")


def windows_named(kind: int, name: str) -> dict[str, int]:
    """The columns of a journal row that its id names as well: epoch, first window of several, last window."""
    parts = name.split("-")
    if kind != JOURNAL or not all(part.isdecimal() for part in parts[1:]):
        return {}
    columns = {3: ("epoch", "window"), 4: ("epoch", "first", "window")}.get(len(parts), ())
    return dict(zip(columns, map(int, parts[1:]), strict=False))


def named_by(kind: int, lines: int, sources: object) -> dict[str, int] | None:
    """What an item's ``sources`` say, by source; None if that is not what was stored."""
    try:
        if kind == EVENTS:
            named: dict[str, int] = {}
            for source, n in msgspec.json.decode(str(sources), type=list[tuple[str, int]]):
                named[source] = named.get(source, 0) + n
            return named if sum(named.values()) == lines else None
        return msgspec.json.decode(str(sources), type=dict[str, int])
    except msgspec.MsgspecError:
        return None


def agree(kind: int, content: Mapping[str, int], named: Mapping[str, int]) -> bool:
    """Whether two accounts of an item name the same sources (points are counted under no source)."""
    return set(content) == (set(named) if kind == EVENTS else {""})


def is_agent_id(value: object) -> bool:
    return isinstance(value, str) and len(value) == 32 and set(value) <= set("0123456789abcdef")


def is_count(row: Sequence[Any]) -> bool:
    """Whether a running total is one that is kept."""
    book, source, output, name, reason, n = row
    if not all(isinstance(value, str) for value in (source, output, reason)):
        return False
    if not isinstance(n, int) or not -TOTAL < n < TOTAL:
        return False
    if book == "clients":
        return name in _CLIENT_NAMES and bool(reason) == (name == "dropped")
    if book not in _BOOKS or name not in {each.name for each in fields(_BOOKS[book])} - {"source", "output", "pending"}:
        return False
    return reason in _REASONS[name] if name in _REASONS else reason == ""
