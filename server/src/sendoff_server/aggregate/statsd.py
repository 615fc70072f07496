"""StatsD lines in every dialect that is met in the field, decided once (wire-format.md section 4, vectors/lines.json).

A metric line is `head ":" values "|" tail`. Everything but the values is its *shape*; lines of one series differ in
nothing else, so the core remembers shapes and only reads the values of a line whose head and tail it has seen. Reading
is pure: bytes in, a shape and values or one Rejected out. A line is rejected with the first reason of section 9 that
applies; those that rank after the faults of values wait in `Shape.late` until the values have been read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import floor, inf
from typing import Final

MAX_LINE = 65_535
MAX_NAME = 512
MAX_TAG = 512
MAX_TAGS = 64
MAX_VALUE = 1e200
MIN_RATE = 1e-6
DAY_MS = 86_400_000
OLDEST_MS = 30 * DAY_MS
NEWEST_MS = 600_000

COUNTER, GAUGE, DISTRIBUTION, SET = "counter", "gauge", "distribution", "set"
TYPES: Final = {
    b"c": (COUNTER, ""),
    b"m": (COUNTER, ""),
    b"g": (GAUGE, ""),
    b"ms": (DISTRIBUTION, "ms"),
    b"h": (DISTRIBUTION, ""),
    b"d": (DISTRIBUTION, ""),
    b"s": (SET, ""),
}
Tags = tuple[tuple[str, str], ...]

is_number = re.compile(rb"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?").fullmatch
_not_finite = re.compile(rb"[+-]?(?:nan|inf|infinity)", re.IGNORECASE).fullmatch
has_control = re.compile(rb"[\x00-\x1f\x7f]").search
_http = re.compile(rb"(?:GET|HEAD|POST|PUT|DELETE|PATCH|OPTIONS|CONNECT|TRACE) .*HTTP/[0-9](?:\.[0-9])?").fullmatch
_graphite = re.compile(rb"[^ \t:|]+[ \t]+([^ \t|]+)[ \t]+-?[0-9]+(?:\.[0-9]*)?[ \t]*").fullmatch
_brackets = re.compile(rb"([^\[\]]*)\[([^\[\]]*)\]([^\[\]]*)").fullmatch
_separator = re.compile(rb"[,#;\[]").search
_time_field = re.compile(rb"T[-+.0-9]").match


class Rejected(Exception):
    """A line that is not accepted, with the reason it is counted under."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class Sample:
    """One type and its rate. `values` are those of the second and later samples of a chain; else in the line."""

    type: str
    unit: str
    rate: float = 1.0
    values: bytes = b""


@dataclass(slots=True)
class Shape:
    """All of a metric line but the values of its first sample. `t` is the second that `T` names, in milliseconds."""

    name: str
    tags: Tags
    samples: list[Sample]
    t: int | None = None
    notes: set[str] = field(default_factory=set)
    late: str | None = None


def is_binary(data: bytes) -> bool:
    """Whether the first byte belongs to a binary protocol: collectd's or statsite's."""
    return data[0] < 9 or data[0] == 0xAA


def check_protocol(line: bytes) -> None:
    """Raises Rejected for a line of Graphite, HTTP or a binary protocol, which were sent to the wrong port."""
    if is_binary(line) or _http(line) or ((m := _graphite(line)) and (is_number(m[1]) or _not_finite(m[1]))):
        raise Rejected("foreign_protocol")


def read_shape(head: bytes, tail: bytes, now_ms: int) -> Shape:
    """The shape of `head:values|tail`. The caller has made sure that there is a `:` before a `|`."""
    parts = tail.split(b"|")
    samples, fields = _split_samples(parts)
    notes: set[str] = set()
    tags: list[bytes] = []
    name = _read_name(head, tags)
    fields_by_key = _sort_fields(fields, tags, notes)
    if b"@" in fields_by_key:  # a rate that does not stand right behind the type belongs to the last sample
        values, kind, rate = samples[-1]
        if rate is not None:
            notes.add("field_repeated")
        samples[-1] = (values, kind, fields_by_key[b"@"])
    if has_control(head) or any(map(has_control, tags)):
        raise Rejected("control_character")
    if any(kind not in TYPES for _, kind, _ in samples):
        raise Rejected("type_unknown")
    late: list[str] = []
    shape = Shape(name, (), [_read_sample(one, notes, late) for one in samples], notes=notes)
    if b"T" in fields_by_key:
        shape.t = read_time(fields_by_key[b"T"], now_ms)
        if shape.t is None:
            late.append("timestamp_invalid")
    shape.tags = read_tags(tags, notes)
    if len(shape.tags) > MAX_TAGS:
        late.append("too_many_tags")
    shape.late = late[0] if late else None
    return shape


def _split_samples(parts: list[bytes]) -> tuple[list[tuple[bytes, bytes, bytes | None]], list[bytes]]:
    """The samples of a chain as (values, type, rate), and the fields after them. Raises no_type."""
    samples: list[tuple[bytes, bytes, bytes | None]] = []
    values, at = b"", 0
    while True:
        kind, chained, following = parts[at].partition(b":") if at < len(parts) else (b"", b"", b"")
        kind = kind.strip(b" \t")
        if not kind:
            raise Rejected("no_type")
        at += 1
        rate = None
        if not chained and at < len(parts) and (text := parts[at].lstrip(b" \t")).startswith(b"@"):
            rate, chained, following = text[1:].partition(b":")
            at += 1
        samples.append((values, kind, rate))
        if not chained:
            return samples, parts[at:]
        values = following


def _sort_fields(fields: list[bytes], tags: list[bytes], notes: set[str]) -> dict[bytes, bytes]:
    """The last field of each kind, without its mark; tag sections go to `tags`, joined."""
    kept: dict[bytes, bytes] = {}
    for one in fields:
        if one.startswith(b"#"):
            tags += one[1:].split(b",")
            continue
        if (text := one.lstrip(b" \t")).startswith(b"@"):
            key, value = b"@", text[1:]
        elif _time_field(one):
            key, value = b"T", one[1:]
        elif one.startswith((b"c:", b"e:", b"card:")):
            key, _, value = one.partition(b":")
        else:
            notes.add("field_unknown")
            continue
        if key in kept:
            notes.add("field_repeated")
        kept[key] = value
    return kept


def _read_name(head: bytes, tags: list[bytes]) -> str:
    """The name without the tags that stand inside it, which go to `tags`. Raises name_…"""
    base = head
    found = _separator(head)
    if found and found[0] == b"[":
        if (m := _brackets(head)) and (parts := _pairs(m[2].split(b","))):
            base = m[1] + m[3]
            tags += parts
    elif found and (parts := _pairs(head[found.end() :].replace(b";", b",").split(b","))):
        base = head[: found.start()]
        tags += parts
    if not base:
        raise Rejected("name_empty")
    if len(base) > MAX_NAME:
        raise Rejected("name_too_long")
    try:
        return base.decode()
    except UnicodeDecodeError:
        raise Rejected("name_not_utf8") from None


def _pairs(parts: list[bytes]) -> list[bytes]:
    """`k=v` parts as `k:v` tags; none if any part is not one."""
    pairs = [part.partition(b"=") for part in parts]
    return [k + b":" + v for k, _, v in pairs] if all(k and is_pair for k, is_pair, _ in pairs) else []


def _read_sample(parts: tuple[bytes, bytes, bytes | None], notes: set[str], late: list[str]) -> Sample:
    values, kind, rate_text = parts
    type_, unit = TYPES[kind]
    rate = 1.0
    if rate_text is not None and type_ in (GAUGE, SET):
        notes.add("rate_ignored")
    elif rate_text is not None:
        text = rate_text.strip(b" \t")
        rate = float(text) if is_number(text) else 0.0
        if rate < MIN_RATE:
            late.append("rate_invalid")
            rate = 1.0
        elif rate > 1:
            notes.add("rate_capped")
            rate = 1.0
    return Sample(type_, unit, rate, values)


def read_time(text: bytes, now_ms: int) -> int | None:
    """The second that a `T` field names, in milliseconds; None if it is malformed or too far from now."""
    if not is_number(text):
        return None
    seconds = float(text)
    if not abs(seconds) < 2**53:
        return None
    t = floor(seconds) * 1000
    return t if in_range(t, now_ms) else None


def in_range(t: int, now_ms: int) -> bool:
    """Whether points of the time `t` are taken."""
    return now_ms - OLDEST_MS < t < now_ms + NEWEST_MS


def read_tags(tags: list[bytes], notes: set[str]) -> Tags:
    """Sorted, each once; without empty ones (noted) and those that describe the origin."""
    seen: set[tuple[str, str]] = set()
    for raw in tags:
        tag = raw.removeprefix(b"#")
        if not tag or tag.startswith(b":"):
            notes.add("tag_dropped")
        elif not tag.startswith(b"dd.internal."):
            key, _, value = limit_tag(read_text(tag, notes), notes).partition(":")
            seen.add((key, value))
    return tuple(sorted(seen))


def read_text(raw: bytes, notes: set[str]) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        notes.add("utf8_replaced")
        return raw.decode(errors="replace")


def limit_tag(tag: str, notes: set[str]) -> str:
    """Cut a tag (`key:value`) to its limit of bytes, at a character."""
    if len(tag) * 4 <= MAX_TAG or len(raw := tag.encode()) <= MAX_TAG:
        return tag
    notes.add("tag_truncated")
    return raw[:MAX_TAG].decode(errors="ignore")


def read_values(raw: bytes, sample: Sample, notes: set[str]) -> list[tuple[bytes, float]]:
    """The numbers of a sample, each with its first character, which for a gauge may make it relative. Raises value_…"""
    if is_number(raw) and abs(value := float(raw)) / sample.rate <= MAX_VALUE:  # by far the most common: one number
        return [(raw[:1], value)]
    texts = [text.strip(b" \t") for text in raw.split(b":")]
    kept = [text for text in texts if text]
    if not kept:
        raise Rejected("value_empty")
    if not texts[0] or not all(is_number(text) or _not_finite(text) for text in kept):
        raise Rejected("value_not_a_number")
    if len(kept) < len(texts):
        notes.add("value_skipped")
    values = [float(text) for text in kept]
    if any(not -inf < value < inf for value in values):
        raise Rejected("value_not_finite")
    if sample.type != GAUGE and any(abs(value / sample.rate) > MAX_VALUE for value in values):
        raise Rejected("value_out_of_range")
    return [(text[:1], value) for text, value in zip(kept, values, strict=True)]


def read_member(raw: bytes) -> bytes:
    """The member of a set: everything between the name and the type, trimmed. Raises value_empty."""
    member = raw.strip(b" \t")
    if not member:
        raise Rejected("value_empty")
    return member
