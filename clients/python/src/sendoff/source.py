"""Source lines around a frame, through the shared `linecache`. Bounded in files and in bytes of a file."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

AROUND = 5
LINE = 300
FILE_LIMIT = 2_000_000
FILES = 1_000
"""Files that may be in `linecache` before no further ones are read."""


def lines_around(file: str, line: int) -> dict[str, Any]:
    """`pre`, `code` and `post` of a line; empty if the source cannot be had. Never asks a module's loader, which is
    foreign code.
    """
    if line < 1 or file.startswith("<"):
        return {}
    try:
        import linecache
    except ImportError:  # the interpreter is ending
        return {}
    if file not in linecache.cache:
        try:
            if len(linecache.cache) >= FILES or os.stat(file).st_size > FILE_LIMIT:
                return {}
        except (OSError, ValueError):
            return {}
    lines = linecache.getlines(file)
    if line > len(lines):
        return {}
    at = line - 1
    found: dict[str, Any] = {"code": _tidy(lines[at])}
    if at:
        found["pre"] = [_tidy(text) for text in lines[max(0, at - AROUND) : at]]
    if line < len(lines):
        found["post"] = [_tidy(text) for text in lines[line : line + AROUND]]
    return found


def _tidy(text: str) -> str:
    return text.rstrip("\r\n")[:LINE]
