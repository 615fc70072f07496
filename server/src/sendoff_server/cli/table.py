"""Rows in aligned columns."""

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


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _is_number(text: str) -> bool:
    return text.replace(",", "").isdigit()
