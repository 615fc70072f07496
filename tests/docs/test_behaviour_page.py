"""docs/behaviour.md: each promise names a test that exists, each number is that of the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module

import pytest

from tests.docs.pages import ROOT, page, sections

PAGE = page("docs/behaviour.md")
UNITS = {"": 1, "s": 1, "min": 60, "h": 3_600, "d": 86_400, "KiB": 1_024, "MiB": 1_048_576}
NUMBERS = re.findall(r"^\| (.+) \| ([\d.,]+) ?([A-Za-z]*) \| `([\w.]+):(\w+)` \|$", PAGE, re.MULTILINE)


def all_tests() -> set[str]:
    folders = [ROOT / "clients/python/tests", ROOT / "server/tests", ROOT / "tests"]
    return {
        name
        for folder in folders
        for file in folder.rglob("test_*.py")
        for name in re.findall(r"^\s*(?:async )?def (test_\w+)\(", file.read_text(encoding="utf-8"), re.MULTILINE)
    }


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 80
    assert sorted(named - all_tests()) == []


def rows() -> Iterator[str]:
    for heading in ("The application", "Without an agent", "The agent", "Delivery", "The gateway"):
        yield from [line for line in sections(PAGE)[heading].splitlines() if line.startswith("| ")][2:]


def test_every_promise_names_a_test() -> None:
    assert [row for row in rows() if not re.search(r"\| `test_\w+`(, `test_\w+`)* \|$", row)] == []


def test_every_number_stands_in_the_code() -> None:
    table = [line for line in sections(PAGE)["Numbers"].splitlines() if line.startswith("| ")][2:]
    assert len(NUMBERS) == len(table), "a row of the table cannot be read"


@pytest.mark.parametrize(("what", "number", "unit", "module", "name"), NUMBERS, ids=[row[4] for row in NUMBERS])
def test_a_number_is_that_of_the_code(what: str, number: str, unit: str, module: str, name: str) -> None:
    assert getattr(import_module(module), name) == float(number.replace(",", "")) * UNITS[unit], what
