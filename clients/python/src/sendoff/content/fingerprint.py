"""Which exceptions are "the same": protocol/wire-format.md, section 7. Pure."""

from __future__ import annotations

import re
from hashlib import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

EXCEPTIONS = 8
FRAMES = 32
MESSAGE = 200
LEFT_OUT = "… "
"""How `func` begins in the frame that stands for those left out; its `file` is empty."""

_PASSED_OVER = ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>")
_DIGITS = re.compile("[0-9]+")


def fingerprint(chain: Sequence[dict[str, Any]]) -> str:
    """The fingerprint of a chain of exceptions as an exception's payload has it."""
    parts: list[str] = []
    for error in chain[:EXCEPTIONS]:
        parts.append(error["type"])
        frames = error.get("frames") or []
        if frames:
            parts += _calls(frames)
        else:
            first = error.get("message", "").split("\n", 1)[0]
            parts.append(_DIGITS.sub("0", first)[:MESSAGE])
    return digest(parts)


def custom(strings: Sequence[str]) -> str:
    """The fingerprint that the application chose."""
    return digest(["custom", *strings])


def digest(parts: Sequence[str]) -> str:
    """The first 32 hex digits of the SHA-256 of `parts` joined by LF."""
    return sha256("\n".join(parts).encode("utf-8", "replace")).hexdigest()[:32]


def _calls(frames: Sequence[dict[str, Any]]) -> list[str]:
    real = [frame for frame in frames if not frame.get("func", "").endswith(_PASSED_OVER) and not _stands_in(frame)]
    chosen = [frame for frame in real if frame.get("in_app")] or real
    calls: list[str] = []
    for frame in chosen[-FRAMES:]:
        module = frame.get("module") or frame["file"].rsplit("/", 1)[-1].rsplit("\\", 1)[-1]
        call = f"{module}\0{frame.get('func', '')}"
        if not calls or calls[-1] != call:
            calls.append(call)
    return calls


def _stands_in(frame: dict[str, Any]) -> bool:
    return not frame["file"] and not frame["line"] and bool(frame.get("func", "").startswith(LEFT_OUT))
