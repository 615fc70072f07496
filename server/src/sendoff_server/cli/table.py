"""Rows in aligned columns, and what stands in them."""

import time
from collections.abc import Iterable, Sequence


def aligned(rows: Iterable[Sequence[object]], indent: str = "") -> list[str]:
    """Lines whose columns stand below each other: numbers to the right, text to the left."""
    cells = [[_cell(cell) for cell in row] for row in rows]
    numeric = [all(_is_number(cell) for cell in column[1:]) for column in zip(*cells, strict=True)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        indent
        + "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in cells
    ]


def shown(value: object, most: int) -> str:
    """Somebody else's text on a terminal: cut, in one line, without what could control it."""
    text = "".join(each if each.isprintable() else " " for each in str(value))
    return text if len(text) <= most else text[: most - 1] + "…"


def when(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(ms / 1000))


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _is_number(text: str) -> bool:
    return text.replace(",", "").isdigit()
