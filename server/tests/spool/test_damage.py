"""Damaged files, full disks and killed processes: the agent starts, goes on, and the books balance."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from sendoff_server.aggregate import Limits, make_core
from sendoff_server.spool import Delivered, EventIn, OutputSpec, Spool, SpoolFailed, SpoolLimits
from sendoff_server.spool.wal import commits

from .conftest import NOW, OpenSpool, ask_beside, event, rotation

LATER = NOW + 3_600_000
HERE = Path(__file__).parent


@pytest.mark.parametrize(
    "rubbish",
    [b"not a database at all" * 500, b"\0" * 8192, b"SQLite format 3\0" + b"\xff" * 8000],
    ids=["words", "zeros", "ones"],
)
async def test_a_file_that_is_no_database_is_moved_aside(
    rubbish: bytes, folder: Path, open_spool: OpenSpool, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir()
    (folder / "spool.db").write_bytes(rubbish)
    spool = open_spool("main")
    assert spool.quarantined is not None
    assert (spool.quarantined / "spool.db").read_bytes() == rubbish
    assert "was moved to" in caplog.text
    await spool.put([event(1)], [])
    assert len(await spool.lease("main", LATER)) == 1


async def test_a_database_with_damaged_pages_is_moved_aside(folder: Path, open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    for number in range(200):
        await spool.put([event(number, size=500)], [])
    agent = spool.agent_id
    spool.close()
    with (folder / "spool.db").open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        for page in range(4096, size, 4096):
            file.seek(page)
            file.write(os.urandom(64))
    spool = open_spool("main", now_ms=NOW + 5)
    assert spool.quarantined is not None
    assert spool.agent_id != agent, "ids of the new spool must not repeat those of the damaged one"
    await spool.put([event(1)], [])


async def test_two_damages_in_one_second_are_kept_apart(folder: Path, open_spool: OpenSpool) -> None:
    kept = set()
    for _ in range(2):
        folder.mkdir(exist_ok=True)
        (folder / "spool.db").write_bytes(b"rubbish")
        spool = open_spool("main")
        kept.add(spool.quarantined)
        spool.close()
    assert len(kept) == 2


async def test_a_flipped_bit_in_a_blob_costs_that_batch_and_no_other(
    folder: Path, open_spool: OpenSpool, caplog: pytest.LogCaptureFixture
) -> None:
    spool = open_spool("main", "copy")
    for number in range(3):
        await spool.put([event(number)], [])
    for window in range(1, 4):
        await spool.journal(rotation(spool, window))
    spool.close()
    flip(folder, "id LIKE 'ev-%-2'")
    flip(folder, "id LIKE 'jr-%-2'")
    spool = open_spool("main", "copy")
    batches = await spool.lease("main", LATER)
    assert [batch.n for batch in batches] == [1, 1, 6]
    books = await spool.books()
    assert books.balance() == []
    assert {book.output: book.lost for book in books.events} == {
        "copy": {"disk_failed": 1},
        "main": {"disk_failed": 1},
    }
    assert {book.output: book.lost for book in books.points_out} == {
        "copy": {"disk_failed": 3},
        "main": {"disk_failed": 3},
    }
    assert len(list((folder / "quarantine").iterdir())) == 2
    for _ in range(2):
        batches = await spool.lease("copy", LATER)
    assert [batch.n for batch in batches] == [1, 1, 3, 3]
    assert "damaged on the disk" in caplog.text


def flip(folder: Path, which: str) -> None:
    with apsw.Connection(str(folder / "spool.db")) as connection:
        row: tuple[Any, ...] = connection.execute(f"SELECT item, blob FROM item WHERE {which}").fetchall()[0]
        blob = bytearray(row[1])
        blob[len(blob) // 2] ^= 1
        connection.execute("UPDATE item SET blob = ? WHERE item = ?", (bytes(blob), row[0]))
    connection.close()


async def test_a_row_that_the_core_refuses_is_lost_alone(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    for window in range(1, 4):
        one = rotation(spool, window)
        if window == 2:
            one.lines = [b'{"name":"torn"}']
        await spool.journal(one)
    (batch,) = await spool.lease("main", LATER)
    assert batch.n == 6
    books = await spool.books()
    assert books.balance() == []
    assert books.points_out[0].lost == {"disk_failed": 3}


async def test_damage_inside_the_write_ahead_log_is_said_aloud(
    folder: Path, tmp_path: Path, open_spool: OpenSpool, caplog: pytest.LogCaptureFixture
) -> None:
    spool = open_spool("main")
    for number in range(20):
        await spool.put([event(number)], [])
    for name in ("spool.db", "spool.db-wal"):  # as a crash would leave them
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    spool.close()
    ends = commits(tmp_path / "spool.db-wal")
    assert len(ends) >= 20
    for name in ("spool.db", "spool.db-wal"):
        (folder / name).write_bytes((tmp_path / name).read_bytes())
    with (folder / "spool.db-wal").open("r+b") as file:
        file.seek(32 + (ends[-10] - 1) * (4096 + 24) + 24 + 100)
        file.write(b"\xff\xfe\xfd")
    spool = open_spool("main")
    assert "at least 9 commits at its end are gone" in caplog.text
    assert (await spool.books()).balance() == []
    assert any((folder / "quarantine").glob("*/spool.db-wal"))


async def a_killed_spool(folder: Path, open_spool: OpenSpool) -> bytes:
    """Twenty commits, as a kill leaves them: the log's content. Its page in the database is the first."""
    spool = open_spool("main")
    ask_beside(folder, "PRAGMA wal_checkpoint(TRUNCATE)")
    for number in range(20):
        await spool.put([event(number)], [])
    files = {name: (folder / name).read_bytes() for name in ("spool.db", "spool.db-wal")}
    spool.close()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return files["spool.db-wal"]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (0, r"its head is damaged: up to 20 commits are gone"),
        (18, r"its head is damaged: up to 20 commits are gone"),
        (32 + 9, r"at least \d+ commits at its end are gone"),
        (32 + 24 + 100, r"at least \d+ commits at its end are gone"),
        (-100, r"its last commit is not whole"),
    ],
    ids=["magic", "salt", "salt of the first frame", "first page", "last page"],
)
async def test_what_lies_behind_damage_in_the_log_is_an_unknown_loss(
    place: int, words: str, folder: Path, open_spool: OpenSpool
) -> None:
    content = bytearray(await a_killed_spool(folder, open_spool))
    content[place] ^= 0xFF
    (folder / "spool.db-wal").write_bytes(content)
    spool = open_spool("main", now_ms=NOW + 1)
    (unknown,) = (await spool.stats())["unknown"]
    assert re.search(words, unknown["why"])
    assert (Path(unknown["kept"]) / "spool.db-wal").read_bytes() == bytes(content)
    books = await spool.books()
    assert books.balance() == []
    assert sum(book.received for book in books.events) == len(await spool.lease("main", LATER))
    await spool.put([event(99)], [])


async def test_what_an_earlier_use_left_in_the_log_is_no_loss(folder: Path, open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    for number in range(20):
        await spool.put([event(number)], [])
    ask_beside(folder, "PRAGMA wal_checkpoint(RESTART)")
    await spool.put([event(99)], [])
    files = {name: (folder / name).read_bytes() for name in ("spool.db", "spool.db-wal")}
    spool.close()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    assert len(files["spool.db-wal"]) > 20 * 4_096
    spool = open_spool("main", now_ms=NOW + 1)
    assert (await spool.stats())["unknown"] == []
    assert (await spool.books()).events[0].pending == 21


async def test_a_log_that_ends_in_the_middle_of_a_commit_is_no_damage(
    folder: Path, tmp_path: Path, open_spool: OpenSpool, caplog: pytest.LogCaptureFixture
) -> None:
    spool = open_spool("main")
    for number in range(20):
        await spool.put([event(number)], [])
    database, log = (folder / "spool.db").read_bytes(), (folder / "spool.db-wal").read_bytes()
    spool.close()
    end = commits_end(tmp_path, log)
    for size in (end, end - 1, end - 4096, end - 5000):
        for name in ("spool.db-wal", "spool.db-shm"):
            (folder / name).unlink(missing_ok=True)
        (folder / "spool.db").write_bytes(database)
        (folder / "spool.db-wal").write_bytes(log[:size])
        spool = open_spool("main")
        books = await spool.books()
        assert books.balance() == []
        assert books.events[0].received >= 19
        spool.close()
    assert "damaged" not in caplog.text


def commits_end(tmp_path: Path, log: bytes) -> int:
    (tmp_path / "copy").write_bytes(log)
    return 32 + commits(tmp_path / "copy")[-1] * (4096 + 24)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", disk], check=False, capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"a small tmpfs cannot be mounted here: {done.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


async def fill(spool: Spool) -> int:
    """Put events until the disk is full; how many were taken."""
    for taken in range(1_000):
        try:
            await spool.put([EventIn(os.urandom(20_000).hex().encode(), "e", "shop")], [])
        except SpoolFailed:
            return taken
    return 1_000


async def test_a_full_disk_acknowledges_nothing_delivers_on_and_recovers(
    tiny_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    merge = make_core(Limits(), (), (1, 1)).merge
    outputs = [OutputSpec("main", 10_000)]
    spool = Spool.open(tiny_disk / "a", outputs, merge=merge, host="h", now_ms=NOW, limits=SpoolLimits())
    try:
        taken = await fill(spool)
        assert 50 < taken < 1_000
        with pytest.raises(SpoolFailed, match="disk is full"):
            await spool.journal(rotation(spool, 1))
        books = await spool.books()
        assert (books.events[0].received, books.events[0].pending) == (taken, taken)
        while batches := await spool.lease("main", LATER, max_batches=8):
            await spool.settle("main", [Delivered(batch) for batch in batches])
        await spool.journal(rotation(spool, 1))
        await spool.put([event(1)], [])
        books = await spool.books()
        assert books.balance() == []
        assert (books.events[0].delivered, books.events[0].pending, books.points_out[0].pending) == (taken, 1, 3)
        assert caplog.text.count("cannot be written") < 5, "one message, not one an attempt"
    finally:
        spool.close()


async def test_an_agent_that_starts_on_a_full_disk_delivers_what_it_has_and_goes_on(tiny_disk: Path) -> None:
    merge = make_core(Limits(), (), (1, 1)).merge
    outputs = [OutputSpec("main", 10_000)]

    def start(now_ms: int) -> Spool:
        return Spool.open(tiny_disk / "a", outputs, merge=merge, host="h", now_ms=now_ms, limits=SpoolLimits())

    spool = start(NOW)
    for number in range(20):
        await spool.put([event(number)], [])
    spool.close()
    filler = os.open(tiny_disk / "filler", os.O_CREAT | os.O_WRONLY)
    with contextlib.suppress(OSError):
        while os.write(filler, b"x" * 4_096):
            pass
    os.close(filler)
    assert os.statvfs(tiny_disk).f_bavail == 0
    spool = start(NOW + 1)
    try:
        with pytest.raises(SpoolFailed, match="disk is full"):
            await spool.put([event(99)], [])
        batches = await spool.lease("main", LATER)
        await spool.settle("main", [Delivered(batch) for batch in batches])
        (tiny_disk / "filler").unlink()
        await spool.put([event(99)], [])
        books = await spool.books()
        assert books.balance() == []
        assert (books.events[0].delivered, books.events[0].pending) == (20, 1)
    finally:
        spool.close()


async def test_puts_handed_in_before_a_failure_was_known_fail_with_it(
    open_spool: OpenSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = open_spool("main")
    real, blows = spool._writer._store, 0

    def fail_once(*arguments: object) -> None:
        nonlocal blows
        blows += 1
        if blows == 1:
            raise apsw.IOError("the disk is broken")
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(spool._writer, "_store", fail_once)
    monkeypatch.setattr("sendoff_server.spool.writer.GROUP_JOBS", 1)
    outcomes = await asyncio.gather(*(spool.put([event(n)], []) for n in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [SpoolFailed] * 3
    await spool.put([event(9)], [])
    assert (await spool.books()).events[0].received == 1


async def test_a_job_that_is_itself_at_fault_fails_alone(open_spool: OpenSpool) -> None:
    spool = open_spool("main")

    def broken(_: object) -> None:
        raise LookupError("a defect")

    outcomes = await asyncio.gather(
        spool.put([event(1)], []), spool._writer.submit(broken), spool.put([event(2)], []), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [type(None), LookupError, type(None)]
    assert (await spool.books()).events[0].received == 2


CHILD = """
import asyncio, sys
from pathlib import Path
from typing import Any
sys.path.insert(0, sys.argv[3])
from conftest import NOW, event, rotation
from sendoff_server.aggregate import Limits, make_core
from sendoff_server.spool import ClientState, Delivered, OutputSpec, Spool, SpoolLimits

async def main():
    first = int(sys.argv[2])
    outputs = [OutputSpec("main", 10_000), OutputSpec("copy", 10_000)]
    merge = make_core(Limits(), (), (1, 1)).merge
    spool = Spool.open(Path(sys.argv[1]), outputs, merge=merge, host="h", now_ms=NOW, limits=SpoolLimits())
    client = ClientState("c" * 32, upto=first)

    async def put():
        for number in range(first, first + 100_000):
            client.upto = number + 1
            await spool.put([event(number)], [client])
            print(number, flush=True)

    async def deliver(output):
        for window in range(1, 100_000):
            if output == "main":
                await spool.journal(rotation(spool, window))
            batches = await spool.lease(output, NOW + window * 1000)
            await spool.settle(output, [Delivered(batch) for batch in batches[::2]])
            await asyncio.sleep(0)

    await asyncio.gather(put(), deliver("main"), deliver("copy"))

asyncio.run(main())
"""


async def test_a_killed_agent_has_every_acknowledged_event_and_balanced_books(
    folder: Path, open_spool: OpenSpool
) -> None:
    """Delivered or pending for each output, every number once: nothing is lost and nothing is there twice."""
    first = 0
    for cycle in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folder), str(first), str(HERE)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        acknowledged = first - 1
        for line in child.stdout:
            acknowledged = int(line)
            if acknowledged >= first + 60 + 37 * cycle:
                break
        child.send_signal(signal.SIGKILL)
        acknowledged = max([acknowledged, *map(int, child.stdout.read().split())])
        child.wait()
        child.stdout.close()
        spool = open_spool("main", "copy")
        books = await spool.books()
        assert books.balance() == []
        stored = spool.clients["c" * 32].upto
        assert stored in (acknowledged + 1, acknowledged + 2), "the one under way may be there, and then it is known"
        assert {book.output: book.received for book in books.events} == {"main": stored, "copy": stored}
        first = stored
        spool.close()
