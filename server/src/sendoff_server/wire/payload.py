"""What a JSON payload of a frame must look like (wire format, section 2). No I/O.

A payload is checked to the depth at which the rest of the server relies on it; whatever is beyond (the contents of
``fields`` and ``user``) is any JSON. Keys that are not known are left alone. ``null`` counts as missing where a key
may be missing.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any

import msgspec

MAX_STRING = 200
"""Bytes of an event's name and of each string of a hello."""
MAX_DEPTH = 12
MAX_DEPTH_INSIDE = 8
"""Nesting of `fields`, `user`, `tags` and `request`; like MAX_DEPTH counted from the payload's own object as 1."""
MAX_CHAIN = 32
MAX_FRAMES = 100
MAX_SOURCE_LINES = 5
MAX_NOTES = 16
MAX_INTEGER = 2**53 - 1

FINGERPRINT = re.compile(r"[0-9a-f]{32}")
_LINKS = frozenset({"cause", "context", "member"})
_CONTAINERS = frozenset({dict, list})  # what a decoder of JSON makes, and nothing derived from it
_INSIDE = ("fields", "user", "tags", "request")


class Invalid(Exception):
    """The payload's `field` is not what it must be; the text says what was expected."""

    def __init__(self, field: str, expected: str) -> None:
        super().__init__(f"{field}: {expected}")


def too_deep(body: dict[str, Any], size: int) -> str | None:
    """The part of `body` that is nested too deep, or None. `size`: no more objects and lists than that are in it."""
    if size <= MAX_DEPTH_INSIDE:
        return None
    for key in _INSIDE:
        if _deeper_than(body.get(key), MAX_DEPTH_INSIDE - 1):
            return f"{key}: more than {MAX_DEPTH_INSIDE} levels"
    return f"payload: more than {MAX_DEPTH} levels" if _deeper_than(body, MAX_DEPTH) else None


def _deeper_than(value: Any, levels: int) -> bool:
    """Whether objects and lists nest deeper than `levels`, looked at level by level, without recursion."""
    row = [value] if isinstance(value, dict | list) else []
    while row:
        if levels == 0:
            return True
        levels -= 1
        row = [
            child
            for parent in row
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if type(child) in _CONTAINERS
        ]
    return False


def check_hello(body: dict[str, Any]) -> None:
    for key in ("service", "env", "release", "host", "lib"):
        _string(body, key, most=MAX_STRING)
    _integer(body, "pid")
    _integer(body, "resume_from", least=1)


def check_bye(body: dict[str, Any]) -> None:
    _integer(body, "last_seq", required=True)
    _integer(body, "last_n", required=True)
    check_totals(body.get("dropped"), "dropped")


def check_totals(value: Any, field: str) -> None:
    """`value` is missing or an object of reasons to integers. Raises Invalid."""
    if value is None:
        return
    if not isinstance(value, dict):
        raise Invalid(field, "an object of reasons to integers was expected")
    for reason, count in value.items():
        if type(count) is not int or not 0 <= count <= MAX_INTEGER:
            raise Invalid(f"{field}.{reason[:40]}", "an integer from 0 to 2^53 - 1 was expected")


def check_event(body: dict[str, Any]) -> None:
    if not _string(body, "name", most=MAX_STRING, required=True):
        raise Invalid("name", "a string of 1 to 200 bytes was expected")
    _object(body, "user")
    _object(body, "fields")
    _strings(body, "tags", "tags")


def check_exception(body: dict[str, Any]) -> None:
    check_event(body)
    fingerprint = _string(body, "fingerprint", required=True)
    if not FINGERPRINT.fullmatch(fingerprint):
        raise Invalid("fingerprint", "32 lower-case hex digits were expected")
    chain = _list(body, "chain", "chain", most=MAX_CHAIN)
    if not chain:
        raise Invalid("chain", f"a list of 1 to {MAX_CHAIN} exceptions was expected")
    for index, link in enumerate(chain):
        _check_link(link, index)
    _object(body, "request")
    request = body.get("request") or {}
    for key in ("method", "url", "route", "remote"):
        _string(request, key, at="request.")
    _object(request, "headers", at="request.")


CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "hello": check_hello,
    "bye": check_bye,
    "event": check_event,
    "exception": check_exception,
}


def _check_link(link: Any, index: int) -> None:
    at = f"chain[{index}]."
    if not isinstance(link, dict):
        raise Invalid(at[:-1], "an object was expected")
    _string(link, "type", at=at, required=True)
    _string(link, "message", at=at)
    for note in _list(link, "notes", at + "notes", most=MAX_NOTES):
        if not isinstance(note, str):
            raise Invalid(at + "notes", "a list of strings was expected")
    if index:
        parent = link.get("parent")
        if type(parent) is not int or not 0 <= parent < index:
            raise Invalid(at + "parent", "the index of an exception before this one was expected")
        if link.get("link") not in _LINKS:
            raise Invalid(at + "link", "one of cause, context, member was expected")
    if _are_plain(link.get("frames")):
        return
    for number, frame in enumerate(_list(link, "frames", at + "frames", most=MAX_FRAMES)):
        _check_frame(frame, f"{at}frames[{number}].")


_Lines = Annotated[list[str], msgspec.Meta(max_length=MAX_SOURCE_LINES)]


class _Frame(msgspec.Struct, gc=False):
    """What `_check_frame` asks for, in the library's words."""

    file: str
    line: Annotated[int, msgspec.Meta(ge=0, le=MAX_INTEGER)]
    func: str | None = None
    module: str | None = None
    code: str | None = None
    in_app: bool | None = None
    pre: _Lines | None = None
    post: _Lines | None = None
    vars: dict[str, str] | None = None


_Frames = Annotated[list[_Frame], msgspec.Meta(max_length=MAX_FRAMES)]


def _are_plain(frames: Any) -> bool:
    """Whether frames are as they must be. It takes a tenth of the time of looking one by one, which names the fault."""
    try:
        msgspec.convert(frames, _Frames)
    except msgspec.ValidationError:
        return False
    return True


def _check_frame(frame: Any, at: str) -> None:
    if not isinstance(frame, dict):
        raise Invalid(at[:-1], "an object was expected")
    _string(frame, "file", at=at, required=True)
    _integer(frame, "line", at=at, required=True)
    for key in ("func", "module", "code"):
        _string(frame, key, at=at)
    if not isinstance(frame.get("in_app", False), bool | None):
        raise Invalid(at + "in_app", "true or false was expected")
    for key in ("pre", "post"):
        for line in _list(frame, key, at + key, most=MAX_SOURCE_LINES):
            if not isinstance(line, str):
                raise Invalid(at + key, "a list of strings was expected")
    _strings(frame, "vars", at + "vars")


def _string(body: dict[str, Any], key: str, *, at: str = "", most: int | None = None, required: bool = False) -> str:
    value = body.get(key)
    if value is None and not required:
        return ""
    if not isinstance(value, str):
        raise Invalid(at + key, "a string was expected")
    # A code point takes at most four bytes: most strings need not be encoded to be measured.
    if most is not None and len(value) * 4 > most and len(value.encode()) > most:
        raise Invalid(at + key, f"a string of at most {most} bytes was expected")
    return value


def _integer(body: dict[str, Any], key: str, *, at: str = "", least: int = 0, required: bool = False) -> None:
    value = body.get(key)
    if value is None and not required:
        return
    if type(value) is not int or not least <= value <= MAX_INTEGER:
        raise Invalid(at + key, f"an integer from {least} to 2^53 - 1 was expected")


def _object(body: dict[str, Any], key: str, *, at: str = "") -> None:
    if not isinstance(body.get(key), dict | None):
        raise Invalid(at + key, "an object was expected")


def _strings(body: dict[str, Any], key: str, field: str) -> None:
    value = body.get(key)
    if value is None:
        return
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise Invalid(field, "an object of strings was expected")


def _list(body: dict[str, Any], key: str, field: str, *, most: int) -> list[Any]:
    value = body.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > most:
        raise Invalid(field, f"a list of at most {most} was expected")
    return value
