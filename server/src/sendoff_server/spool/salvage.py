"""Reads what can still be read of a damaged database: every row of it that SQLite can reach from either side.

A damaged page makes SQLite stop at it. So a table is read from both ends, and a table with numbers is searched between
the two places where reading stopped, by halves: a damaged leaf costs its own rows and no others. Nothing here writes.
The names of tables and columns that are built into queries are our own.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw

UNREADABLE = (apsw.CorruptError, apsw.NotADBError, apsw.IOError, apsw.SQLError, apsw.FormatError, UnicodeDecodeError)
"""What SQLite, or Python, says of a part that is damaged."""

PROBES = 20_000
"""How often a gap between two readable parts of one table is searched for more: a second or two."""
_BEYOND = 1 << 20
"""How far behind the last known number to look when the end of a table cannot be read."""

Row = tuple[Any, ...]

_ALWAYS = {0: b"SQLite format 3\0", 18: b"\2\2\0\x40\x20\x20", 44: b"\0\0\0\4", 56: b"\0\0\0\1"}
"""What stands in the header of every spool, by its place: name, WAL, payload fractions, schema format, UTF-8."""


def _mend_header(path: Path) -> bytes:
    """Write what every spool begins with over a damaged header: nothing else in it is needed to read. What was there.

    Raises ``OSError``.
    """
    with path.open("r+b" if path.exists() else "w+b") as file:
        found = file.read(100)
        header = bytearray(found)
        for place, content in _ALWAYS.items():
            header[place : place + len(content)] = content
        page = int.from_bytes(header[16:18], "big")
        if page != 1 and (page & (page - 1) or not 512 <= page <= 32_768):
            header[16:18] = (4_096).to_bytes(2, "big")
        if len(found) == 100 and header != found:
            file.seek(0)
            file.write(header)
    return found


class Wreck:
    """A damaged spool's file, opened to be read. ``missed``: the tables of which something could not be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._header = _mend_header(path)
        self._connection = apsw.Connection(str(path))
        # Its log is read too, but never written into it: what was set apart stays as it was found.
        self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        # No other process reads it, so the index of its log needs no file: the disk may be full.
        self._connection.pragma("locking_mode", "exclusive")
        # Go on with a file that was cut off, or whose schema is damaged in one place.
        self._connection.pragma("writable_schema", True)
        self._connection.pragma("cell_size_check", True)
        self.missed: set[str] = set()
        try:
            self.page_bytes = int(self._connection.pragma("page_size"))
        except UNREADABLE:
            self.page_bytes = 4_096

    def close(self) -> None:
        """Let go of the file, which is then as it was found. Raises ``OSError``."""
        self._connection.close()
        with self._path.open("r+b") as file:
            file.write(self._header)

    def columns(self, table: str) -> list[str]:
        """The names of a table's columns; none if the table is not there."""
        return [name for (name,) in self.rows("SELECT name FROM pragma_table_info(?)", (table,))]

    def row(self, sql: str, values: Sequence[Any]) -> Row | None:
        """The one row that a query finds, or None."""
        found = self.rows(sql, values)
        return found[0] if found else None

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """What a query finds up to the first thing that cannot be read."""
        return self._run(sql, values)[0]

    def numbered(self, table: str, number: str, columns: Sequence[str], value: int) -> Row | None:
        """One row of a table with numbers, or None."""
        return self.row(f"SELECT {', '.join(columns)} FROM {table} WHERE {number} = ?", (value,))  # noqa: S608

    def keyed(self, table: str, key: Sequence[str], columns: Sequence[str], source: str = "") -> Iterator[Row]:
        """Rows of a table without numbers, from its beginning and from its end; each once.

        ``source``: what to read instead of the table itself (an index that holds the same).
        """
        wanted = f"SELECT {', '.join(columns)} FROM {source or table} ORDER BY "  # noqa: S608
        up, whole = self._run(wanted + ", ".join(key))
        yield from up
        if whole:
            return
        self.missed.add(table)
        down, _ = self._run(wanted + ", ".join(f"{column} DESC" for column in key))
        seen = set(up)
        yield from (row for row in down if row not in seen)

    def numbers(self, table: str, number: str, last: int | None) -> list[int]:
        """The numbers of the rows that can be reached. ``last``: the greatest there may be, if that is known."""
        found: set[int] = set()
        highest = 0
        gaps = deque([(-1, last + 1 if last is not None else 1 << 62)])
        for _ in range(PROBES):
            if not gaps:
                break
            low, high = gaps.popleft()
            up, whole = self._between(table, number, low, high, up=True)
            found.update(up)
            highest = max([highest, *up[-1:]])
            if whole:
                continue
            self.missed.add(table)
            down, whole = self._between(table, number, low, high, up=False)
            found.update(down)
            low, high = max([low, *up[-1:]]), min([high, *down[-1:]])
            if high == 1 << 62:
                high = highest + _BEYOND
            middle = (low + high) // 2
            if not whole and high - low > 2:
                gaps += [(low, middle + 1), (middle, high)]
        return sorted(found)

    def _between(self, table: str, number: str, low: int, high: int, *, up: bool) -> tuple[list[int], bool]:
        order, step = ("ASC", 1) if up else ("DESC", -1)
        where = f"{number} > ? AND {number} < ? ORDER BY {number} {order}"
        sql = f"SELECT {number} FROM {table} WHERE {where}"  # noqa: S608
        rows, whole = self._run(sql, (low, high))
        found: list[int] = []
        for (value,) in rows:
            # A damaged page can also lead astray, to a place where reading has been before.
            if not low < value < high or (found and (value - found[-1]) * step <= 0):
                return found, False
            found.append(value)
        return found, whole

    def _run(self, sql: str, values: Sequence[Any] = ()) -> tuple[list[Row], bool]:
        """Rows up to the first that cannot be read, and whether that was the end."""
        found: list[Row] = []
        try:
            found.extend(self._connection.execute(sql, tuple(values)))
        except UNREADABLE:
            return found, False
        return found, True
