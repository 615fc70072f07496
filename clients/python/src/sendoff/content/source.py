"""Source lines around a frame, through the shared `linecache`. Bounded in files and in bytes of a file."""

from __future__ import annotations

import linecache
import os
import stat

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
    if len(linecache.cache.get(file, ())) <= 1 and not _may_read(file, len(linecache.cache)):
        return {}  # not read yet; an entry of one is a promise of a module's loader
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


def _may_read(file: str, kept: int) -> bool:
    try:
        found = os.stat(file)
    except (OSError, ValueError):
        return False
    return kept < FILES and stat.S_ISREG(found.st_mode) and found.st_size <= FILE_LIMIT  # a pipe might never end


def _tidy(text: str) -> str:
    return text.rstrip("\r\n")[:LINE]
