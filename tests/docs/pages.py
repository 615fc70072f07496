"""Reading documentation: its blocks of code by heading, and its tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Block:
    """A block of code: the heading it stands under, its number there (from 1), its text."""

    heading: str
    number: int
    code: str

    def __str__(self) -> str:
        return f"{self.heading} {self.number}"


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str, language: str = "python") -> list[Block]:
    found: list[Block] = []
    heading = ""
    for part in re.finditer(
        r"^#+ (?P<heading>[^\n]+)$|^```(?P<of>[^\n]*)\n(?P<code>.*?)^```$", text, re.MULTILINE | re.DOTALL
    ):
        if part["code"] is None:
            heading = part["heading"]
        elif part["of"] == language:
            number = 1 + sum(block.heading == heading for block in found)
            found.append(Block(heading, number, part["code"]))
    return found


def sections(text: str) -> dict[str, str]:
    """The text below each heading of any level, down to the next heading."""
    parts = re.split(
        r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), flags=re.MULTILINE
    )
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def table_keys(text: str) -> list[str]:
    """What stands in backquotes in the first column of tables."""
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    return [key for row in rows for key in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
