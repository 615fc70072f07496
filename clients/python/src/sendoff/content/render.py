"""Values of the application as JSON and as text, without running any of its code.

Only values of builtin types (and a few of the standard library, by exact type) are looked into. Anything else,
subclasses of builtins included, is shown as the name of its type: a `repr` can do anything, a database query
included. Everything is bounded.
"""

from __future__ import annotations

import sys
from enum import EnumMeta
from types import GetSetDescriptorType

from sendoff.content.scrub import HIDDEN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sendoff.content.scrub import Scrubber

DEPTH = 8
"""Containers in containers, counted from the payload's own object; `fields` and the like are at 2."""
NODES = 20_000
CHARACTERS = 270_000
"""Nodes and characters of one payload; beyond, it would not fit its limit of bytes anyway."""
BITS = 4_096
"""Integers of more bits are described instead of printed: `str` refuses them from 4,300 digits on, and takes long
before.
"""

_type_name = type.__dict__["__qualname__"].__get__
_type_module = type.__dict__["__module__"].__get__
_mro = type.__dict__["__mro__"].__get__
_namespace = type.__dict__["__dict__"].__get__
_FLOAT_WORDS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


class TooLarge(Exception):
    """The value cannot be part of any payload."""


class Foreign:
    """Stands for a value that is not looked into."""


FOREIGN = Foreign()


def type_name(kind: type) -> str:
    """The qualified name of a type, without `builtins.`. Asks neither the type nor its metaclass."""
    name = _type_name(kind)
    try:
        module = _type_module(kind)
    except AttributeError:
        module = None
    return name[:200] if type(module) is not str or module == "builtins" else f"{module}.{name}"[:200]


def scalar(value: Any) -> str | int | float | bool | Foreign | None:
    """A single builtin value as a value of JSON; `FOREIGN` if it is none. NaN and infinities become words, as JSON
    has no numbers for them.
    """
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return value  # type: ignore[no-any-return]
    if kind is int:
        return _integer(value)
    if kind is float:
        return _FLOAT_WORDS.get(repr(value), value)  # type: ignore[no-any-return]
    if kind is bytes or kind is bytearray:
        return bytes(value[:CHARACTERS]).decode("utf-8", "replace")
    if issubclass(type(kind), EnumMeta):
        inner: Any = vars_of(value).get("_value_", FOREIGN)
        return FOREIGN if issubclass(type(type(inner)), EnumMeta) else scalar(inner)
    return _of_library(value, kind)


def vars_of(value: object) -> dict[str, Any]:
    """The instance dictionary, read past any `__getattribute__` and `__dict__` of the class; empty if there is none."""
    for base in _mro(type(value)):
        if type(_namespace(base).get("__dict__", None)) not in (type(None), GetSetDescriptorType):
            return {}
    try:
        found = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return found if type(found) is dict else {}


def _integer(value: int) -> int | str:
    if -(2**63) <= value < 2**63:
        return value
    return str(value) if value.bit_length() <= BITS else f"<int of {value.bit_length()} bits>"


def _of_library(value: Any, kind: type) -> str | float | Foreign:
    """Values of the standard library that everybody has in their fields. A module that was never imported has no
    values.
    """
    modules = sys.modules
    decimal, datetime, uuid = modules.get("decimal"), modules.get("datetime"), modules.get("uuid")
    if decimal is not None and kind is decimal.Decimal:
        return str(value)[:1000]
    if uuid is not None and kind is uuid.UUID:
        return str(value)
    if datetime is None:
        return FOREIGN
    if kind is datetime.datetime or kind is datetime.time:
        zoneinfo = modules.get("zoneinfo")
        zone = type(value.tzinfo)
        known = zone is type(None) or zone is datetime.timezone or (zoneinfo is not None and zone is zoneinfo.ZoneInfo)
        return str((value if known else value.replace(tzinfo=None)).isoformat())
    if kind is datetime.date:
        return str(value)
    if kind is datetime.timedelta:
        return float(value.total_seconds())
    return FOREIGN


def word(value: Any) -> str:
    """A builtin value as one short text: a tag's value, a set's member. Empty for None."""
    kind = type(value)
    if kind is str:
        return value  # type: ignore[no-any-return]
    if value is None:
        return ""
    if kind is bool:
        return "true" if value else "false"
    if kind is float:
        text = repr(value)
        return text[:-2] if text.endswith(".0") else text
    plain = scalar(value)
    if type(plain) is bool or type(plain) is float:
        return word(plain)
    return f"<{type_name(kind)}>" if plain is FOREIGN else "" if plain is None else str(plain)


class Plain:
    """Makes values of JSON from values of the application, for one payload: bounded in depth, nodes and characters,
    and scrubbed.
    """

    __slots__ = ("_characters", "_nodes", "_scrubber")

    def __init__(self, scrubber: Scrubber) -> None:
        self._scrubber = scrubber
        self._nodes = NODES
        self._characters = CHARACTERS

    def mapping(self, value: dict[str, object], depth: int = 2) -> dict[str, object]:
        """A dictionary at `depth` below the payload. Raises `TooLarge`."""
        made: dict[str, object] = {}
        for key, inner in list(value.items()):
            name = key if type(key) is str else word(key)
            self._spend(name)
            made[name] = HIDDEN if self._scrubber.hides(name) else self.value(inner, depth + 1)
        return made

    def texts(self, value: dict[str, object]) -> dict[str, str]:
        """Tags: a dictionary of texts, at most 64, each cut at 512 characters."""
        return {
            str.__str__(key)[:200]: HIDDEN if self._scrubber.hides(key) else self._scrubber.text(word(inner)[:512])
            for key, inner in list(value.items())[:64]
        }

    def value(self, value: Any, depth: int) -> object:
        """Any value, a container of which would be at `depth`. Raises `TooLarge`."""
        kind = type(value)
        if kind is dict or kind is list or kind is tuple or kind is set or kind is frozenset:
            if depth > DEPTH:
                return "{…}" if kind is dict else "[…]"
            try:
                if kind is dict:
                    return self.mapping(value, depth)
                if names_a_secret(value, self._scrubber):
                    return [self.value(value[0], depth + 1), HIDDEN]
                return [self.value(inner, depth + 1) for inner in list(value)]
            except RuntimeError:  # changed by another thread while it was copied
                return f"<{kind.__name__} in change>"
        plain = scalar(value)
        if plain is FOREIGN:
            plain = f"<{type_name(kind)}>"
        self._spend(plain if type(plain) is str else "")
        return self._scrubber.text(plain) if type(plain) is str else plain

    def _spend(self, text: str) -> None:
        self._nodes -= 1
        self._characters -= len(text)
        if self._nodes < 0 or self._characters < 0:
            raise TooLarge


def names_a_secret(value: Any, scrubber: Scrubber) -> bool:
    """Whether `value` is a pair such as `(b"cookie", …)`, as headers are kept: its first half names a secret."""
    if len(value) != 2 or type(value) not in (tuple, list):
        return False
    name = value[0]
    return type(name) in (str, bytes) and len(name) <= SHOWN_TEXT and scrubber.hides(word(name))


SHOWN_TEXT = 200
SHOWN_ITEMS = 10
SHOWN_DEPTH = 3
SHOWN_TOTAL = 1_000


def shown(value: Any, scrubber: Scrubber, depth: int = 0) -> str:
    """A local variable as a bounded text, much like its `repr`."""
    kind = type(value)
    if kind is str:
        text = repr(scrubber.text(value[: SHOWN_TEXT * 2])[:SHOWN_TEXT])
        return text + "…" if len(value) > SHOWN_TEXT else text
    if kind is bytes or kind is bytearray:
        return f"b{shown(bytes(value[: SHOWN_TEXT * 2]).decode('latin-1'), scrubber)}"
    if kind is int:
        return str(_integer(value))
    if value is None or kind is bool or kind is float:
        return repr(value)
    if kind is dict or kind is list or kind is tuple or kind is set or kind is frozenset:
        return _shown_container(value, kind, scrubber, depth)[:SHOWN_TOTAL]
    plain = scalar(value)
    return (
        f"<{type_name(kind)}>" if plain is FOREIGN else f"<{type_name(kind)} {scrubber.text(str(plain)[:SHOWN_TEXT])}>"
    )


_BRACKETS: dict[type, str] = {dict: "{}", list: "[]", tuple: "()", set: "{}", frozenset: "{}"}


def _shown_container(value: Any, kind: type, scrubber: Scrubber, depth: int) -> str:
    brackets = _BRACKETS[kind]
    first, last = brackets[0], brackets[1]
    size = len(value)
    if depth >= SHOWN_DEPTH:
        return f"{first}… {size}{last}" if size else first + last
    if names_a_secret(value, scrubber):
        return f"{first}{shown(value[0], scrubber, depth + 1)}, {HIDDEN}{last}"
    parts: list[str] = []
    left = SHOWN_TOTAL
    try:
        for index, item in enumerate(value.items() if kind is dict else value):
            if index == SHOWN_ITEMS or left < 0:
                parts.append(f"… {size - index} more")
                break
            if kind is dict:
                key, inner = item
                name = word(key)
                text = HIDDEN if scrubber.hides(name) else shown(inner, scrubber, depth + 1)
                parts.append(f"{shown(key, scrubber, SHOWN_DEPTH)}: {text}")
            else:
                parts.append(shown(item, scrubber, depth + 1))
            left -= len(parts[-1])
    except RuntimeError:
        parts.append("… in change")
    return f"{first}{', '.join(parts)}{last}"
