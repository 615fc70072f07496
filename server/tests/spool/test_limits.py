"""What events and metrics may take of the disk and for how long, and what gives way when they are full or too old."""

import os
from pathlib import Path

import apsw
import pytest

from sendoff_server.spool import ClassLimit, Dead, Delivered, EventIn, Spool, SpoolFailed, SpoolFull, SpoolLimits
from sendoff_server.spool.records import WhenFull
from sendoff_server.spool.usage import Used, used, watch

from .conftest import NOW, OpenSpool, event, rotation

LATER = NOW + 3_600_000
DAY = 86_400.0


def limits(
    events: int = 1 << 30,
    metrics: int = 1 << 30,
    *,
    events_full: WhenFull = "hold",
    metrics_full: WhenFull = "drop_oldest",
    age_s: float = 30 * DAY,
) -> SpoolLimits:
    return SpoolLimits(ClassLimit(events, age_s, events_full), ClassLimit(metrics, age_s, metrics_full))


def noise(name: str, size: int = 50_000) -> EventIn:
    """An event that compresses to about half its size."""
    return EventIn(f'{{"id":"{name}","pad":"{os.urandom(size // 2).hex()}"}}'.encode(), name, "shop")


async def fill(spool: Spool) -> int:
    """Put events until the spool takes no more; how many it took."""
    taken = 0
    while True:
        try:
            await spool.put([noise(f"e{taken}")], [])
        except SpoolFull:
            return taken
        taken += 1


class Clock:
    """A running time in seconds that goes on when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_full_events_never_cost_a_metric(open_spool: OpenSpool) -> None:
    spool = open_spool("main", limits=limits(events=1_000_000))
    assert await fill(spool) > 20
    await spool.journal(rotation(spool, 1))
    books = await spool.books()
    assert (books.points_out[0].pending, books.points_out[0].lost) == (3, {})
    assert books.balance() == []


@pytest.mark.parametrize(("policy", "kept"), [("drop_oldest", "newest"), ("drop_new", "oldest")])
async def test_full_metrics_never_cost_an_event(open_spool: OpenSpool, policy: WhenFull, kept: str) -> None:
    spool = open_spool("main", limits=limits(metrics=10_000, metrics_full=policy))
    await spool.put([event(1)], [])
    for window in range(1, 31):
        await spool.journal(rotation(spool, window))
    await spool.put([event(2)], [])
    books = await spool.books()
    assert books.balance() == []
    assert sum(book.pending for book in books.events) == 2
    lost = {"drop_oldest": books.points_out[0].lost, "drop_new": books.points_in[0].lost}[policy]
    assert lost["spool_full"] + books.points_out[0].pending == 90
    rows = [window for (window,) in spool._connection.execute("SELECT window FROM item WHERE kind = 2 ORDER BY window")]
    assert 5 < len(rows) < 25
    assert rows == (list(range(31 - len(rows), 31)) if kept == "newest" else list(range(1, len(rows) + 1)))


async def test_events_that_waited_longest_give_way_where_the_policy_says_so(open_spool: OpenSpool) -> None:
    spool = open_spool("main", "copy", limits=limits(events=1_000_000, events_full="drop_oldest"))
    for number in range(60):
        await spool.put([noise(f"e{number}")], [])
    batches = await spool.lease("main", LATER)
    assert 20 < len(batches) < 45
    books = await spool.books()
    assert books.balance() == []
    assert [book.lost for book in books.events] == [{"spool_full": 60 - len(batches)}] * 2
    assert (await spool.stats())["events_bytes"] < 1_100_000


async def test_what_is_being_sent_gives_way_last_and_counts_once(open_spool: OpenSpool) -> None:
    spool = open_spool("main", limits=limits(events=1_000_000, events_full="drop_oldest"))
    for number in range(3):
        await spool.put([noise(f"e{number}")], [])
    leased = await spool.lease("main", LATER)
    for number in range(3, 60):
        await spool.put([noise(f"e{number}")], [])
    assert [batch.id for batch in (await spool.lease("main", LATER))[:3]] == [batch.id for batch in leased]
    await spool.settle("main", [Delivered(batch) for batch in leased])
    (book,) = (await spool.books()).events
    assert book.delivered == 3
    assert book.delivered + book.pending + book.lost["spool_full"] == 60
    everything = await spool.lease("main", LATER)
    for number in range(60, 120):
        await spool.put([noise(f"e{number}")], [])
    await spool.settle("main", [Delivered(batch) for batch in everything])
    books = await spool.books()
    assert books.balance() == []
    assert books.events[0].received == 120


async def test_what_waited_longer_than_its_class_may_is_given_up_and_counted(open_spool: OpenSpool) -> None:
    running = Clock()
    spool = open_spool("main", "copy", limits=limits(age_s=3600), running=running)
    await spool.put([event(1)], [])
    await spool.journal(rotation(spool, 1))
    running.now += 3_000
    await spool.put([event(2)], [])
    await spool.journal(rotation(spool, 2))
    assert await spool.expire() == 0
    running.now += 700
    assert await spool.expire() == 2
    assert await spool.expire() == 0
    books = await spool.books()
    assert books.balance() == []
    assert [(book.pending, book.lost) for book in books.events] == [(1, {"expired": 1})] * 2
    assert [(book.pending, book.lost) for book in books.points_out] == [(3, {"expired": 3})] * 2


async def test_a_backlog_that_expires_is_said_in_one_line(
    open_spool: OpenSpool, caplog: pytest.LogCaptureFixture
) -> None:
    running = Clock()
    spool = open_spool("main", "copy", limits=limits(age_s=3600), running=running)
    for window in range(1, 41):
        await spool.journal(rotation(spool, window))
    running.now += 3_700
    assert await spool.expire() == 40
    (said,) = (record.getMessage() for record in caplog.records if record.name.endswith(".room"))
    epoch = spool.epoch
    assert said.startswith(f"40 batches, from jr-{epoch}-1 to jr-{epoch}-40, are lost for copy, main: waited longer")


async def test_the_time_without_an_agent_does_not_count_as_age(open_spool: OpenSpool) -> None:
    running = Clock()
    spool = open_spool("main", limits=limits(age_s=3600), running=running)
    await spool.put([event(1)], [])
    running.now += 3_000
    spool.close()
    running.now += 1_000_000  # another boot may even begin at 0
    spool = open_spool("main", limits=limits(age_s=3600), running=running, now_ms=NOW + 10**10)
    running.now += 500
    assert await spool.expire() == 0
    running.now += 200
    assert await spool.expire() == 1


async def test_what_is_being_sent_does_not_expire_at_once_and_counts_once(open_spool: OpenSpool) -> None:
    running = Clock()
    spool = open_spool("main", limits=limits(age_s=3600), running=running)
    await spool.put([event(1)], [])
    leased = await spool.lease("main", LATER)
    running.now += 3_700
    assert await spool.expire() == 0
    running.now += 600
    assert await spool.expire() == 1
    await spool.settle("main", [Delivered(batch) for batch in leased])
    books = await spool.books()
    assert books.balance() == []
    assert (books.events[0].delivered, books.events[0].lost) == (0, {"expired": 1})


async def test_dead_letters_of_one_class_take_a_quarter_of_it_and_cost_the_other_nothing(open_spool: OpenSpool) -> None:
    spool = open_spool("main", limits=limits(events=4_000_000, metrics=10_000))
    await spool.journal(rotation(spool, 1))
    [snapshot] = await spool.lease("main", LATER)
    await spool.settle("main", [Dead(snapshot, 400, "refused", b"")])
    for number in range(60):
        await spool.put([noise(f"e{number}")], [])
        [batch] = await spool.lease("main", LATER)
        await spool.settle("main", [Dead(batch, 400, "refused", b"")])
        assert (await spool.stats())["events_bytes"] <= 1_000_000
    kinds = [kind for (kind,) in spool._connection.execute("SELECT kind FROM dead")]
    assert (kinds.count(1), 15 < kinds.count(0) < 40) == (1, True)
    books = await spool.books()
    assert (books.events[0].dead, books.points_out[0].dead) == (60, 3)


async def test_what_a_class_takes_is_known_after_every_commit_rollback_and_start(
    open_spool: OpenSpool, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    spool = open_spool("main", "copy")

    def recounted() -> Used:
        other = apsw.Connection(str(folder / "spool.db"))
        watch(other)
        found = used(other)
        other.close()
        return found

    await spool.put([event(1), noise("a")], [])
    await spool.journal(rotation(spool, 1))
    assert spool._writer.used == recounted()
    with monkeypatch.context() as patched:
        store = spool._writer._store

        def broken(*arguments: object) -> None:
            store(*arguments)  # type: ignore[arg-type]
            raise apsw.IOError("the disk is broken")

        patched.setattr(spool._writer, "_store", broken)
        with pytest.raises(SpoolFailed):
            await spool.put([noise("b")], [])
    assert used(spool._connection) == spool._writer.used == recounted()
    for output in ("main", "copy"):
        events, snapshot = await spool.lease(output, LATER)
        await spool.settle(output, [Delivered(events), Dead(snapshot, 400, "refused", b"")])
    found = spool._writer.used
    assert found == recounted()
    assert (found.events, found.metrics) == (0, found.dead_metrics)
    spool.close()
    assert open_spool("main", "copy")._writer.used == found


@pytest.mark.parametrize("size", [100, 3_000, 30_000, 200_000])
async def test_what_a_class_is_said_to_take_is_near_what_the_file_takes(open_spool: OpenSpool, size: int) -> None:
    spool = open_spool("main")
    before = (await spool.stats())["used_bytes"]
    for number in range(100):
        await spool.put([noise(f"e{number}", size)], [])
    found = await spool.stats()
    taken = found["used_bytes"] - before
    assert taken * 0.9 < found["events_bytes"] < taken * 1.1 + 60_000


async def test_while_nobody_takes_anything_no_more_than_one_snapshot_is_sealed(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    for window in range(1, 200):
        await spool.journal(rotation(spool, window))
        offered = await spool.lease("main", NOW + window * 1000, max_batches=1)
    assert [batch.n for batch in offered] == [30]
    sealed, journaled = spool._connection.execute("SELECT sum(kind = 1), sum(kind = 2) FROM item").fetchall()[0]
    assert (sealed, journaled) == (1, 189)


async def test_live_metrics_go_before_a_backlog_of_sealed_ones_once_something_is_taken(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    for window in range(1, 61):
        await spool.journal(rotation(spool, window))
        await spool.lease("main", NOW + window * 1000, max_batches=64)
    backlog = await spool.lease("main", NOW + 60_000, max_batches=3)
    assert [batch.made_ms for batch in backlog] == [NOW + 60_000, NOW + 50_000, NOW + 40_000]
    for window in range(61, 71):
        await spool.journal(rotation(spool, window))
    assert await spool.lease("main", NOW + 70_000, max_batches=3) == backlog
    await spool.settle("main", [Delivered(backlog[0])])
    after = await spool.lease("main", NOW + 70_000, max_batches=3)
    assert [batch.made_ms for batch in after] == [NOW + 70_000, NOW + 50_000, NOW + 40_000]
