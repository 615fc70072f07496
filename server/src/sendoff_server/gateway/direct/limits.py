"""What one project may send without an agent: bytes a second, and bytes taken in and not stored yet.

Pure: time is passed in. Asked by whoever has a message of it, before it is looked at: the HTTP handler for a body, the
ZeroMQ input for a message. What is refused is not lost: the client keeps it and comes again.
"""

from collections import Counter
from dataclasses import dataclass, field

BURST_S = 2.0
HELD_BY_ALL = 256 * 1024 * 1024
"""Bytes taken in and not stored yet, of all projects together."""
FULL_S = 1.0
"""After how many seconds to come again when too much waits to be stored."""
MOST_S = 300.0


@dataclass(slots=True)
class Held:
    """Bytes that all projects together have taken in and not stored."""

    bytes: int = 0
    most: int = HELD_BY_ALL


@dataclass(slots=True)
class Allowance:
    """Of one project. `rate`: bytes a second, `in_flight`: bytes taken in and not stored yet."""

    rate: float
    in_flight: int
    everyone: Held
    held: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """How often a client was told to come again, by reason."""
    _debt: float = 0.0
    """Bytes let in that the rate has not made up for yet."""
    _at: float = 0.0

    @property
    def is_full(self) -> bool:
        """Too much waits to be stored."""
        return self.held >= self.in_flight or self.everyone.bytes >= self.everyone.most

    def admit(self, size: int, now: float) -> float:
        """Let in `size` bytes at `now` (monotonic seconds): 0, or the seconds after which to come again.

        A message that is larger than the burst goes through when nothing else did lately.
        """
        if self.is_full:
            self.refused["in_flight"] += 1
            return FULL_S
        self._pay(now)
        over = self._debt + size - self.rate * BURST_S
        if self._debt and over > 0:
            self.refused["rate"] += 1
            return min(MOST_S, max(0.05, min(over, self._debt) / self.rate))
        self._debt += size
        return 0.0

    def owes(self, own: int, now: float) -> float:
        """As `admit`, for a message whose `own` bytes were let in: what else was may have turned out to be more."""
        self._pay(now)
        over = self._debt - own - self.rate * BURST_S
        if over <= 0 and not self.is_full:
            return 0.0
        self.refused["in_flight" if self.is_full else "rate"] += 1
        return FULL_S if self.is_full else min(MOST_S, over / self.rate)

    def _pay(self, now: float) -> None:
        self._debt = max(0.0, self._debt - max(0.0, now - self._at) * self.rate)
        self._at = now

    def spend(self, size: int) -> None:
        """So many bytes more than were let in: what a compressed body turned out to be."""
        self._debt += size

    def hold(self, size: int) -> None:
        self.held += size
        self.everyone.bytes += size

    def release(self, size: int) -> None:
        self.hold(-size)
