"""Which series there are, and what becomes of those beyond the limit: folded by name, or, for gauges, lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sendoff_server.aggregate import snapshot

if TYPE_CHECKING:
    from sendoff_server.aggregate.contract import Limits

SWEEP_MS = 60_000
MAX_OFFENDERS = 1_000
SHOWN_OFFENDERS = 20
OVERFLOW_NAME = "sendoff.overflow"
OVERFLOW_TAGS = snapshot.tags_json({"sendoff_overflow": "true"})

Key = tuple[str, str, str, str]  # name, type, unit, tags as written: sorts as snapshot lines do


@dataclass(slots=True, eq=False)
class Known:
    """A series: the beginning of its snapshot lines, and when it last got a point."""

    key: Key
    identity: str
    seen_ms: int
    overflow: bool = False


class SeriesTable:
    """The series that have a place of their own, the names that overflowed, and the worst offenders."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._known: dict[Key, Known] = {}
        self._overflow_names: dict[str, int] = {}  # name to when it last overflowed
        self._offenders: dict[str, int] = {}
        self._swept_ms = 0

    def __len__(self) -> int:
        return len(self._known)

    def admit(self, key: Key, now_ms: int) -> Known | None:
        """The series, with a place of its own; None beyond the limit."""
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= self._limits.max_series:
                return None
            known = self._known[key] = _known(key, now_ms)
        known.seen_ms = now_ms
        return known

    def overflow(self, key: Key, now_ms: int) -> Known:
        """The series that a point beyond the limit is folded into. Not for gauges."""
        name, kind, unit, _ = key
        if name in self._overflow_names or len(self._overflow_names) < self._limits.overflow_names:
            self._overflow_names[name] = now_ms
        else:
            name = OVERFLOW_NAME
        return _known((name, kind, unit, OVERFLOW_TAGS), now_ms, overflow=True)

    def offend(self, name: str, points: int) -> None:
        """Count points that were folded or lost because their series was one too many."""
        if name not in self._offenders and len(self._offenders) >= MAX_OFFENDERS:
            name = OVERFLOW_NAME
        self._offenders[name] = self._offenders.get(name, 0) + points

    def worst(self) -> list[tuple[str, int]]:
        return sorted(self._offenders.items(), key=lambda item: (-item[1], item[0]))[:SHOWN_OFFENDERS]

    def sweep(self, now_ms: int) -> None:
        """Let go of what got nothing for a while; at most once a minute, because it looks at every series."""
        if 0 <= now_ms - self._swept_ms < min(SWEEP_MS, self._limits.idle_ms):
            return
        self._swept_ms = now_ms
        oldest = now_ms - self._limits.idle_ms
        self._known = {key: known for key, known in self._known.items() if known.seen_ms > oldest}
        self._overflow_names = {name: seen for name, seen in self._overflow_names.items() if seen > oldest}


def _known(key: Key, now_ms: int, *, overflow: bool = False) -> Known:
    name, kind, unit, tags = key
    return Known(key, snapshot.identity(name, tags, unit, kind), now_ms, overflow)
