"""Distributions: base-2 exponential histograms at the fixed scale 5, sparse, mergeable without loss.

Bucket i holds (2^(i/32), 2^((i+1)/32)]. The index comes from frexp and a search among 32 constants, never from a
logarithm, so that every implementation puts every value in the same bucket (wire-format.md section 5).
"""

from __future__ import annotations

from bisect import bisect_left
from math import frexp

from sendoff_server.aggregate.canonical import number
from sendoff_server.aggregate.scalar import MAX_WEIGHT, Total, points

SCALE = 5
MIN_INDEX = -1074 * 32 - 1  # the smallest subnormal, 2^-1074
MAX_INDEX = 1024 * 32 - 1  # the largest double, a little below 2^1024

# 2^(j/32) for j = 0 … 31, as nearest doubles
BOUNDS = (
    1.0, 1.0218971486541166, 1.0442737824274138, 1.0671404006768237,
    1.0905077326652577, 1.1143867425958924, 1.1387886347566916, 1.1637248587775775,
    1.189207115002721, 1.215247359980469, 1.241857812073484, 1.2690509571917332,
    1.2968395546510096, 1.3252366431597413, 1.3542555469368927, 1.383909881963832,
    1.4142135623730951, 1.4451808069770467, 1.4768261459394993, 1.5091644275934228,
    1.5422108254079407, 1.5759808451078865, 1.6104903319492543, 1.645755478153965,
    1.681792830507429, 1.718619298122478, 1.7562521603732995, 1.7947090750031072,
    1.8340080864093424, 1.8741676341103, 1.9152065613971474, 1.9571441241754002,
)  # fmt: skip
_HALVES = tuple(bound / 2 for bound in BOUNDS)  # exact; compared with frexp's m, which lies in [½, 1)


def index(value: float) -> int:
    """The bucket of a finite value above 0."""
    m, e = frexp(value)
    return 32 * (e - 1) + bisect_left(_HALVES, m) - 1


class Distribution:
    """A value stands for `weight` = 1 ÷ rate values; `n` counts points without weights."""

    __slots__ = ("max", "min", "n", "neg", "pos", "total", "weight", "zero")
    type = "distribution"

    def __init__(self) -> None:
        self.n = 0
        self.weight = 0.0
        self.total = Total()
        self.min = float("inf")
        self.max = float("-inf")
        self.zero = 0.0
        self.pos: dict[int, float] = {}
        self.neg: dict[int, float] = {}

    @property
    def sum(self) -> float:
        return self.total.value

    def add(self, value: float, rate: float) -> None:
        weight = 1.0 / rate
        self.n += 1
        self.weight += weight
        self.total.add(value * weight)
        if value < self.min:
            self.min = value
        if value > self.max:
            self.max = value
        if value > 0:
            i = index(value)
            self.pos[i] = self.pos.get(i, 0.0) + weight
        elif value < 0:
            i = index(-value)
            self.neg[i] = self.neg.get(i, 0.0) + weight
        else:
            self.zero += weight

    def merge(self, other: Distribution) -> None:
        self.n = points(self.n + other.n)
        self.weight += other.weight
        self.total.merge(other.total)
        self.min = min(self.min, other.min)
        self.max = max(self.max, other.max)
        self.zero += other.zero
        for mine, theirs in ((self.pos, other.pos), (self.neg, other.neg)):
            for i, weight in theirs.items():
                mine[i] = mine.get(i, 0.0) + weight

    def encode(self) -> str:
        return (
            f'"n":{self.n},"weight":{_weight(self.weight)},"sum":{number(self.sum)},"min":{number(self.min)},'
            f'"max":{number(self.max)},"scale":{SCALE},"zero":{_weight(self.zero)},'
            f'"pos":{_buckets(self.pos)},"neg":{_buckets(self.neg)}'
        )


def _buckets(buckets: dict[int, float]) -> str:
    return "[" + ",".join(f"[{i},{_weight(buckets[i])}]" for i in sorted(buckets)) + "]"


def _weight(weight: float) -> str:
    return number(min(weight, MAX_WEIGHT))
