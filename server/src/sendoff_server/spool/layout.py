"""The layout of the tables: made anew, or brought forward from an older one."""

from pathlib import Path

import apsw

from sendoff_server.spool.errors import SpoolTooNew
from sendoff_server.spool.sql import ask, migration, schema

VERSION = 2


def make(connection: apsw.Connection) -> None:
    """All tables, in an empty database and inside the caller's transaction."""
    connection.execute(schema())
    _is(connection, VERSION)


def bring_forward(connection: apsw.Connection) -> None:
    """Make the tables, or migrate them: each step in one transaction, so that a failing one leaves what was there.

    Raises ``SpoolTooNew``, and ``apsw.Error`` if the disk refuses.
    """
    version = _version(connection)
    if version > VERSION:
        raise SpoolTooNew(_too_new(version))
    if version == 0:
        with connection:
            make(connection)
        return
    for step in range(version, VERSION):
        with connection:
            connection.execute(migration(step))
            _is(connection, step + 1)


def is_whole(connection: apsw.Connection) -> bool:
    """Whether every table has the name and columns that it is to have: a letter of the schema can change, too."""
    if connection.execute("SELECT 1 FROM sqlite_schema WHERE instr(sql, name) = 0").fetchall():
        return False
    fresh = apsw.Connection(":memory:")
    try:
        fresh.execute(schema())
        return _columns(fresh) == _columns(connection)
    finally:
        fresh.close()


def _columns(connection: apsw.Connection) -> set[tuple[str, str]]:
    rows = connection.execute("SELECT m.name, c.name FROM sqlite_schema m, pragma_table_info(m.name) c")
    return {(str(table), str(column)) for table, column in rows}


def check_layout(folder: Path) -> None:
    """Raises ``SpoolTooNew`` for a spool that this version cannot read. Only looks, also while another has it open."""
    try:
        connection = apsw.Connection(str(folder / "spool.db"), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            connection.set_busy_timeout(5_000)
            version = connection.pragma("user_version")
        finally:
            connection.close()
    except apsw.Error:  # none is there, or it is ill: that is for who opens it to say
        return
    if version > VERSION:
        raise SpoolTooNew(_too_new(version))


def _too_new(version: int) -> str:
    return (
        f"the spool was written by a later version of Sendoff (layout {version}, this one knows {VERSION}): "
        "upgrade, or move the directory away"
    )


def _version(connection: apsw.Connection) -> int:
    """The number is kept twice, since a flipped bit in one of them must not make a spool unusable."""
    noted = int(connection.pragma("user_version"))
    known = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'meta'").fetchall()
    rows = ask(connection, "get_meta", {"key": "layout"}) if known else []
    if rows and isinstance(rows[0][0], int) and rows[0][0] != noted and 1 <= rows[0][0] <= VERSION:
        connection.pragma("user_version", rows[0][0])
        return rows[0][0]
    return max(noted, 1) if known else noted


def _is(connection: apsw.Connection, version: int) -> None:
    connection.pragma("user_version", version)
    ask(connection, "set_meta", {"key": "layout", "value": version})
