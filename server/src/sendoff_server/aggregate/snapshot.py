"""Snapshot lines: one series of one window as canonical JSON, read strictly, written so that equal means equal bytes.

Whatever comes out of `decode` satisfies every rule of wire-format.md section 5 and can be merged and encoded again;
everything else is a SnapshotError that names the field. Lines may come from anywhere, so nothing in them is trusted.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeAlias

import msgspec
from msgspec import Meta

from sendoff_server.aggregate.canonical import MAX_SAFE_INTEGER, string
from sendoff_server.aggregate.histogram import MAX_INDEX, MIN_INDEX, SCALE, Distribution
from sendoff_server.aggregate.hyperloglog import MAX_HASHES, MAX_REGISTER, REGISTERS, Distinct, P
from sendoff_server.aggregate.scalar import MAX_SUM, MAX_WEIGHT, Counter, Gauge, Total
from sendoff_server.aggregate.statsd import MAX_NAME, MAX_TAG, MAX_VALUE

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_LINE = 1_048_576
MAX_UNIT = 64
MAX_TAGS = 100  # 64 of the line, and what source and agent add
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

Aggregate: TypeAlias = Counter | Gauge | Distribution | Distinct
Tags: TypeAlias = dict[str, str | list[str]]


class SnapshotError(ValueError):
    """A snapshot line that cannot be used. `field` is the part at fault, `detail` says what is wrong with it."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}")
        self.field = field
        self.detail = detail


@dataclass(slots=True)
class Series:
    """One series in one window of `length_ms` that begins at `start_ms`; `value` is its aggregate.

    `ord` is (agent's epoch, number of the window it was journaled in). `identity` is the beginning of the encoded line:
    name, tags, unit and type.
    """

    name: str
    tags: Tags
    unit: str
    type: str
    start_ms: int
    length_ms: int
    ord: tuple[int, int]
    value: Aggregate
    identity: str
    tags_text: str

    def widen(self, length_ms: int) -> None:
        """Move to the window of `length_ms` that holds this one; a longer window stays as it is."""
        self.length_ms = max(self.length_ms, length_ms)
        self.start_ms -= self.start_ms % self.length_ms

    def merge(self, other: Series) -> None:
        """Add `other`, which must have the same identity and window."""
        self.value.merge(other.value)  # type: ignore[arg-type]  # equal identities have equal types
        if isinstance(self.value, Gauge):
            self.ord = self.value.ord  # so that ties go the same way, however the lines are grouped
        else:
            self.ord = max(self.ord, other.ord)

    def encode(self) -> bytes:
        return encode(self.identity, (self.start_ms, self.length_ms), self.ord, self.value)

    def place(self) -> tuple[str, str, str, str, int, int]:
        """Where the line stands in a snapshot. Code points sort as their UTF-8 bytes do."""
        return (self.name, self.type, self.unit, self.tags_text, self.start_ms, self.length_ms)


def tags_json(tags: Tags) -> str:
    """Tags as written in a line: keys sorted, several values of one key as a list."""
    parts = []
    for key in sorted(tags):
        value = tags[key]
        text = string(value) if isinstance(value, str) else "[" + ",".join(map(string, value)) + "]"
        parts.append(f"{string(key)}:{text}")
    return "{" + ",".join(parts) + "}"


def identity(name: str, tags_text: str, unit: str, kind: str) -> str:
    return f'{{"name":{string(name)},"tags":{tags_text},"unit":{string(unit)},"type":"{kind}"'


def encode(identity: str, window: tuple[int, int], order: tuple[int, int], value: Aggregate) -> bytes:
    """One snapshot line, without a line end."""
    head = f'{identity},"w":[{window[0]},{window[1]}],"ord":[{order[0]},{order[1]}],'
    return f"{head}{value.encode()}}}".encode()


def merge(snapshots: Iterable[Iterable[bytes]], length_ms: int) -> list[bytes]:
    """All lines of all snapshots merged to windows of at least `length_ms`, in order. Raises SnapshotError.

    Lines may be longer than a sender's: those of two windows together, or of one with very many buckets.
    """
    merged: dict[tuple[str, int, int], Series] = {}
    for snapshot in snapshots:
        for line in snapshot:
            series = decode(line, longest=None)
            series.widen(length_ms)
            key = (series.identity, series.start_ms, series.length_ms)
            same = merged.setdefault(key, series)
            if same is not series:
                same.merge(series)
    return [series.encode() for series in sorted(merged.values(), key=Series.place)]


# ---- reading -------------------------------------------------------------------------------------------------------

_Count = Annotated[int, Meta(ge=1, le=MAX_SAFE_INTEGER)]
_Natural = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)]
_Sum = Annotated[float, Meta(ge=-MAX_SUM, le=MAX_SUM)]
_Weight = Annotated[float, Meta(gt=0, le=MAX_WEIGHT)]
_Value = Annotated[float, Meta(ge=-MAX_VALUE, le=MAX_VALUE)]
_Buckets = list[tuple[Annotated[int, Meta(ge=MIN_INDEX, le=MAX_INDEX)], _Weight]]


class _Line(msgspec.Struct, tag_field="type", forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
    tags: Annotated[dict[str, str | list[str]], Meta(max_length=MAX_TAGS)]
    unit: Annotated[str, Meta(max_length=MAX_UNIT)]
    w: tuple[_Natural, _Count]
    ord: tuple[_Natural, _Natural]
    n: _Count


class _CounterLine(_Line, tag="counter"):
    sum: _Sum

    def aggregate(self) -> Counter:
        return Counter(self.sum, self.n)


class _GaugeLine(_Line, tag="gauge"):
    last: float
    at: _Natural
    min: float
    max: float

    def aggregate(self) -> Gauge:
        if not self.min <= self.last <= self.max:
            _refuse("last", "it must lie between min and max")
        return Gauge(self.last, self.at, self.min, self.max, self.n, self.ord)


class _DistributionLine(_Line, tag="distribution"):
    weight: _Weight
    sum: _Sum
    min: _Value
    max: _Value
    scale: Annotated[int, Meta(ge=SCALE, le=SCALE)]
    zero: Annotated[float, Meta(ge=0, le=MAX_WEIGHT)]
    pos: _Buckets
    neg: _Buckets

    def aggregate(self) -> Distribution:
        if self.min > self.max:
            _refuse("min", "it must not be above max")
        value = Distribution()
        value.n, value.weight, value.total = self.n, self.weight, Total(self.sum)
        value.min, value.max, value.zero = self.min, self.max, self.zero
        value.pos, value.neg = _rising("pos", self.pos), _rising("neg", self.neg)
        return value


class _SetLine(_Line, tag="set"):
    est: _Natural
    p: Annotated[int, Meta(ge=P, le=P)]
    hashes: Annotated[list[Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]], Meta(max_length=MAX_HASHES)] | None = None
    hll: str | None = None

    def aggregate(self) -> Distinct:
        value = Distinct()
        value.n = self.n
        if self.hashes is not None and self.hll is None:
            if any(one >= two for one, two in pairwise(self.hashes)):
                _refuse("hashes", "they must rise")
            value.hashes = {int(h, 16) for h in self.hashes}
            if self.est != len(value.hashes):
                _refuse("est", "it must be the number of hashes")
        elif self.hll is not None and self.hashes is None:
            value.registers = _read_registers(self.hll)
        else:
            _refuse("hashes", "exactly one of hashes and hll must be there")
        return value


_decoder = msgspec.json.Decoder(_CounterLine | _GaugeLine | _DistributionLine | _SetLine)
_FAULT = re.compile(r"at `\$\.?([^`.\[]*)|field `([^`]*)`")


def decode(line: bytes, *, longest: int | None = MAX_LINE) -> Series:
    """Read one snapshot line of at most `longest` bytes. Raises SnapshotError, which names the field at fault ("line":
    the line itself).
    """
    if longest is not None and len(line) > longest:
        _refuse("line", f"longer than {longest:,} bytes")
    try:
        raw = _decoder.decode(line)
    except RecursionError:
        _refuse("line", "nested too deep")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # ValidationError is a DecodeError
        fault = _FAULT.search(str(error))  # the text may repeat a key of the line, which may be long
        _refuse(((fault and (fault[1] or fault[2])) or "line")[:MAX_UNIT], str(error)[:300])
    _check_text("name", raw.name, MAX_NAME)
    _check_text("unit", raw.unit, MAX_UNIT)
    _check_tags(raw.tags)
    start, length = raw.w
    if start % length:
        _refuse("w", "the start must be a multiple of the length")
    value = raw.aggregate()
    text = tags_json(raw.tags)
    whole = identity(raw.name, text, raw.unit, value.type)
    return Series(raw.name, raw.tags, raw.unit, value.type, start, length, raw.ord, value, whole, text)


def _refuse(field: str, detail: str) -> NoReturn:
    raise SnapshotError(field, detail)


def _check_text(field: str, text: str, limit: int) -> None:
    if _CONTROL.search(text):
        _refuse(field, "control characters are not allowed")
    if not text.isascii() or len(text) > limit:
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            _refuse(field, "lone surrogates are not allowed")
        if size > limit:
            _refuse(field, f"longer than {limit} bytes")


def _check_tags(tags: Tags) -> None:
    for key, value in tags.items():
        values = [value] if isinstance(value, str) else value
        if not key:
            _refuse("tags", "a key must not be empty")
        if not isinstance(value, str) and (len(value) < 2 or any(a >= b for a, b in pairwise(value))):
            _refuse("tags", "a list must have two values or more, sorted, each once")
        for one in values:
            _check_text("tags", f"{key}:{one}", MAX_TAG + 1)  # a bare key of 512 bytes is written with a colon here
    if sum(1 if isinstance(value, str) else len(value) for value in tags.values()) > MAX_TAGS:
        _refuse("tags", f"more than {MAX_TAGS}")


def _rising(field: str, buckets: _Buckets) -> dict[int, float]:
    if any(one[0] >= two[0] for one, two in pairwise(buckets)):
        _refuse(field, "the indices must rise")
    return dict(buckets)


def _read_registers(text: str) -> bytearray:
    try:
        registers = bytearray(b64decode(text, validate=True))
    except (Base64Error, ValueError):
        _refuse("hll", "not base64")
    if len(registers) != REGISTERS or max(registers) > MAX_REGISTER:
        _refuse("hll", f"it must hold {REGISTERS:,} registers of 0 to {MAX_REGISTER}")
    return registers
