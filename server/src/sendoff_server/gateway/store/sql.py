"""Loads the ``.sql`` files that lie beside this module. A query is called by the name in the comment above it."""

import re
from importlib import resources

_NAME = re.compile(r"^-- ([a-z_]+): .+$", re.MULTILINE)


def _text(file: str) -> str:
    return resources.files(__package__).joinpath(file).read_text("utf-8")


def load(file: str) -> dict[str, str]:
    """Name to SQL of every query in ``file``. Raises ``ValueError`` when a name comes twice."""
    parts = _NAME.split(_text(file))[1:]
    queries = dict(zip(parts[::2], (part.strip() for part in parts[1::2]), strict=True))
    if len(queries) * 2 != len(parts):
        raise ValueError(f"a query name comes twice in {file}")
    return queries


SCHEMA = _text("schema.sql")
MIGRATE_1 = _text("migrate_1.sql")
QUERIES = load("queries.sql")
LOOK = load("look.sql")
DIRECT = load("direct.sql")
