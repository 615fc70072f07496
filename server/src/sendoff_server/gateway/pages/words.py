"""Numbers, times and hostile texts as people read them. Everything here gives plain text or escaped markup. Pure."""

import datetime as dt
import re
from typing import Any

from markupsafe import Markup, escape

NBSP = "\u00a0"
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]")
_BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_DAY_MS = 86_400_000


def shown(text: object, most: int = 2_000) -> Markup:
    """Somebody else's text: cut to ``most`` characters (said so), without control characters, isolated from its
    surroundings so that characters that turn the direction of writing end with it.
    """
    whole = str(text)
    isolated = Markup("<bdi>{}</bdi>").format(_CONTROLS.sub("\ufffd", whole[:most]))
    if len(whole) <= most:
        return isolated
    return isolated + Markup('<span class="faint"> … {:,} characters more</span>').format(len(whole) - most)


def cut(text: object, most: int) -> str:
    """At most ``most`` characters, with the number of those left out; control characters become visible."""
    whole = str(text)
    if len(whole) > most:
        whole = f"{whole[:most]}… {len(whole) - most:,} characters more"
    return _CONTROLS.sub("\ufffd", whole)


def plain(text: object, most: int = 120) -> str:
    """For titles and attributes, where nothing can isolate: also without characters that turn the direction."""
    return _BIDI.sub("\ufffd", cut(text, most))


def count(n: float) -> str:
    """Exact to seven digits, then in millions."""
    if abs(n) >= 10_000_000:
        return f"{n / 1e6:,.1f}{NBSP}million"
    return f"{n:,.0f}".replace("-", "−")


def quantity(value: float | None, unit: str = "") -> Markup:
    """A measured value with its unit in lighter weight: three significant digits and a fitting unit."""
    if value is None:
        return Markup('<span class="faint">unknown</span>')
    number, unit = _scaled(value, unit)
    return Markup("{}{}").format(number, Markup('<span class="unit">{}{}</span>').format(NBSP, unit) if unit else "")


def quantity_text(value: float, unit: str = "") -> str:
    number, unit = _scaled(value, unit)
    return f"{number}{NBSP}{unit}" if unit else number


def _scaled(value: float, unit: str) -> tuple[str, str]:
    if unit == "ms" and abs(value) >= 1_000:
        value, unit = value / 1_000, "s"
    size = abs(value)
    if size >= 1e15 or 0 < size < 1e-4:
        number = f"{value:.3g}"
    elif size >= 10_000_000:
        number = f"{value / 1e6:,.1f}{NBSP}M"
    elif size >= 1_000 or value == int(value):
        number = f"{value:,.0f}"
    else:
        number = f"{value:.3g}" if size >= 1 else f"{value:.2g}"
    return number.replace("-", "−"), unit


def change(now: float, before: float) -> str:
    """How a number moved: per cent, beyond a doubling as a factor. Empty where there was nothing to compare with."""
    if before <= 0:
        return ""
    if now > 2 * before:
        factor = now / before
        return f"×{NBSP}{factor:.1f}" if factor < 10 else f"×{NBSP}{factor:,.0f}"
    percent = round((now - before) / before * 100)
    return f"{'+' if percent > 0 else '−' if percent < 0 else '±'}{abs(percent)}{NBSP}%"


def span(ms: float) -> str:
    """A length of time in its largest fitting unit."""
    seconds = ms / 1_000
    for size, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size or seconds == size:
            return f"{seconds / size:.0f}{NBSP}{name}"
    return f"{seconds:.0f}{NBSP}s" if seconds >= 1 or seconds == 0 else f"{ms:.0f}{NBSP}ms"


def ago(t: int, now: int) -> Markup:
    """Time since, with the exact moment in ``datetime`` and on hover."""
    age = now - t
    text = f"{span(age)} ago" if age >= 1_000 else "now" if age > -5_000 else f"in {span(-age)}"
    return _time(t, text)


def when(t: int, now: int) -> Markup:
    """The clock for today, the date before."""
    moment = _moment(t)
    same_day = t // _DAY_MS == now // _DAY_MS
    return _time(t, f"{moment:%H:%M:%S}" if same_day else f"{moment:%a} {moment.day} {moment:%b %H:%M}")


def exact(t: int) -> Markup:
    return _time(t, f"{_moment(t):%H:%M:%S}.{t % 1_000:03d}")


def clock(t: int, length: int) -> str:
    """A label of a time axis of ``length`` ms."""
    moment = _moment(t)
    if length > 2 * _DAY_MS:
        return f"{moment:%a} {moment.day}" if length <= 8 * _DAY_MS else f"{moment.day} {moment:%b}"
    return f"{moment:%H:%M}"


def brief(value: Any, most: int = 200) -> str:
    """A JSON value in one line."""
    if isinstance(value, dict):
        text = ", ".join(f"{key} {brief(item, 60)}" for key, item in list(value.items())[:12])
    elif isinstance(value, list):
        text = ", ".join(brief(item, 60) for item in value[:12])
    elif value is None:
        text = "–"
    else:
        text = {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    return cut(text, most)


def plural(n: int, one: str, many: str | None = None) -> str:
    return f"{count(n)} {one if n == 1 else many or one + 's'}"


def spelled(n: int) -> str:
    """Small numbers as words, for headings."""
    small = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
    return small[n] if n < len(small) else f"{n:,}"


def _time(t: int, text: str) -> Markup:
    moment = _moment(t)
    stamp = f"{moment:%Y-%m-%dT%H:%M:%S}.{t % 1_000:03d}Z"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(stamp, stamp.replace("T", " ")[:-1] + " UTC", text)


def _moment(t: int) -> dt.datetime:
    latest = 253_402_300_799_000  # the end of the year 9999; times are the senders', who may claim any
    return dt.datetime.fromtimestamp(min(max(t, 0), latest) // 1_000, dt.UTC)


FILTERS = {
    "shown": shown,
    "plain": plain,
    "count": count,
    "quantity": quantity,
    "span": span,
    "ago": ago,
    "exact": exact,
    "brief": brief,
    "plural": plural,
    "e": escape,
}
