"""A spool that an older version wrote: nothing that waits in it is lost, also if the step to this layout fails."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import apsw
import pytest

from sendoff_server.spool import ClientState, Delivered, Spool, SpoolFailed, database, keeping
from sendoff_server.spool.accounts import Tally
from sendoff_server.spool.items import checksum
from sendoff_server.wire.batch import decode_body, encode_batch

from .conftest import NOW, OpenSpool, event, rotation

AGENT = "a" * 32
EPOCH = NOW - 1_000_000
LATER = NOW + 3_600_000

LAYOUT_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE item (
    item INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, kind INTEGER NOT NULL, epoch INTEGER NOT NULL,
    window INTEGER NOT NULL, made INTEGER NOT NULL, lines INTEGER NOT NULL, n INTEGER NOT NULL,
    decoded INTEGER NOT NULL, sources TEXT NOT NULL, checksum BLOB NOT NULL, blob BLOB NOT NULL
);
CREATE TABLE delivery (
    output TEXT NOT NULL, kind INTEGER NOT NULL, place INTEGER NOT NULL,
    item INTEGER NOT NULL REFERENCES item ON DELETE CASCADE, PRIMARY KEY (output, kind, place, item)
) WITHOUT ROWID;
CREATE INDEX delivery_item ON delivery (item);
CREATE TABLE content (
    item INTEGER NOT NULL REFERENCES item ON DELETE CASCADE, source TEXT NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (item, source)
) WITHOUT ROWID;
CREATE TABLE count (
    book TEXT NOT NULL, source TEXT NOT NULL, output TEXT NOT NULL, name TEXT NOT NULL, reason TEXT NOT NULL,
    n INTEGER NOT NULL, PRIMARY KEY (book, source, output, name, reason)
) WITHOUT ROWID;
CREATE TABLE client (
    client TEXT PRIMARY KEY, state TEXT NOT NULL, seen INTEGER NOT NULL, body BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE gauge (key BLOB PRIMARY KEY, state BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE dead (
    dead INTEGER PRIMARY KEY AUTOINCREMENT, output TEXT NOT NULL, batch TEXT NOT NULL, kind INTEGER NOT NULL,
    at INTEGER NOT NULL, status INTEGER NOT NULL, code TEXT NOT NULL, excerpt BLOB NOT NULL, lines INTEGER NOT NULL,
    n INTEGER NOT NULL, checksum BLOB NOT NULL, blob BLOB NOT NULL
);
PRAGMA user_version = 1;
"""
"""What the first version wrote."""


def header(name: str, kind: str, lines: int, **more: Any) -> dict[str, Any]:
    return {"batch": name, "schema": 1, "type": kind, "count": lines, "agent": AGENT, "made": NOW, "host": "h", **more}


def make_layout_1(folder: Path) -> None:
    """Two batches of events, one of them for one output only, three seconds of metrics, a dead letter, a client."""
    folder.mkdir(exist_ok=True)
    connection = apsw.Connection(str(folder / "spool.db"))
    connection.pragma("auto_vacuum", "incremental")
    connection.pragma("journal_mode", "wal")
    with connection:
        connection.execute(LAYOUT_1)
        connection.execute("INSERT INTO meta VALUES ('agent_id', ?), ('epoch', ?)", (AGENT, EPOCH))
        tally = Tally()
        numbers = itertools.count(1)
        for number, outputs in ((1, ["main", "copy"]), (2, ["main"])):
            lines = [event(10 * number).line, event(10 * number + 1, "till").line]
            name = f"ev-{AGENT}-{EPOCH}-{number}"
            _item(connection, next(numbers), 0, header(name, "events", 2), lines, '[["shop",1],["till",1]]', outputs)
            for output, source in itertools.product(("main", "copy"), ("shop", "till")):
                tally.events(source, output, "received", 1)
                if output not in outputs:
                    tally.events(source, output, "delivered", 1)
        for window in (1, 2, 3):
            line = rotation(cast("Spool", _Run()), window).lines[0]
            name = f"jr-{EPOCH}-{window}"
            _item(connection, next(numbers), 2, header(name, "journal", 1), [line], '{"shop":3}', ["main"], window)
            tally.points_in("shop", "received", 3)
            tally.points_in("shop", "journaled", 3)
            tally.points_out("main", "journaled", 3)
        line = event(99).line
        blob = encode_batch(header("ev-dead", "events", 1), [line])
        dead = ("main", "ev-dead", 0, NOW, 400, "bad", b"no", 1, 1, checksum(blob), blob)
        connection.execute(
            "INSERT INTO dead (output, batch, kind, at, status, code, excerpt, lines, n, checksum, blob)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            dead,
        )
        tally.events("shop", "main", "received", 1)
        tally.events("shop", "main", "dead", 1)
        tally.write(connection)
        body = b'{"client":"%s","service":"shop","upto":7,"state":"live"}' % (b"c" * 32)
        connection.execute("INSERT INTO client VALUES (?, 'live', 5, ?)", ("c" * 32, body))
        connection.execute("INSERT INTO gauge VALUES (?, ?)", (b"load", b"\x01"))
    connection.close()


class _Run:
    epoch = EPOCH


def _item(
    connection: apsw.Connection,
    item: int,
    kind: int,
    head: dict[str, Any],
    lines: list[bytes],
    sources: str,
    outputs: list[str],
    window: int = 0,
) -> None:
    blob = encode_batch(head, lines)
    n = 3 if kind else len(lines)
    epoch = EPOCH if kind else 0
    values = (item, head["batch"], kind, epoch, window, NOW, len(lines), n, 500, sources, checksum(blob), blob)
    connection.execute("INSERT INTO item VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    for source, held in (("", 3),) if kind else (("shop", 1), ("till", 1)):
        connection.execute("INSERT INTO content VALUES (?, ?, ?)", (item, source, held))
    for output in outputs:
        connection.execute("INSERT INTO delivery VALUES (?, ?, ?, ?)", (output, kind, item, item))


async def offered(spool: Spool, output: str) -> Iterator[Any]:
    found = []
    while batches := await spool.lease(output, LATER):
        found += batches
        await spool.settle(output, [Delivered(batch) for batch in batches])
    return iter(found)


async def test_everything_that_waits_in_an_older_layout_is_delivered(folder: Path, open_spool: OpenSpool) -> None:
    make_layout_1(folder)
    spool = open_spool("main", "copy")
    assert spool.quarantined is None
    assert (spool.agent_id, spool.epoch > EPOCH) == (AGENT, True)
    assert spool.clients["c" * 32].upto == 7
    assert spool.gauges == [b"load\0\x01"]
    assert (await spool.books()).balance() == []
    lines = {output: [] for output in ("main", "copy")}  # type: dict[str, list[bytes]]
    points = 0
    for output, found in lines.items():
        for batch in await offered(spool, output):
            found += decode_body(batch.blob, "zstd")[0].lines if batch.kind == "events" else []
            points += batch.n if batch.kind == "snapshot" else 0
    assert lines["main"] == [event(n, s).line for n, s in ((10, "shop"), (11, "till"), (20, "shop"), (21, "till"))]
    assert lines["copy"] == lines["main"][:2]
    assert points == 9
    books = await spool.books()
    assert books.balance() == []
    assert sum(book.pending for book in books.events) == 0


async def test_a_dead_letter_of_an_older_layout_can_be_sent_again(folder: Path, open_spool: OpenSpool) -> None:
    make_layout_1(folder)
    spool = open_spool("main", "copy")
    await offered(spool, "main")
    await spool.replay(keeping.Replaying(numbers=[1], force=True))
    (again,) = await offered(spool, "main")
    assert decode_body(again.blob, "zstd")[0].lines == [event(99).line]
    books = await spool.books()
    assert books.balance() == []


async def test_a_migration_that_fails_leaves_the_older_layout_and_is_done_by_the_next_start(
    folder: Path, open_spool: OpenSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_layout_1(folder)
    connection = apsw.Connection(str(folder / "spool.db"))
    pages = connection.pragma("page_count")
    connection.close()
    real = database.connect
    failures = 0
    for room in range(20):

        def connect(path: Path, room: int = room) -> apsw.Connection:
            connection = real(path)
            connection.pragma("max_page_count", pages + room)
            return connection

        monkeypatch.setattr(database, "connect", connect)
        try:
            database.open_database(folder, [], NOW).connection.close()
        except SpoolFailed as error:
            failures += "full" in str(error)
        else:
            break
        assert not (folder / "quarantine").exists()
        connection = apsw.Connection(str(folder / "spool.db"))
        assert connection.pragma("user_version") == 1
        assert [row[1] for row in connection.execute("PRAGMA table_info(item)")][-1] == "blob"
        connection.close()
    assert failures > 3
    monkeypatch.undo()
    spool = open_spool("main", "copy")
    assert (await spool.books()).balance() == []
    assert len(list(await offered(spool, "main"))) == 3


async def test_a_damaged_spool_of_an_older_layout_is_rescued(folder: Path, open_spool: OpenSpool) -> None:
    make_layout_1(folder)
    connection = apsw.Connection(str(folder / "spool.db"))
    connection.execute("UPDATE item SET n = 5 WHERE item = 1")
    connection.close()
    spool = open_spool("main", "copy")
    assert spool.quarantined is not None
    assert (spool.agent_id, (await spool.stats())["unknown"]) == (AGENT, [])
    assert (await spool.books()).balance() == []
    assert len(list(await offered(spool, "main"))) == 3
    await spool.put([event(1)], [ClientState("d" * 32)])
