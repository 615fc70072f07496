"""Events (`_e{title size,text size}:title|text|…`) and service checks (`_sc|name|status|…`) among the lines."""

from __future__ import annotations

import re
from typing import Literal

from sendoff_server.aggregate.contract import Found
from sendoff_server.aggregate.statsd import MAX_TAGS, Rejected, Tags, has_control, read_tags, read_text

MAX_SHORT = 200  # bytes of an event's name and host, as everywhere on the wire
MAX_SECONDS = 2**53 // 1000
PRIORITIES = ("normal", "low")
ALERT_TYPES = ("info", "success", "warning", "error")

_header = re.compile(rb"_e\{([0-9]{1,6}),([0-9]{1,6})\}:(.*)", re.DOTALL).fullmatch
_seconds = re.compile(r"[0-9]{1,16}").fullmatch


def is_event(line: bytes) -> bool:
    return line.startswith((b"_e{", b"_sc|"))


def read_event(line: bytes, notes: set[str]) -> Found:
    """The event or check in a line that `is_event`; repairs go to `notes`. Raises Rejected."""
    return _read_check(line, notes) if line.startswith(b"_sc|") else _read_event(line, notes)


def _read_event(line: bytes, notes: set[str]) -> Found:
    header = _header(line)
    if not header:
        raise Rejected("event_invalid")
    title, text, rest = _split_text(header[3], int(header[1]), int(header[2]), notes)
    fields, tags = _read_fields(rest, "dhkpst", notes)
    if not title:
        raise Rejected("event_invalid")
    out: dict[str, object] = {
        "text": _unescape(text),
        "priority": _one_of(fields.get("p"), PRIORITIES, notes),
        "alert_type": _one_of(fields.get("t"), ALERT_TYPES, notes),
    }
    for mark, key in (("k", "aggregation_key"), ("s", "source_type")):
        if mark in fields:
            out[key] = fields[mark]
    return _found("event", _unescape(title), out, fields, tags, notes)


def _read_check(line: bytes, notes: set[str]) -> Found:
    name, status, rest = [*line.split(b"|", 3)[1:], b"", b""][:3]
    fields, tags = _read_fields(rest.split(b"|") if rest else [], "dhm", notes)
    status = status.strip(b" \t")
    if not name or status not in (b"0", b"1", b"2", b"3"):
        raise Rejected("check_invalid")
    out: dict[str, object] = {"status": int(status)}
    if "m" in fields:
        out["message"] = _unescape(fields["m"]).replace("m\\:", "m:")
    return _found("check", read_text(name, notes), out, fields, tags, notes)


def _split_text(body: bytes, title_size: int, text_size: int, notes: set[str]) -> tuple[str, str, list[bytes]]:
    """Title, text and the fields after them. Raises event_invalid when the sizes fit in no way of counting.

    Sizes are bytes; some clients count characters or UTF-16 units, and some cut the text after they counted.
    """
    cut = None
    for codec, width in (("utf-8", 1), ("utf-32-le", 4), ("utf-16-le", 2)):
        units = body if width == 1 else body.decode(errors="replace").encode(codec)
        bar = "|".encode(codec)
        bar_at = title_size * width
        text_at = bar_at + width
        end = text_at + text_size * width
        if units[bar_at:text_at] != bar:
            continue
        if end > len(units):
            cut = cut or (codec, bar_at, text_at, len(units), units)
        elif end == len(units) or units[end : end + width] == bar:
            break
    else:
        if cut is None:
            raise Rejected("event_invalid")
        notes.add("event_truncated")
        codec, bar_at, text_at, end, units = cut
        width = text_at - bar_at
    if codec == "utf-8":
        title, text, rest = read_text(units[:bar_at], notes), read_text(units[text_at:end], notes), units[end + 1 :]
    else:
        notes.add("event_in_characters")
        title, text = units[:bar_at].decode(codec, "replace"), units[text_at:end].decode(codec, "replace")
        rest = units[end + width :].decode(codec, "replace").encode()
    return title, text, rest.split(b"|") if end < len(units) else []


def _read_fields(parts: list[bytes], marks: str, notes: set[str]) -> tuple[dict[str, str], Tags]:
    """The fields whose mark is among `marks`, the last of each, and the tags. Raises for faults of tags."""
    fields: dict[str, str] = {}
    raw_tags: list[bytes] = []
    for part in parts:
        mark, colon, value = part.partition(b":")
        if part.startswith(b"#"):
            raw_tags += part[1:].split(b",")
        elif colon and len(mark) == 1 and mark.decode("latin-1") in marks:
            key = mark.decode()
            if key in fields:
                notes.add("field_repeated")
            fields[key] = read_text(value, notes)
        elif not (colon and mark in (b"c", b"e", b"card")):
            notes.add("field_unknown")
    if any(map(has_control, raw_tags)):
        raise Rejected("control_character")
    tags = read_tags(raw_tags, notes)
    if len(tags) > MAX_TAGS:
        raise Rejected("too_many_tags")
    return fields, tags


def _found(
    kind: Literal["event", "check"],
    name: str,
    out: dict[str, object],
    fields: dict[str, str],
    tags: Tags,
    notes: set[str],
) -> Found:
    short = _shorten(name)
    if short != name:
        out["title"] = name
    host = fields.get("h")
    joined: dict[str, str] = {}
    for key, value in tags:
        joined[key] = f"{joined[key]},{value}" if key in joined else value
    return Found(kind, short, out, joined, _time(fields.get("d"), notes), _shorten(host) if host else None)


def _time(seconds: str | None, notes: set[str]) -> int | None:
    if seconds is None:
        return None
    if _seconds(seconds) and int(seconds) <= MAX_SECONDS:
        return int(seconds) * 1000
    notes.add("field_ignored")
    return None


def _one_of(value: str | None, allowed: tuple[str, ...], notes: set[str]) -> str:
    """`value` if it is allowed, else the first of `allowed`, the default."""
    if value in allowed:
        return str(value)
    if value is not None:
        notes.add("field_ignored")
    return allowed[0]


def _unescape(text: str) -> str:
    return text.replace("\\n", "\n")


def _shorten(text: str) -> str:
    """At most MAX_SHORT bytes, cut at a character."""
    return text.encode()[:MAX_SHORT].decode(errors="ignore")
