"""Counters and gauges: the aggregates that are a handful of numbers."""

from __future__ import annotations

from sendoff_server.aggregate.canonical import MAX_SAFE_INTEGER, number

# What a snapshot holds at most. Values are at most 1e200 each and weights 1e6, so 2^53 of them stay far below; and
# sums stop here when hostile lines are merged, so that a merged line can always be read again.
MAX_SUM = 1e250
MAX_WEIGHT = 1e50


class Total:
    """A running sum of doubles that keeps what rounding drops (Knuth's two-sum), so that order hardly matters.

    Integers below 2^53 are exact; the relative error of other sums stays far below 1e-12.
    """

    __slots__ = ("_rest", "_sum")

    def __init__(self, value: float = 0.0) -> None:
        self._sum = value
        self._rest = 0.0

    def add(self, value: float) -> None:
        old = self._sum
        self._sum = new = old + value
        back = new - old
        self._rest += (old - (new - back)) + (value - back)

    def merge(self, other: Total) -> None:
        self.add(other._sum)
        self._rest += other._rest

    @property
    def value(self) -> float:
        return max(-MAX_SUM, min(MAX_SUM, self._sum + self._rest))


def points(n: int) -> int:
    """A count of points, kept where every JSON reader has it exactly. A lower bound stays right under merging."""
    return min(n, MAX_SAFE_INTEGER)


class Counter:
    """`sum` of value ÷ rate over `n` points."""

    __slots__ = ("n", "total")
    type = "counter"

    def __init__(self, total: float = 0.0, n: int = 0) -> None:
        self.total = Total(total)
        self.n = n

    @property
    def sum(self) -> float:
        return self.total.value

    def add(self, value: float, rate: float) -> None:
        self.total.add(value / rate)
        self.n += 1

    def merge(self, other: Counter) -> None:
        self.total.merge(other.total)
        self.n = points(self.n + other.n)

    def encode(self) -> str:
        return f'"sum":{number(self.sum)},"n":{self.n}'


class Gauge:
    """The newest value (`last`, set at `at`), and the least and greatest of the `n` values that were set.

    `ord` breaks ties of `at` in merges: of the same moment, the value that was journaled later is the newer one.
    """

    __slots__ = ("at", "last", "max", "min", "n", "ord")
    type = "gauge"

    def __init__(self, last: float, at: int, low: float, high: float, n: int, order: tuple[int, int] = (0, 0)) -> None:
        self.last = last
        self.at = at
        self.min = low
        self.max = high
        self.n = n
        self.ord = order

    def set(self, value: float, at: int) -> None:
        if at >= self.at:
            self.last = value
            self.at = at
        self.min = min(self.min, value)
        self.max = max(self.max, value)
        self.n += 1

    def merge(self, other: Gauge) -> None:
        if (other.at, other.ord, other.last) > (self.at, self.ord, self.last):
            self.last, self.at, self.ord = other.last, other.at, other.ord
        self.min = min(self.min, other.min)
        self.max = max(self.max, other.max)
        self.n = points(self.n + other.n)

    def encode(self) -> str:
        return (
            f'"last":{number(self.last)},"at":{self.at},"min":{number(self.min)},"max":{number(self.max)},"n":{self.n}'
        )
