"""Looking into the spool, throwing away, checking; through a spool that is open, and on its files."""

import json
from pathlib import Path
from typing import Any

import apsw
import pytest

from sendoff_server.spool import Dead, Delivered, SpoolFailed, SpoolLocked, keeping
from sendoff_server.spool.checking import checking
from sendoff_server.spool.keeping import Exporting, Listing, Purging, Replaying, Showing
from sendoff_server.spool.offline import Files
from sendoff_server.wire.batch import decode_body

from .conftest import NOW, OpenSpool, event, rotation

LATER = NOW + 3_600_000
HOUR = 3_600_000


async def test_what_waits_and_what_is_dead_is_listed_within_the_limit_and_totals_are_of_all(
    open_spool: OpenSpool,
) -> None:
    spool = open_spool("main", "hook", running=lambda: 0.0)
    for number in range(30):
        await spool.put([event(number)], [])
    for batch in (await spool.lease("hook", LATER))[:10]:
        await spool.settle("hook", [Dead(batch, 400, "refused", b"no \xff")])
    found = await spool.look(lambda connection: keeping.listing(connection, Listing(limit=5), HOUR))
    assert [row["item"] for row in found["waiting"]] == [1, 2, 3, 4, 5]
    assert {row["output"] for row in found["waiting"]} == {"main"}
    assert found["waiting"][0]["age_s"] == 3_600
    assert [row["dead"] for row in found["dead"]] == [10, 9, 8, 7, 6]
    assert found["dead"][0]["excerpt"] == "no \ufffd"
    assert {(row["output"], row["items"], row["events"]) for row in found["totals"]["waiting"]} == {
        ("main", 30, 30),
        ("hook", 20, 20),
    }
    assert [(row["output"], row["letters"]) for row in found["totals"]["dead"]] == [("hook", 10)]
    only = await spool.look(lambda connection: keeping.listing(connection, Listing("hook", True), 0))
    assert (only["waiting"], len(only["dead"])) == ([], 10)


async def test_a_batch_is_shown_by_number_by_id_and_as_a_dead_letter_with_as_many_lines_as_asked(
    open_spool: OpenSpool,
) -> None:
    spool = open_spool("main", "hook")
    await spool.put([event(number) for number in range(5)], [])
    (batch,) = await spool.lease("main", LATER)
    for name in (str(batch.item), batch.id):
        found = await spool.look(lambda c, name=name: keeping.showing(c, Showing(name, 2), 0))  # type: ignore[misc]
        assert found is not None
        assert (found["id"], found["outputs"], found["more_lines"]) == (batch.id, ["hook", "main"], 3)
        assert [line["id"] for line in found["lines_shown"]] == ["e0", "e1"]
    await spool.settle("main", [Dead(batch, 400, "refused", b"no")])
    found = await spool.look(lambda connection: keeping.showing(connection, Showing("dead/1"), 0))
    assert found is not None
    assert (found["output"], found["status"], found["excerpt"], len(found["lines_shown"])) == ("main", 400, "no", 5)
    for name in ("7", "dead/7", "dead/x", "", "9" * 40, "-1", "dead/"):
        assert await spool.look(lambda c, name=name: keeping.showing(c, Showing(name), 0)) is None  # type: ignore[misc]


async def test_an_export_gives_every_batch_once_page_by_page_and_names_what_is_damaged(
    open_spool: OpenSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "PAGE_BYTES", 1_000)
    spool = open_spool("main")
    for number in range(20):
        await spool.put([event(number)], [])
    await spool._writer.submit(
        lambda transaction: transaction.connection.execute("UPDATE item SET blob = x'00' WHERE item = 3").fetchall()
    )
    after, pages, lines, broken = 0, 0, [], []
    while True:
        page, after, damaged = await spool.look(
            lambda connection, after=after: keeping.exporting(connection, Exporting("waiting", None, after))  # type: ignore[misc]
        )
        pages += 1
        lines += page.splitlines(keepends=True)
        broken += damaged
        if not after:
            break
    assert pages > 2
    assert broken == ["3"]
    batches = decode_body(b"".join(lines), "identity")
    assert [json.loads(batch.lines[0])["id"] for batch in batches] == [f"e{n}" for n in range(20) if n != 2]


async def test_a_page_of_an_export_names_no_more_damage_than_a_header_holds(
    open_spool: OpenSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "PAGE_DAMAGED", 2)
    spool = open_spool("main")
    for number in range(5):
        await spool.put([event(number)], [])
    await spool._writer.submit(lambda transaction: transaction.connection.execute("UPDATE item SET blob = x'00'"))
    after, pages = 0, list[list[str]]()
    while not pages or after:
        wish = Exporting("waiting", None, after)
        _, after, damaged = await spool.look(lambda connection, wish=wish: keeping.exporting(connection, wish))  # type: ignore[misc]
        pages.append(damaged)
    assert [each for each in pages if each] == [["1", "2"], ["3", "4"], ["5"]]


async def test_a_purge_only_says_what_would_go_until_it_is_told_to(open_spool: OpenSpool) -> None:
    spool = open_spool("main", "hook")
    await spool.put([event(1)], [])
    await spool.journal(rotation(spool, 1))
    would = await spool.purge(Purging("waiting", "main"))
    assert (would["gone"]["events"], would["gone"]["points"], would["done"]) == (1, 3, False)
    assert sum(book.pending for book in (await spool.books()).events) == 2
    gone = await spool.purge(Purging("waiting", "main", yes=True))
    assert gone["gone"] == would["gone"]
    books = await spool.books()
    assert books.balance() == []
    assert {book.output: (book.pending, dict(book.lost)) for book in books.events} == {
        "main": (0, {"purged": 1}),
        "hook": (1, {}),
    }
    assert {book.output: (book.pending, dict(book.lost)) for book in books.points_out} == {
        "main": (0, {"purged": 3}),
        "hook": (3, {}),
    }
    assert len(await spool.lease("hook", LATER)) == 2


async def test_what_is_purged_while_it_is_sent_is_counted_once(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    await spool.put([event(1)], [])
    (batch,) = await spool.lease("main", LATER)
    await spool.purge(Purging("waiting", yes=True))
    await spool.settle("main", [Delivered(batch)])
    books = await spool.books()
    assert books.balance() == []
    assert [(book.delivered, dict(book.lost)) for book in books.events] == [(0, {"purged": 1})]


async def test_a_purge_takes_what_is_named_or_old_enough_in_pieces(
    open_spool: OpenSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "PURGE_ROWS", 2)
    ran_s = 0.0
    spool = open_spool("main", running=lambda: ran_s)
    for number in range(6):
        await spool.put([event(number)], [])
        ran_s += 3_600
    named = await spool.purge(Purging("waiting", numbers=[2, 99], yes=True))
    assert (named["gone"]["items"], named["more"]) == (1, False)
    wish = Purging("waiting", older_ms=2 * HOUR, yes=True)
    items = 0
    more = True
    while more:
        answer = await spool.purge(wish)
        items += answer["gone"]["items"]
        more = answer["more"]
        wish = Purging("waiting", None, wish.older_ms, [], True, answer["after"], answer["until"])
    assert items == 3
    assert [batch.item for batch in await spool.lease("main", LATER)] == [5, 6]


async def test_age_is_the_time_that_an_agent_ran_whatever_the_clock_says(open_spool: OpenSpool, folder: Path) -> None:
    now, ran_s = NOW, 0.0
    spool = open_spool("main", clock=lambda: now, running=lambda: ran_s)
    await spool.put([event(1)], [])
    ran_s += 5
    await spool.put([event(2)], [])
    now += 48 * HOUR
    wish = Purging("waiting", older_ms=HOUR)
    assert (await spool.purge(wish))["gone"]["items"] == 0
    ran_s += 3_599
    assert (await spool.purge(wish))["gone"]["items"] == 1
    found = await spool.look(lambda connection: keeping.listing(connection, Listing(), spool.ran_ms()))
    assert [row["age_s"] for row in found["waiting"]] == [3_604, 3_599]
    spool.close()
    files = Files(folder)
    try:
        assert files.change(lambda transaction: keeping.purging(transaction, wish))["gone"]["items"] == 1
    finally:
        files.close()


async def test_bytes_of_a_batch_are_thrown_away_when_no_output_waits_for_it_any_more(open_spool: OpenSpool) -> None:
    spool = open_spool("main", "hook")
    await spool.put([event(1)], [])
    size = (await spool.purge(Purging("waiting")))["gone"]["bytes"]
    assert size > 0
    assert (await spool.purge(Purging("waiting", "main", yes=True)))["gone"]["bytes"] == 0
    assert (await spool.purge(Purging("waiting", "hook", yes=True)))["gone"]["bytes"] == size


async def test_purged_dead_letters_stay_counted_as_dead(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    await spool.put([event(1)], [])
    (batch,) = await spool.lease("main", LATER)
    await spool.settle("main", [Dead(batch, 400, "refused", b"")])
    await spool.purge(Purging("dead", yes=True))
    assert (await spool.stats())["dead_letters"] == []
    books = await spool.books()
    assert books.balance() == []
    assert [book.dead for book in books.events] == [1]


async def check(spool: Any) -> list[str]:
    found = await spool.look(checking)
    assert found["found"] == len(found["faults"])
    return list(found["faults"])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("UPDATE item SET blob = zeroblob(length(blob)) WHERE item = 1", "item 1 "),
        ("UPDATE dead SET blob = zeroblob(length(blob))", "dead/1 "),
        ("UPDATE item SET n = 7 WHERE item = 1", "item 1 holds 7, but by source 1"),
        ("UPDATE item SET lines = 2 WHERE item = 1", "it should have 2 lines and has 1"),
        ("UPDATE item SET id = 'x' WHERE item = 1", "its data calls itself"),
        ("DELETE FROM delivery WHERE item = 1", "item 1 waits for no output"),
        ("UPDATE count SET n = n + 1 WHERE name = 'received'", "the books do not balance"),
        ("INSERT INTO receipt VALUES ('e', '', 1, 1, '')", None),
    ],
)
async def test_a_check_finds_what_is_wrong_and_changes_nothing(
    open_spool: OpenSpool, damage: str, words: str | None
) -> None:
    spool = open_spool("main")
    for number in (1, 2):
        await spool.put([event(number)], [])
    batch = (await spool.lease("main", LATER))[1]
    await spool.settle("main", [Dead(batch, 400, "refused", b"")])
    await spool.journal(rotation(spool, 1))
    assert await check(spool) == []
    await spool._writer.submit(lambda transaction: transaction.connection.execute(damage).fetchall())
    faults = await check(spool)
    assert bool(faults) == bool(words)
    assert words is None or any(words in fault for fault in faults), faults
    assert await check(spool) == faults


async def test_the_files_are_looked_into_without_an_agent_and_nothing_is_given_up(
    open_spool: OpenSpool, folder: Path
) -> None:
    spool = open_spool("main", "old")
    await spool.put([event(1)], [])
    epoch = spool.epoch
    spool.close()
    files = Files(folder)
    found = files.look(lambda connection: keeping.listing(connection, Listing(), 0))
    assert {row["output"] for row in found["waiting"]} == {"main", "old"}
    assert files.look(checking)["found"] == 0
    with pytest.raises(SpoolFailed):
        files.look(lambda connection: connection.execute("DELETE FROM item"))
    files.close()
    connection = apsw.Connection(str(folder / "spool.db"))
    assert connection.execute("SELECT value FROM meta WHERE key = 'epoch'").get == epoch
    connection.close()


async def test_on_the_files_letters_are_replayed_and_batches_purged_with_balanced_books(
    open_spool: OpenSpool, folder: Path
) -> None:
    spool = open_spool("main")
    await spool.put([event(1)], [])
    (batch,) = await spool.lease("main", LATER)
    await spool.settle("main", [Dead(batch, 400, "refused", b"")])
    await spool.put([event(2)], [])
    spool.close()
    files = Files(folder)
    answer = files.change(lambda transaction: keeping.replaying(transaction, Replaying(every=True), {"main"}))
    assert [each["dead"] for each in answer["replayed"]] == [1]
    files.change(lambda transaction: keeping.purging(transaction, Purging("waiting", numbers=[2], yes=True)))
    files.close()
    spool = open_spool("main")
    assert [each.id for each in await spool.lease("main", LATER)] == [batch.id]
    books = await spool.books()
    assert books.balance() == []
    assert [(book.dead, book.pending, dict(book.lost)) for book in books.events] == [(0, 1, {"purged": 1})]


async def test_a_text_that_is_none_is_said_to_be_damage_through_the_agent_and_on_the_files(
    open_spool: OpenSpool, folder: Path
) -> None:
    spool = open_spool("main")
    await spool.put([event(1)], [])
    await spool._writer.submit(
        lambda transaction: transaction.connection.execute("UPDATE item SET id = CAST(x'ff' AS TEXT)").fetchall()
    )
    with pytest.raises(SpoolFailed, match="damaged"):
        await spool.look(lambda connection: keeping.listing(connection, Listing(), 0))
    spool.close()
    files = Files(folder)
    try:
        for work in (lambda connection: keeping.listing(connection, Listing(), 0), checking):
            with pytest.raises(SpoolFailed, match="damaged"):
                files.look(work)
    finally:
        files.close()


async def test_the_files_of_a_running_agent_are_refused_and_an_agent_waits_for_who_looks(
    open_spool: OpenSpool, folder: Path
) -> None:
    spool = open_spool("main")
    with pytest.raises(SpoolLocked):
        Files(folder)
    spool.close()
    files = Files(folder)
    with pytest.raises(SpoolLocked):
        open_spool("main")
    files.close()
    open_spool("main")


def test_where_no_spool_is_none_is_made(folder: Path) -> None:
    with pytest.raises(SpoolFailed, match="there is no spool in"):
        Files(folder)
    assert not folder.exists()


async def test_a_log_with_damage_in_it_is_left_for_the_agent_to_rescue(open_spool: OpenSpool, folder: Path) -> None:
    spool = open_spool("main")
    for number in range(6):
        await spool.put([event(number)], [])
    copy = folder.with_name("copy")
    copy.mkdir()
    for name in ("spool.db", "spool.db-wal"):
        data = bytearray((folder / name).read_bytes())
        if name.endswith("wal"):
            frames = (len(data) - 32) // (24 + 4096)
            data[32 + 24 + (24 + 4096) * (frames // 2) + 100] ^= 1
        (copy / name).write_bytes(data)
    before = (copy / "spool.db-wal").read_bytes()
    with pytest.raises(SpoolFailed, match=r"log of the spool .* is damaged: start the agent"):
        Files(copy)
    assert (copy / "spool.db-wal").read_bytes() == before


async def test_a_file_that_is_no_database_and_one_of_another_layout_are_refused_in_words(
    open_spool: OpenSpool, folder: Path
) -> None:
    open_spool("main").close()
    connection = apsw.Connection(str(folder / "spool.db"))
    connection.pragma("user_version", 1)
    connection.close()
    with pytest.raises(SpoolFailed, match="has layout 1: start the agent once"):
        Files(folder)
    (folder / "spool.db").write_bytes(b"not a database" * 1_000)
    for name in ("spool.db-wal", "spool.db-shm"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(SpoolFailed, match="cannot be read"):
        Files(folder)
    assert (folder / "spool.db").read_bytes() == b"not a database" * 1_000
