"""Points of a direct route, summed up for a while before they are sent, so that a busy app costs the gateway little.

Of a counter one value is left, their sum; of a gauge the last one; of a set each member once; of a distribution all, as
each has its place in the histogram. What is left is what goes on the wire and is counted there.

An exception from a signal handler may come between any two calls. So what is kept is never changed but replaced, in one
step with letting go of the points that were added (`Points.taken`).
"""

from __future__ import annotations

from math import fsum

from sendoff.metrics import EXACT, VALUE_LIMIT
from sendoff.sending.points import grouped, payloads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sendoff.metrics import Series
    from sendoff.sending.points import Grouped, Point, Points, Value

FULL = 8_192
"""Values after which a window ends early: some 1 MB, and a few ms to make lines of."""


class Window:
    """The points of `length` seconds."""

    __slots__ = ("kept", "length")

    def __init__(self, length: float) -> None:
        self.length = length
        self.kept = EMPTY

    def gather(self, points: Points, at_most: int, now: float) -> None:
        """Add up to `at_most` of the points that wait. The first one begins the window."""
        if taken := points.take(at_most):
            kept = Kept(added(self.kept.values, taken), self.kept.ends_at or now + self.length)
            self.kept, points.taken = kept, []  # no call between the two, so no interruption either

    @property
    def ends_at(self) -> float | None:
        """When (monotonic) it ends; None while it is empty."""
        return self.kept.ends_at

    @property
    def size(self) -> int:
        """Values in it."""
        return self.kept.size

    def over(self, now: float) -> bool:
        """Whether it is to be sent."""
        return self.kept.size >= FULL or (self.kept.ends_at is not None and now >= self.kept.ends_at)

    def pack(self, room: int) -> tuple[list[tuple[bytes, int]], int]:
        """See `points.payloads`. Whoever keeps the payloads sets `kept` to EMPTY in the same step."""
        return payloads(self.kept.values, room)

    def __repr__(self) -> str:
        return f"Window(length={self.length}, size={self.size}, ends_at={self.ends_at})"


class Kept:
    """What is in a window, as one value that never changes."""

    __slots__ = ("ends_at", "size", "values")

    def __init__(self, values: Grouped, ends_at: float | None) -> None:
        self.values = values
        self.ends_at = ends_at
        self.size = sum(map(len, values.values()))


EMPTY = Kept({}, None)
"""What is in a window that has not begun."""


def added(before: Grouped, points: list[Point]) -> Grouped:
    """`before` with `points` summed up into it, as a value of its own."""
    made = dict(before)
    for series, values in grouped(points).items():
        made[series] = _together(series, [*made.get(series, ()), *values])
    return made


def _together(series: Series, values: list[Value]) -> list[Value]:
    if series.kind == "g":
        return values[-1:]
    if series.kind == "s":
        return list(dict.fromkeys(values))
    if series.kind != "c" or len(values) == 1:
        return values
    total: int | float = sum(values)  # type: ignore[arg-type]
    if type(total) is float:
        total = fsum(values)  # type: ignore[arg-type]
    elif not -EXACT < total < EXACT:
        total = float(total)
    return [total] if abs(total) / series.rate <= VALUE_LIMIT else values  # what is too large for one value stays many
