"""What a reader may ask for: ranges of time, filters, limits, each checked, each with an error that names it."""

from collections.abc import Mapping
from dataclasses import dataclass

from sendoff_server.gateway.problems import invalid

Query = Mapping[str, str]
RANGES = {"1h": 3_600_000, "6h": 21_600_000, "24h": 86_400_000, "7d": 604_800_000, "30d": 2_592_000_000}
FARTHEST = 2**53 - 1
LONGEST_RANGE = 400 * 86_400_000
LONGEST_TEXT = 500


@dataclass(frozen=True, slots=True)
class Range:
    """From ``start`` up to but not including ``end``, Unix ms. ``name`` is the key of RANGES it came from, if any."""

    start: int
    end: int
    name: str | None

    @property
    def length(self) -> int:
        return self.end - self.start

    @property
    def before(self) -> "Range":
        """The time of the same length just before."""
        return Range(self.start - self.length, self.start, None)


def time_range(query: Query, now_ms: int) -> Range:
    """From ``range`` (1h, 6h, 24h, 7d, 30d; 24h if nothing is said) or from ``from`` and ``to`` (Unix ms).

    The end of a named range is a little ahead of now, so that a sender whose clock is ahead is seen too.
    """
    if "from" in query or "to" in query:
        end = number(query, "to", now_ms, 0, FARTHEST)
        start = number(query, "from", end - RANGES["24h"], 0, FARTHEST)
        if not start < end:
            raise invalid("from", f"{start} is not before {end}", "give from and to as Unix milliseconds, from first")
        if end - start > LONGEST_RANGE:
            raise invalid("from", "the range is longer than 400 days", "ask for a shorter range")
        return Range(start, end, None)
    name = query.get("range", "24h")
    if name not in RANGES:
        raise invalid("range", f"{name[:50]!r} is not known", f"use one of {', '.join(RANGES)}, or from and to")
    return Range(now_ms - RANGES[name], now_ms + 1_000, name)


def number(query: Query, name: str, default: int, least: int, most: int) -> int:
    """A whole number within bounds."""
    text = query.get(name)
    if text is None or text == "":
        return default
    if not (text.isascii() and text.removeprefix("-").isdigit() and len(text) < 20 and least <= int(text) <= most):
        raise invalid(name, f"{text[:50]!r} is not a whole number from {least} to {most}", "correct it or leave it out")
    return int(text)


def choice(query: Query, name: str, default: str, allowed: tuple[str, ...]) -> str:
    text = query.get(name) or default
    if text not in allowed:
        raise invalid(name, f"{text[:50]!r} is not known", f"use one of {', '.join(allowed)}")
    return text


def text(query: Query, name: str) -> str | None:
    """A filter as it was given; None when it is missing or empty."""
    value = query.get(name) or None
    if value is not None and (len(value) > LONGEST_TEXT or "\x00" in value):
        raise invalid(name, f"longer than {LONGEST_TEXT} characters, or with a NUL", "ask for less")
    return value


def pattern(query: Query, name: str) -> str | None:
    """A text to search for, as the pattern of LIKE that finds it anywhere."""
    value = text(query, name)
    if value is None:
        return None
    for special in "\\%_":
        value = value.replace(special, "\\" + special)
    return f"%{value}%"


def tags(query: Query) -> dict[str, str]:
    """``tags=key:value,key:value``: the tags a series must have."""
    value = text(query, "tags")
    found: dict[str, str] = {}
    for part in (value or "").split(","):
        key, _, wanted = part.partition(":")
        if key:
            found[key] = wanted
    return found
