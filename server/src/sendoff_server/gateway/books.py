"""The books that agents report (wire format, section 6, ledger lines), read and held against their own totals. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from sendoff_server.gateway.events import LineError

PARTS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "events": ("received", ("delivered", "folded", "pending", "dead", "not_routed"), "lost"),
    "points_in": ("received", ("journaled",), "lost"),
    "points_out": ("journaled", ("delivered", "pending", "dead", "not_routed"), "lost"),
    "lines": ("received", ("accepted",), "rejected"),
}
"""Of each book: its first number, the numbers it must equal together, and the key of those counted by reason."""
_MOST = 2**53


def check(line: bytes) -> dict[str, Any]:
    """Decode one ledger line. Raises ``LineError`` naming the field."""
    try:
        found = msgspec.json.decode(line)
    except (ValueError, RecursionError) as error:
        raise LineError(f"not JSON: {error}") from error
    if not isinstance(found, dict) or [type(found[key]) for key in ("book", "memo") if key in found] != [str]:
        raise LineError("book: a ledger line has a book or a memo")
    for name, value in found.items():
        if isinstance(value, int | float) and not -_MOST < value < _MOST:
            raise LineError(f"{name[:100]}: out of range")
    if found.get("book") in PARTS:
        total, parts, by_reason = PARTS[found["book"]]
        for name in (total, *parts):
            if not _is_count(found.get(name, 0)):
                raise LineError(f"{name}: not a count")
        _check_reasons(found, by_reason)
    else:
        for name, value in found.items():
            if isinstance(value, dict):
                _check_reasons(found, name)
    return found


def imbalance(book: dict[str, Any]) -> int:
    """The first number of a book minus all the others: 0 when it balances."""
    total, parts, by_reason = PARTS[book["book"]]
    named = sum(book.get(name, 0) for name in parts)
    return int(book.get(total, 0) - named - sum(book.get(by_reason, {}).values()))


@dataclass(slots=True)
class Statement:
    """Books added up. ``received`` (the first number of each) equals the sum of the others when ``off`` is 0."""

    received: int = 0
    journaled: int = 0
    delivered: int = 0
    folded: int = 0
    pending: int = 0
    dead: int = 0
    not_routed: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    off: int = 0

    @property
    def lost_total(self) -> int:
        return sum(self.lost.values())


def add_up(books: Iterable[dict[str, Any]], name: str) -> Statement:
    """All books called ``name`` (``events`` or ``points_out``) as one statement."""
    sum_ = Statement()
    total, parts, by_reason = PARTS[name]
    for book in books:
        if book.get("book") != name:
            continue
        sum_.received += book.get(total, 0)
        for part in parts:
            setattr(sum_, part, getattr(sum_, part) + book.get(part, 0))
        for reason, n in book.get(by_reason, {}).items():
            sum_.lost[reason] = sum_.lost.get(reason, 0) + n
        sum_.off += abs(imbalance(book))
    return sum_


def _check_reasons(found: dict[str, Any], name: str) -> None:
    reasons = found.get(name, {})
    if not isinstance(reasons, dict) or not all(_is_count(n) for n in reasons.values()):
        raise LineError(f"{name}: not an object of counts by reason")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST
