"""Sets: how many distinct members were seen. Exact hashes up to 1,024 of them, HyperLogLog registers beyond.

The estimator is the improved one of O. Ertl, "New cardinality estimation algorithms for HyperLogLog sketches", 2017,
algorithm 6 (with its functions sigma and tau, algorithms 5 and 6): no constants fitted to data, good over the range.
"""

from __future__ import annotations

from base64 import b64encode
from math import inf, log, sqrt
from typing import TYPE_CHECKING

from xxhash import xxh64_intdigest

from sendoff_server.aggregate.canonical import MAX_SAFE_INTEGER
from sendoff_server.aggregate.scalar import points

if TYPE_CHECKING:
    from collections.abc import Iterable

P = 14
REGISTERS = 1 << P
Q = 64 - P
MAX_REGISTER = Q + 1
MAX_HASHES = 1_024


class Distinct:
    """The distinct members among `n` points: `hashes` while they are few, `registers` (else None) afterwards."""

    __slots__ = ("hashes", "n", "registers")
    type = "set"

    def __init__(self) -> None:
        self.n = 0
        self.hashes: set[int] = set()
        self.registers: bytearray | None = None

    def add(self, member: bytes) -> None:
        self.n += 1
        self._insert((xxh64_intdigest(member),))

    def merge(self, other: Distinct) -> None:
        self.n = points(self.n + other.n)
        if other.registers is None:
            self._insert(other.hashes)
            return
        if self.registers is None:
            self.registers = _registers(self.hashes)
            self.hashes = set()
        self.registers = bytearray(map(max, self.registers, other.registers))

    def _insert(self, hashes: Iterable[int]) -> None:
        if self.registers is not None:
            _raise(self.registers, hashes)
            return
        self.hashes.update(hashes)
        if len(self.hashes) > MAX_HASHES:
            self.registers = _registers(self.hashes)
            self.hashes = set()

    @property
    def est(self) -> int:
        return len(self.hashes) if self.registers is None else estimate(self.registers)

    def encode(self) -> str:
        if self.registers is None:
            members = '"hashes":[' + ",".join(f'"{h:016x}"' for h in sorted(self.hashes)) + "]"
        else:
            members = f'"hll":"{b64encode(self.registers).decode()}"'
        return f'"n":{self.n},"est":{self.est},"p":{P},{members}'


def _registers(hashes: Iterable[int]) -> bytearray:
    registers = bytearray(REGISTERS)
    _raise(registers, hashes)
    return registers


def _raise(registers: bytearray, hashes: Iterable[int]) -> None:
    for h in hashes:
        register = h >> Q
        value = Q - (h & ((1 << Q) - 1)).bit_length() + 1
        if value > registers[register]:
            registers[register] = value


def estimate(registers: bytes | bytearray) -> int:
    """The number of distinct members behind the registers, rounded to an integer."""
    counts = [registers.count(value) for value in range(MAX_REGISTER + 1)]
    z = REGISTERS * _tau(1.0 - counts[MAX_REGISTER] / REGISTERS)
    for count in reversed(counts[1:MAX_REGISTER]):
        z = 0.5 * (z + count)
    z += REGISTERS * _sigma(counts[0] / REGISTERS)
    if z == 0:  # every register is full, which no real data reaches
        return MAX_SAFE_INTEGER
    return min(MAX_SAFE_INTEGER, int(REGISTERS * REGISTERS / (2 * log(2) * z) + 0.5))


def _sigma(x: float) -> float:
    if x == 1.0:
        return inf
    y, z, previous = 1.0, x, -1.0
    while z != previous:
        x *= x
        previous = z
        z += x * y
        y += y
    return z


def _tau(x: float) -> float:
    if x in (0.0, 1.0):
        return 0.0
    y, z, previous = 1.0, 1.0 - x, -1.0
    while z != previous:
        x = sqrt(x)
        previous = z
        y *= 0.5
        z -= (1.0 - x) ** 2 * y
    return z / 3.0
