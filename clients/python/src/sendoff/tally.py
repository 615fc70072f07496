"""What was dropped, by reason, counted exactly by any number of threads without a lock.

Adding one is one step of an `itertools.count`, which is atomic. Reading takes a step as well, which the reader
subtracts, so only the holder of the client's lock may read. The holder adds many at once to plain integers instead.
"""

from __future__ import annotations

from itertools import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

EVENT_REASONS = ("buffer_full", "too_long", "invalid", "unacceptable", "closed")
METRIC_REASONS = ("buffer_full", "too_long", "invalid", "unacceptable", "agent_absent", "send_failed", "closed")
REASONS = tuple(f"event.{reason}" for reason in EVENT_REASONS) + tuple(f"metric.{reason}" for reason in METRIC_REASONS)
INTERNAL = "internal_error"
"""Errors of our own that were kept from the application: not a drop by itself, so not among `REASONS`."""


class Tally:
    """Running totals since the client began."""

    __slots__ = ("_many", "_reads", "_steps", "full_stack", "version")

    def __init__(self) -> None:
        self._steps: dict[str, Callable[[], int]] = {reason: count().__next__ for reason in (*REASONS, INTERNAL)}
        self._reads = dict.fromkeys(self._steps, 0)
        self._many = dict.fromkeys(self._steps, 0)
        self.full_stack = 0
        """Calls that met the recursion limit. Added to without any call, for which there is no room then."""
        self.version = 0
        """Changes whenever something is added: cheap to compare. Not exact under races, which only delays a report."""

    def one(self, reason: str) -> None:
        """Count one; from any thread, at any moment."""
        self._steps[reason]()
        self.version += 1

    def many(self, reason: str, amount: int) -> None:
        """Count many at once; only for the holder of the lock."""
        self._many[reason] += amount
        self.version += 1

    def read(self, reason: str) -> int:
        """The total for one reason; only for the holder of the lock."""
        steps = self._steps[reason]()
        total = steps - self._reads[reason] + self._many[reason]
        self._reads[reason] += 1
        return total

    def totals(self, prefix: str = "") -> dict[str, int]:
        """Reasons that begin with `prefix` and have a total; only for the holder of the lock."""
        found = {reason: self.read(reason) for reason in REASONS if reason.startswith(prefix)}
        return {reason: total for reason, total in found.items() if total}

    def __repr__(self) -> str:
        return f"Tally(version={self.version})"
