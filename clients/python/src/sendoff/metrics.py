"""Metric points: names, tags and values as the lines of protocol/wire-format.md section 4, and the instruments of the
public API.

A *series* is everything of a line but its value, formatted once: `head` (name and colon) and `tail` (type, rate,
tags). A point is a pair of a series and a checked value, so that the thread that counts does next to nothing;
`sendoff.sending.points` makes lines of them.
"""

from __future__ import annotations

import time
from functools import wraps

from sendoff import current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, TypeVar

    F = TypeVar("F", bound=Callable[..., Any])

NAME_LIMIT = 512
TAG_LIMIT = 512
TAGS_LIMIT = 64
MEMBER_LIMIT = 512
RATE_MIN = 1e-6
VALUE_LIMIT = 1e200
EXACT = 2**53
SERIES_KEPT = 4096
"""Formatted series that are remembered for unbound calls; when more come the memory starts anew."""

_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], "_")
_SURROGATES = dict.fromkeys(range(0xD800, 0xE000), "_")
_NAME = {**_CONTROLS, **_SURROGATES, **{ord(c): "_" for c in ":|@#,;[] "}}
_TAG_VALUE = {**_CONTROLS, **_SURROGATES, ord("|"): "_", ord(","): "_"}
_TAG_KEY = {**_TAG_VALUE, ord(":"): "_", ord("#"): "_"}


class Series:
    """One metric under one set of tags."""

    __slots__ = ("head", "kind", "name", "rate", "tags", "tail")

    def __init__(self, name: str, kind: str, rate: float, tags: tuple[str, ...]) -> None:
        self.name = name
        self.kind = kind
        self.rate = rate
        self.tags = tags
        self.head = f"{name}:".encode()
        at = "" if rate >= 1 else f"|@{plain_decimal(rate)}"
        self.tail = (f"|{kind}{at}" + (f"|#{','.join(tags)}" if tags else "")).encode()

    def __repr__(self) -> str:
        return f"Series({(self.head + self.tail).decode()})"


_known: dict[tuple[object, ...], Series] = {}
_CACHEABLE = frozenset((str, int, float, bool, type(None)))


def series(name: str, kind: str, rate: float, tags: dict[str, object]) -> Series | None:
    """The series of a name, a type (`c`, `g`, `ms`, `d` or `s`), a rate and tags; None if the name or the rate cannot
    be used.
    """
    if type(name) is not str:
        return None
    key: tuple[object, ...] | None = (name, kind, rate, *tags.items())
    for value in tags.values():
        if type(value) not in _CACHEABLE:
            key = None  # a foreign object's hash would run its code
            break
    if key is not None:
        # True == 1 == 1.0, but their texts differ
        key = (*key, *map(type, tags.values())) if tags else key
        found = _known.get(key)
        if found is not None:
            return found
    made = _make(name, kind, rate, tags)
    if key is not None and made is not None and all(map(_is_short, tags, tags.values())):
        if len(_known) >= SERIES_KEPT:
            _known.clear()
        _known[key] = made
    return made


def _is_short(key: str, value: object) -> bool:
    """Whether a tag as it was given may be remembered: what is cut for the line would be kept whole."""
    short = len(value) <= TAG_LIMIT if type(value) is str else type(value) is not int or value.bit_length() <= 64
    return short and len(key) <= TAG_LIMIT


def _make(name: str, kind: str, rate: float, tags: dict[str, object]) -> Series | None:
    clean = name.replace("::", ".").translate(_NAME)
    if not clean or len(clean.encode()) > NAME_LIMIT:
        return None
    if type(rate) not in (int, float) or not rate >= RATE_MIN:
        return None
    from sendoff.content.render import word

    # a set of tags, as equal ones count once
    texts = {tag(key, word(value)) for key, value in tags.items()}
    if len(texts) > TAGS_LIMIT:
        return None
    pairs = sorted(texts, key=lambda text: text.partition(":")[::2])
    return Series(clean, kind, min(float(rate), 1.0), tuple(pairs))


def tag(key: str, value: str) -> str:
    """`key:value`, cut at a character to 512 bytes; the key alone if the value is empty."""
    text = str.translate(key, _TAG_KEY)
    if value:
        text = f"{text}:{value.translate(_TAG_VALUE)}"
    raw = text.encode()
    return text if len(raw) <= TAG_LIMIT else raw[:TAG_LIMIT].decode("utf-8", "ignore")


def number(value: object) -> int | float | None:
    """`value` as a number that may be written on a line, or None.

    Builtin numbers are taken as they are, of their subclasses the builtin part; anything else is asked for its
    `float()`.
    """
    kind = type(value)
    if kind is not float and kind is not int:
        if issubclass(kind, int):
            value = int.__int__(value)  # type: ignore[arg-type]
        elif kind is not str and kind is not bytes and hasattr(kind, "__float__"):
            value = float(value)  # type: ignore[arg-type]
        else:
            return None
    if type(value) is int and not -EXACT < value < EXACT:
        value = float(value)  # raises OverflowError, which the caller counts as invalid
    return value if -1e308 <= value <= 1e308 else None  # type: ignore[operator,return-value]


def member(value: object) -> str | None:
    """A member of a set as text, or None if it is empty or longer than 512 bytes."""
    if type(value) is str and value.isalnum() and len(value) <= 128:
        return value  # the usual case: an id
    from sendoff.content.render import word

    text = word(value).translate(_CONTROLS).translate({ord("|"): "_"}).strip()
    return text if text and len(text.encode("utf-8", "replace")) <= MEMBER_LIMIT else None


def decimal(value: float) -> str:
    """The shortest decimal that reads back as the same double."""
    text = repr(value)
    return text[:-2] if text.endswith(".0") else text


def plain_decimal(rate: float) -> str:
    """A rate without an exponent, as some servers read `1e-05` as 1."""
    digits, _, exponent = repr(rate).partition("e-")
    return decimal(rate) if not exponent else "0." + "0" * (int(exponent) - 1) + digits.replace(".", "").rstrip("0")


class Instrument:
    """A series bound once, to be used often. Works from before `sendoff.init` on, and across forks."""

    __slots__ = ("_series",)
    _kind = ""

    def __init__(self, name: str, rate: float, tags: dict[str, object]) -> None:
        try:
            self._series = series(name, self._kind, rate, tags)
        except Exception:  # noqa: BLE001 - every use of the instrument will be counted as invalid
            self._series = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._series!r})"


class Counter(Instrument):
    """Counts how often, or how much. Made by `sendoff.counter`."""

    __slots__ = ()
    _kind = "c"

    def increment(self, value: float = 1) -> None:
        """Add `value` (any number, also negative)."""
        client = current.client
        if client is not None:
            client.point(self._series, value)


class Gauge(Instrument):
    """A level: the last value counts. Made by `sendoff.gauge_of`."""

    __slots__ = ()
    _kind = "g"

    def set(self, value: float) -> None:
        """The level is `value` now."""
        client = current.client
        if client is not None:
            client.point(self._series, value)


class Distribution(Instrument):
    """Values whose spread matters. Made by `sendoff.distribution_of`."""

    __slots__ = ()
    _kind = "d"

    def record(self, value: float) -> None:
        """One value, in any unit."""
        client = current.client
        if client is not None:
            client.point(self._series, value)


class Timing(Instrument):
    """Durations in milliseconds. Made by `sendoff.timing_of`."""

    __slots__ = ()
    _kind = "ms"

    def record(self, ms: float) -> None:
        """One duration in milliseconds."""
        client = current.client
        if client is not None:
            client.point(self._series, ms)

    def timer(self) -> Timer:
        """A timer for one block or, as a decorator, for every call of a function."""
        return Timer(self)


class Unique(Instrument):
    """How many different members there were. Made by `sendoff.unique_of`."""

    __slots__ = ()
    _kind = "s"

    def add(self, member: object) -> None:
        """`member` (text or another builtin value, at most 512 bytes) was there."""
        client = current.client
        if client is not None:
            client.point(self._series, member)


class Timer:
    """Records how long a block or a call took, in milliseconds, whether it returned or raised.

    As a context manager for one block of one thread or task at a time; as a decorator for plain and `async`
    functions, where every call is measured for itself.
    """

    __slots__ = ("_began", "_timing")

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._began: list[float] = []

    def __enter__(self) -> Timer:
        self._began.append(time.perf_counter())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._began:
            self._timing.record((time.perf_counter() - self._began.pop()) * 1000.0)

    def __call__(self, function: F) -> F:
        timing = self._timing
        if _is_async(function):

            @wraps(function)
            async def measured_async(*args: Any, **kwargs: Any) -> Any:
                began = time.perf_counter()
                try:
                    return await function(*args, **kwargs)
                finally:
                    timing.record((time.perf_counter() - began) * 1000.0)

            return measured_async  # type: ignore[return-value]

        @wraps(function)
        def measured(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                timing.record((time.perf_counter() - began) * 1000.0)

        return measured  # type: ignore[return-value]


def _is_async(function: object) -> bool:
    """As `inspect.iscoroutinefunction`, without importing `inspect`."""
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    return bool(code is not None and code.co_flags & 0x80)
