"""What can be read of a damaged spool goes on; the rest is counted, or called unknown where nobody can count it."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from sendoff_server.spool import (
    ClientState,
    Dead,
    Delivered,
    EventIn,
    OutputSpec,
    Spool,
    SpoolFailed,
    database,
    quarantine,
)
from sendoff_server.spool.lookthrough import LookThrough
from sendoff_server.wire.batch import decode_body

from .conftest import NOW, OpenSpool, event, rotation

LATER = NOW + 3_600_000
CLIENT = "c" * 32


async def filled(open_spool: OpenSpool, *outputs: str, events: int = 300) -> Spool:
    """A spool with batches of one event each, some metrics, a dead letter, a gauge and a client; closed."""
    spool = open_spool(*outputs)
    for number in range(1, events + 1):
        await spool.put([event(number, size=200)], [ClientState(CLIENT, upto=number)])
    one = rotation(spool, 1)
    one.gauges = [b"load\0\x01"]
    await spool.journal(one)
    (first,) = await spool.lease(outputs[0], NOW, max_batches=1)
    await spool.settle(outputs[0], [Dead(first, 400, "bad", b"no")])
    spool.close()
    return spool


def zero_page_with(folder: Path, marker: bytes) -> None:
    """Wipe the leaf of a table in which something stands."""
    content = (folder / "spool.db").read_bytes()
    pages = range(0, len(content), 4_096)
    with (folder / "spool.db").open("r+b") as file:
        for page in pages:
            if content[page] == 0x0D and marker in content[page : page + 4_096]:
                file.seek(page)
                file.write(b"\0" * 4_096)


async def ids(spool: Spool, output: str) -> set[str]:
    """The ids of all events that an output is still offered."""
    found: set[str] = set()
    while batches := [batch for batch in await spool.lease(output, LATER) if batch.kind == "events"]:
        for batch in batches:
            found.update(line.decode().split('"')[3] for line in decode_body(batch.blob, "zstd")[0].lines)
        await spool.settle(output, [Delivered(batch) for batch in batches])
    return found


async def test_a_damaged_page_costs_the_batches_on_it_and_they_are_counted(
    folder: Path, open_spool: OpenSpool, caplog: pytest.LogCaptureFixture
) -> None:
    before = await filled(open_spool, "main")
    zero_page_with(folder, f"{before.agent_id}-{before.epoch}-150".encode())
    spool = open_spool("main", now_ms=NOW + 5)
    assert spool.quarantined is not None
    assert "was moved to" in caplog.text
    assert "not all could be read of: item" in caplog.text
    assert spool.agent_id == before.agent_id
    assert spool.epoch > before.epoch
    assert spool.clients[CLIENT].upto == 300
    assert spool.gauges == [b"load\0\x01"]
    stats = await spool.stats()
    assert len(stats["dead_letters"]) == 1
    assert stats["unknown"] == []
    books = await spool.books()
    assert books.balance() == []
    (book,) = books.events
    missing = {f"e{number}" for number in range(2, 301)} - await ids(spool, "main")
    assert 1 <= len(missing) <= 20
    assert "e150" in missing
    assert (book.received, book.dead, book.lost) == (300, 1, {"damaged": len(missing)})
    assert books.points_out[0].pending == 3


async def test_two_damaged_pages_do_not_cost_what_lies_between_them(folder: Path, open_spool: OpenSpool) -> None:
    before = await filled(open_spool, "main")
    for number in (60, 250):
        zero_page_with(folder, f"{before.agent_id}-{before.epoch}-{number}".encode())
    spool = open_spool("main", now_ms=NOW + 5)
    missing = {int(name[1:]) for name in {f"e{number}" for number in range(2, 301)} - await ids(spool, "main")}
    assert {60, 250} <= missing
    assert len(missing) <= 40
    assert not missing & set(range(100, 220))


async def test_damaged_counts_are_called_unknown_and_never_a_number(folder: Path, open_spool: OpenSpool) -> None:
    await filled(open_spool, "main")
    change(folder, "UPDATE count SET n = 999999 WHERE name = 'received' AND book = 'events'")
    spool = open_spool("main", now_ms=NOW + 5)
    books = await spool.books()
    assert books.balance() == []
    assert (books.events[0].received, books.events[0].lost) == (300, {})
    (unknown,) = (await spool.stats())["unknown"]
    assert "cannot be counted" in unknown["why"]
    assert len(await ids(spool, "main")) == 299
    spool.close()
    again = open_spool("main", now_ms=NOW + 6)
    assert again.quarantined is None
    assert (await again.stats())["unknown"] == [unknown], "it is remembered"


async def test_a_batch_of_which_nobody_knows_who_waits_for_it_goes_to_every_output(
    folder: Path, open_spool: OpenSpool
) -> None:
    await filled(open_spool, "main", "copy", events=10)
    change(folder, "DELETE FROM delivery WHERE item = 5")
    spool = open_spool("main", "copy", now_ms=NOW + 5)
    assert spool.quarantined is not None
    assert (await spool.books()).balance() == []
    assert "e5" in await ids(spool, "main")
    assert "e5" in await ids(spool, "copy")


async def test_a_client_whose_row_was_changed_is_not_believed(folder: Path, open_spool: OpenSpool) -> None:
    await filled(open_spool, "main", events=5)
    change(folder, """UPDATE client SET body = CAST(replace(body, '"upto":5', '"upto":9') AS BLOB)""")
    spool = open_spool("main", now_ms=NOW + 5)
    assert CLIENT not in spool.clients
    (unknown,) = (await spool.stats())["unknown"]
    assert "client" in unknown["why"]


def change(folder: Path, statement: str) -> None:
    with apsw.Connection(str(folder / "spool.db")) as connection:
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize("place", [0, 16, 18, 21, 44, 56, 60, 63])
async def test_a_damaged_header_costs_nothing(place: int, folder: Path, open_spool: OpenSpool) -> None:
    before = await filled(open_spool, "main", events=20)
    with (folder / "spool.db").open("r+b") as file:
        file.seek(place)
        file.write(b"\x5a")
    spool = open_spool("main", now_ms=NOW + 5)
    assert spool.agent_id == before.agent_id
    assert (await spool.stats())["unknown"] == []
    assert len(await ids(spool, "main")) == 19


@pytest.mark.parametrize("column", ["made INTEGER", "sources TEXT", "checksum BLOB", "began INTEGER"])
async def test_a_damaged_letter_in_the_schema_costs_nothing(column: str, folder: Path, open_spool: OpenSpool) -> None:
    before = await filled(open_spool, "main", events=20)
    content = (folder / "spool.db").read_bytes()
    (folder / "spool.db").write_bytes(content.replace(column.encode(), b"X" + column[1:].encode()))
    spool = open_spool("main", now_ms=NOW + 5)
    assert spool.quarantined is not None
    assert spool.agent_id == before.agent_id
    assert (await spool.stats())["unknown"] == []
    assert (await spool.books()).balance() == []
    assert len(await ids(spool, "main")) == 19


@pytest.mark.parametrize("left", ["nothing", "only its log", "an empty file"])
async def test_a_spool_whose_file_is_gone_is_said_and_not_taken_for_a_first_start(
    left: str, folder: Path, open_spool: OpenSpool
) -> None:
    spool = open_spool("main")
    await spool.put([event(1)], [])
    files = {name: (folder / name).read_bytes() for name in ("spool.db", "spool.db-wal")}
    spool.close()
    (folder / "spool.db").unlink()
    if left == "only its log":
        (folder / "spool.db-wal").write_bytes(files["spool.db-wal"])
    elif left == "an empty file":
        (folder / "spool.db").touch()
    spool = open_spool("main", now_ms=NOW + 5)
    assert bool((await spool.stats())["unknown"]) == (left != "nothing")
    assert (await spool.books()).balance() == []
    await spool.put([event(2)], [])
    assert await ids(spool, "main") == {"e2"}


async def test_a_rescue_that_fails_leaves_an_empty_spool_that_says_so(
    folder: Path, open_spool: OpenSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await filled(open_spool, "main", events=20)
    zero_page_with(folder, f"{before.agent_id}-{before.epoch}-11".encode())

    def full(*arguments: Any) -> None:
        raise apsw.FullError("database or disk is full")

    monkeypatch.setattr("sendoff_server.spool.rescue._balance", full)
    spool = open_spool("main", now_ms=NOW + 5)
    (unknown,) = (await spool.stats())["unknown"]
    assert "nothing of it could be taken over (database or disk is full)" in unknown["why"]
    assert spool.epoch > before.epoch
    assert sorted(file.name for file in folder.glob("spool.new*")) == []
    await spool.put([event(1)], [])
    assert await ids(spool, "main") == {"e1"}


class Crash(BaseException):
    """The power goes."""


async def test_a_rescue_cut_at_any_step_is_done_again_by_the_next_start(
    folder: Path, open_spool: OpenSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await filled(open_spool, "main", events=30)
    zero_page_with(folder, f"{before.agent_id}-{before.epoch}-11".encode())
    files = {name: (folder / name).read_bytes() for name in ("spool.db",)}
    steps = 0

    def step(real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **more: Any) -> Any:
            nonlocal steps
            steps -= 1
            if steps == 0:
                raise Crash
            return real(*arguments, **more)

        return counted

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", step(Path.rename))
        patch.setattr(Path, "unlink", step(Path.unlink))
        patch.setattr(Path, "mkdir", step(Path.mkdir))
        patch.setattr(os, "fsync", step(os.fsync))
        for cut in range(1, 100):
            quarantine_again(folder, files)
            steps = cut
            try:
                opened = database.open_database(folder, [OutputSpec("main", 10_000)], NOW + 5)
            except Crash:
                steps = 0
                opened = database.open_database(folder, [OutputSpec("main", 10_000)], NOW + 6)
            rows = opened.connection.execute("SELECT (SELECT count(*) FROM dead), count(*) >= 10 FROM item").fetchall()
            assert rows == [(1, 1)], f"cut at step {cut}"
            assert not list(folder.glob("quarantine/*/moving")) + list(folder.glob("quarantine/*/rescuing"))
            opened.connection.close()
            if steps > 0:
                break
        else:
            raise AssertionError("it never came through")
    assert cut > 12, "renames, deletions and syncs were counted"


def quarantine_again(folder: Path, files: dict[str, bytes]) -> None:
    for path in [*folder.glob("quarantine/*/*"), *folder.glob("spool.*")]:
        path.unlink()
    for path in folder.glob("quarantine/*"):
        path.rmdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)


async def test_what_is_kept_of_damaged_spools_is_bounded(
    folder: Path, open_spool: OpenSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(quarantine.FOLDERS + 3):
        folder.mkdir(exist_ok=True)
        (folder / "spool.db").write_bytes(b"rubbish")
        open_spool("main", now_ms=NOW + number * 1_000).close()
    kept = sorted(path.name for path in (folder / "quarantine").iterdir())
    assert len(kept) == quarantine.FOLDERS
    assert kept[-1] == "20231114T221327Z"
    monkeypatch.setattr(quarantine, "BLOBS", 3)
    for number in range(5):
        quarantine.keep_blob(folder, f"ev-{number}", b"blob")
    assert len(list((folder / "quarantine").glob("*.zst"))) == 3
    real = os.statvfs(folder)
    no_room = os.statvfs_result([*real[:4], 0, *real[5:10]])
    monkeypatch.setattr(os, "statvfs", lambda path: no_room)
    before = size_of(folder / "quarantine")
    quarantine.bound(folder)
    left = size_of(folder / "quarantine")
    assert left <= before - left, "no more than what is free by now"


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


async def filled_with_great_batches(folder: Path, open_spool: OpenSpool) -> None:
    """Ten batches of several pages each; the chain of pages of one of them is broken."""
    spool = open_spool("main")
    for number in range(1, 11):
        await spool.put(
            [EventIn(b'{"id":"e%d","pad":"%s"}' % (number, os.urandom(30_000).hex().encode()), "", "shop")], []
        )
    spool.close()
    connection = apsw.Connection(str(folder / "spool.db"))
    pages = connection.pragma("page_count")
    connection.close()
    with (folder / "spool.db").open("r+b") as file:
        file.seek((pages - 3) * 4_096)
        file.write(b"\xff" * 4)


async def test_a_great_spool_opens_at_once_and_its_damage_is_found_while_it_is_used(
    folder: Path, open_spool: OpenSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled_with_great_batches(folder, open_spool)
    monkeypatch.setattr(database, "WHOLE_CHECK_BYTES", 0)
    spool = open_spool("main", now_ms=NOW + 1)
    assert spool.quarantined is None
    assert spool._look_through is not None
    await asyncio.to_thread(spool._look_through.join)
    assert (await spool.stats())["damaged"]
    await spool.put([event(11)], [])
    spool.close()
    spool = open_spool("main", now_ms=NOW + 2)
    assert spool.quarantined is not None
    assert (await spool.stats())["damaged"] is None
    books = await spool.books()
    assert books.balance() == []
    assert (books.events[0].received, books.events[0].pending, books.events[0].lost) == (11, 10, {"damaged": 1})


async def test_damage_that_is_met_while_it_is_used_is_rescued_from_by_the_next_start(
    folder: Path, open_spool: OpenSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled_with_great_batches(folder, open_spool)
    monkeypatch.setattr(database, "WHOLE_CHECK_BYTES", 0)
    monkeypatch.setattr(LookThrough, "run", lambda self: None)
    spool = open_spool("main", now_ms=NOW + 1)
    with pytest.raises(SpoolFailed, match="restart the agent, which rescues"):
        await ids(spool, "main")
    assert (await spool.stats())["damaged"]
    spool.close()
    spool = open_spool("main", now_ms=NOW + 2)
    assert spool.quarantined is not None
    books = await spool.books()
    assert books.balance() == []
    assert books.events[0].lost == {"damaged": 1}
    assert len(await ids(spool, "main")) == 9
