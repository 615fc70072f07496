"""Whether a spool can be trusted: its structure, and whether its rows agree with each other and with the books.

SQLite finds broken pages, but takes any value in a row that has the form of one. So what is kept twice is compared: an
item's number of events with its contents and its sources, rows with the books, which balance at every commit.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import apsw
import msgspec

from sendoff_server.spool.accounts import read_books, read_clients
from sendoff_server.spool.items import KINDS
from sendoff_server.spool.sense import agree, is_agent_id, is_count, named_by, windows_named
from sendoff_server.spool.sql import ask

SMALL = ("meta", "delivery", "content", "count", "client", "gauge", "fold", "receipt", "standing")
"""Tables without blobs: checked at every start, whatever the size of the spool."""


def structure(connection: apsw.Connection, *, whole: bool) -> str | None:
    """What is wrong with the database's pages, or None. Not ``whole``: without those that hold only blobs.

    Raises ``apsw.CorruptError`` where even asking fails.
    """
    if whole:
        # Not the quick one: that does not look whether an index says what its table says.
        checks = ["PRAGMA integrity_check(1)"]
    else:
        checks = [f"PRAGMA integrity_check({table})" for table in SMALL]
        # What is read before a row's blob lies on its leaf, as a rule: this visits the leaves, and no blob.
        connection.execute("SELECT max(length(sources) + length(blob)) FROM item").fetchall()
        connection.execute("SELECT max(length(sources) + length(blob)) FROM dead").fetchall()
    for check in checks:
        answer = connection.execute(check).fetchall()[0][0]
        if answer != "ok":
            return str(answer)
    return None


def books(connection: apsw.Connection, now_ms: int) -> str | None:
    """What is wrong with the books and with what is known besides, or None."""
    known = dict(ask(connection, "meta"))
    if "agent_id" in known and not is_agent_id(known["agent_id"]):
        return "the agent's id is not one"
    for key in ("epoch", "ran_ms"):
        value = known.get(key, 0)
        if not isinstance(value, int) or not 0 <= value < now_ms + 366 * 86_400_000 * 50:
            return f"{key} cannot be {value!r}"
    if not all(is_count(row) for row in ask(connection, "counts")):
        return "a count is none that is kept"
    try:
        keys = {key for (key,) in connection.execute("SELECT client FROM client")}
        if set(read_clients(connection)) != keys:
            return "the row of a client names another"
        return next(iter(read_books(connection).balance()), None)
    except (msgspec.MsgspecError, ValueError, TypeError, AttributeError) as error:
        return str(error)


def items(connection: apsw.Connection) -> str | None:
    """What is wrong with the rows of items (their blobs are verified when they are leased), or None."""
    return next((words for _, words in faulty(connection)), None)


def faulty(connection: apsw.Connection) -> Iterator[tuple[int, str]]:
    """Items whose rows do not agree with each other, and what is wrong with each."""
    return _faults(connection.execute(_ITEMS))


_ITEMS = """
SELECT i.item, i.id, json_object('epoch', i.epoch, 'first', i.first, 'window', i.window),
    i.kind, i.lines, i.n, i.sources,
    (SELECT json_group_array(json_array(c.source, c.n)) FROM content c WHERE c.item = i.item),
    (SELECT count(*) FROM delivery d WHERE d.item = i.item AND d.kind <> i.kind)
FROM item i
"""


def _faults(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[int, str]]:
    for item, name, windows, kind, lines, n, sources, content, other_kind in rows:
        fault = f"the row of {name!r} (item {item}) does not agree with "
        if kind not in KINDS or not isinstance(lines, int) or not isinstance(kind, int) or not isinstance(content, str):
            yield item, fault + "itself"
        elif not windows_named(kind, str(name)).items() <= msgspec.json.decode(str(windows)).items():
            yield item, fault + "its own name"
        elif other_kind:
            yield item, fault + "who waits for it"
        elif (named := named_by(kind, lines, sources)) is None:
            yield item, fault + "its sources"
        else:
            holds = {str(source): int(number) for source, number in msgspec.json.decode(content)}
            if sum(holds.values()) != n or not agree(kind, holds, named):
                yield item, fault + "what it holds"
