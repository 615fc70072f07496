"""Loads ``queries.sql`` and ``keeping.sql``: each query has a name and a sentence that says what it is for."""

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import apsw

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def schema() -> str:
    """The text of ``schema.sql``."""
    return _text("schema.sql")


def usage() -> str:
    """The text of ``usage.sql``."""
    return _text("usage.sql")


def migration(version: int) -> str:
    """The text that brings a layout of this version to the next one. Each only adds, so that it takes no time."""
    return _text(f"migrate_{version}.sql")


def load(text: str) -> dict[str, str]:
    """Queries by name. Raises ``ValueError`` for a name that comes twice or a query without a sentence."""
    found: dict[str, str] = {}
    parts = _NAME.split(text)[1:]
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        lines = body.strip().splitlines()
        if name in found:
            raise ValueError(f"the query {name} is there twice")
        if not lines or not lines[0].startswith("-- "):
            raise ValueError(f"the query {name} has no sentence that says what it is for")
        found[name] = "\n".join(line for line in lines if not line.startswith("--"))
    return found


def _text(name: str) -> str:
    return files(__package__ or "").joinpath(name).read_text(encoding="utf-8")


QUERIES = load(_text("queries.sql") + "\n" + _text("keeping.sql"))


def ask(connection: apsw.Connection, query: str, values: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
    """Run a named query; every row of the answer."""
    return connection.execute(QUERIES[query], values).fetchall()


def tell(connection: apsw.Connection, query: str, rows: Iterable[Sequence[Any]]) -> None:
    """Run a named statement once for each row of values."""
    connection.executemany(QUERIES[query], rows)
