"""Payloads of events and exceptions as bytes. An event too large is refused; an exception is shed until it fits."""

from __future__ import annotations

from sendoff.content.render import Plain, TooLarge, word
from sendoff.frame import PAYLOAD_LIMIT, STRING_LIMIT, cut, to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sendoff.content.scrub import Scrubber
    from sendoff.scope import Scope


REQUEST_TEXTS = ("method", "url", "route", "query", "remote")
REQUEST_TEXT = 1_000
HEADERS = 40


def common(
    name: str, scope: Scope, scrubber: Scrubber, tags: dict[str, object], fields: dict[str, object]
) -> dict[str, Any]:
    """What events and exceptions share. Raises `TooLarge`."""
    plain = Plain(scrubber)
    made: dict[str, Any] = {"name": cut(name, STRING_LIMIT)}
    if scope.user:
        made["user"] = plain.mapping(scope.user)
    merged = {**scope.tags, **tags} if tags else scope.tags
    if merged:
        made["tags"] = plain.texts(merged)
    if fields:
        made["fields"] = plain.mapping(fields)
    return made


def event(name: str, scope: Scope, scrubber: Scrubber, fields: dict[str, object]) -> bytes:
    """The payload of an event. Raises `TooLarge`."""
    raw = to_json(common(name, scope, scrubber, {}, fields))
    if len(raw) > PAYLOAD_LIMIT:
        raise TooLarge
    return raw


def request(given: dict[str, object], scrubber: Scrubber) -> dict[str, object]:
    """The request part of an exception. Names of headers and parameters decide what is hidden, and so do values that
    look like secrets. Empty if it is too large.
    """
    plain = Plain(scrubber)
    made: dict[str, object] = {}
    try:
        for key, value in given.items():
            if key == "headers":
                if type(value) is dict:
                    some = list(value.items())[:HEADERS]
                    made[key] = plain.mapping(
                        {name: text[:REQUEST_TEXT] if type(text) is str else text for name, text in some}, 3
                    )
            elif key in REQUEST_TEXTS:
                text = word(value)[:REQUEST_TEXT]
                if text:
                    made[key] = scrubber.query(text) if key == "query" else scrubber.text(text)
            else:
                made.update(plain.mapping({key: value}))
    except TooLarge:
        return {}
    return made


def exception(
    scope: Scope,
    scrubber: Scrubber,
    chain: list[dict[str, Any]],
    fingerprint: str,
    tags: dict[str, object],
    fields: dict[str, object],
) -> bytes:
    """The payload of an exception, which always fits: variables go first, then source, frames, members of the chain,
    the rest.
    """
    name = chain[0]["type"]
    try:
        made = common(name, scope, scrubber, tags, fields)
    except TooLarge:
        made = {"name": cut(name, STRING_LIMIT), "tags": {"sendoff_shed": "user, tags and fields"}}
    made["fingerprint"] = fingerprint
    made["chain"] = chain
    described = request(scope.request, scrubber) if scope.request else None
    if described:
        made["request"] = described
    raw = to_json(made)
    for step in _STEPS:
        if len(raw) <= PAYLOAD_LIMIT:
            break
        step(made)
        raw = to_json(made)
    return raw


def _without(*keys: str, innermost: int = 0) -> Callable[[dict[str, Any]], None]:
    def step(made: dict[str, Any]) -> None:
        for error in made["chain"]:
            for frame in error["frames"][: -innermost or None]:
                for key in keys:
                    frame.pop(key, None)

    return step


def _frames(most: int) -> Callable[[dict[str, Any]], None]:
    def step(made: dict[str, Any]) -> None:
        for error in made["chain"]:
            frames = error["frames"]
            if len(frames) > most:
                gone = len(frames) - most + 1
                error["frames"] = [{"file": "", "line": 0, "func": f"… {gone} frames left out"}, *frames[gone:]]

    return step


def _first_exceptions(made: dict[str, Any]) -> None:
    del made["chain"][4:]
    for error in made["chain"]:
        error["message"] = error["message"][:500]
        error.pop("notes", None)


def _bare(made: dict[str, Any]) -> None:
    for key in ("request", "fields", "user"):
        made.pop(key, None)
    made["tags"] = {"sendoff_shed": "user, request and fields"}


_STEPS: tuple[Callable[[dict[str, Any]], None], ...] = (
    _without("vars", innermost=5),
    _without("vars"),
    _without("pre", "post"),
    _without("code"),
    _frames(30),
    _bare,
    _frames(8),
    _first_exceptions,
    _frames(2),
)
