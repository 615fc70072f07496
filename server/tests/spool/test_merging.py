"""The backlog of metrics is merged into longer windows while it waits, and nothing but resolution is lost."""

import asyncio
import json
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sendoff_server.aggregate import Limits, Rotation, make_core
from sendoff_server.spool import ClassLimit, Delivered, OutputSpec, Spool, SpoolLimits
from sendoff_server.spool.merging import SPANS, TIERS, tier
from sendoff_server.wire.batch import decode_body

from ..aggregate.test_properties import alike, decimals, integers, lines_of
from .conftest import NOW, OpenSpool, rotation

MERGE = make_core(Limits()).merge
DAY = 86_400_000


class Clock:
    """A running time in seconds that goes on when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def journal(spool: Spool, running: Clock, first: int, last: int, **more: Any) -> None:
    for window in range(first, last + 1):
        running.now += 1
        await spool.journal(rotation(spool, window, **more))


def rows(spool: Spool) -> list[tuple[int, int, int]]:
    """First window, last window and length of the journal rows, in order."""
    query = "SELECT iif(first, first, window), window, length FROM item WHERE kind = 2 ORDER BY epoch, window"
    found: list[Any] = spool._connection.execute(query).fetchall()
    return found


async def merge_all(spool: Spool) -> None:
    while await spool.merge_backlog(MERGE, 100):
        pass


async def drain(spool: Spool, output: str, now_ms: int) -> list[bytes]:
    """Take all that waits for an output; its lines. Covers must never overlap."""
    lines: list[bytes] = []
    covered: set[tuple[int, int]] = set()
    while batches := await spool.lease(output, now_ms):
        for batch in batches:
            (decoded,) = decode_body(batch.blob, "zstd")
            lines += decoded.lines
            epoch, first, last, part = decoded.header["covers"]
            windows = {(epoch, window) for window in range(first, last + 1)}
            assert part or not covered & windows
            covered |= windows
        await spool.settle(output, [Delivered(batch) for batch in batches])
    return lines


@pytest.mark.parametrize(
    ("age_s", "pressure", "length_ms"),
    [
        (0, 0, 1_000),
        (119, 0.5, 1_000),
        (120, 0, 10_000),
        (3_599, 0, 10_000),
        (3_600, 0, 60_000),
        (86_400, 0, 600_000),
        (11, 0.51, 1_000),
        (12, 0.51, 10_000),
        (8_640, 0.6, 600_000),
        (1.2, 0.76, 10_000),
        (864, 0.9, 600_000),
    ],
)
def test_windows_get_longer_with_age_and_sooner_when_room_gets_scarce(
    age_s: float, pressure: float, length_ms: int
) -> None:
    assert tier(round(age_s * 1000), pressure) == length_ms


def test_longer_windows_and_their_spans_are_made_of_whole_shorter_ones() -> None:
    lengths = [length for _, length in TIERS]
    for short, long in pairwise(lengths):
        assert SPANS[short] % short == 0
        assert long % SPANS[short] == 0


async def test_a_backlog_is_merged_to_ten_seconds_a_minute_and_ten_minutes(open_spool: OpenSpool) -> None:
    running = Clock()
    spool = open_spool("main", running=running)
    start = NOW // 7_200_000 * 7_200_000 - NOW  # the spans begin at whole hours
    for window in range(1, 301):
        running.now += 1
        await spool.journal(rotation(spool, window, made_ms=NOW + start + window * 1000))
    await merge_all(spool)
    assert rows(spool)[:3] == [(1, 60, 10_000), (61, 120, 10_000), (121, 121, 1_000)]
    running.now += 3_620
    await merge_all(spool)
    assert rows(spool) == [(1, 300, 60_000)]
    running.now += 90_000
    await merge_all(spool)
    assert rows(spool) == [(1, 300, 600_000)]
    books = await spool.books()
    assert books.balance() == []
    assert (books.points_out[0].pending, books.points_out[0].journaled) == (900, 900)
    (batch,) = await spool.lease("main", NOW + DAY)
    (decoded,) = decode_body(batch.blob, "zstd")
    assert decoded.header["covers"] == [spool.epoch, 1, 300, 0]
    assert (batch.n, len(decoded.lines), json.loads(decoded.lines[0])["sum"]) == (900, 1, 900)


async def test_rows_that_the_same_outputs_wait_for_are_merged_once_for_all_of_them(open_spool: OpenSpool) -> None:
    running = Clock()
    spool = open_spool("main", "copy", running=running)
    await journal(spool, running, 1, 110)
    (live,) = await spool.lease("main", NOW + 110_000)  # seals them for main alone
    await journal(spool, running, 111, 240)
    running.now += 600
    await merge_all(spool)
    found: list[tuple[Any, ...]] = spool._connection.execute(
        "SELECT iif(first, first, window), window, group_concat(output ORDER BY output) FROM item NATURAL JOIN"
        " (SELECT item, output FROM delivery) WHERE kind = 2 GROUP BY item ORDER BY window"
    ).fetchall()
    assert {outputs for first, last, outputs in found if last <= 110} == {"copy"}
    assert {outputs for first, last, outputs in found if first > 110} == {"copy,main"}
    assert len(found) == len({(first, last) for first, last, _ in found}) < 10
    assert live.n == 330
    for output in ("main", "copy"):
        lines = await drain(spool, output, NOW + DAY)
        assert sum(json.loads(line)["sum"] for line in lines) == 720
    assert (await spool.books()).balance() == []


async def test_no_row_is_merged_around_windows_that_are_sealed_already(open_spool: OpenSpool) -> None:
    """A gateway refuses windows that overlap those it has."""
    running = Clock()
    spool = open_spool("main", running=running)
    await journal(spool, running, 51, 60)
    (sealed,) = await spool.lease("main", NOW + 60_000)
    await journal(spool, running, 1, 50)
    await journal(spool, running, 61, 100)
    running.now += 600
    await merge_all(spool)
    assert rows(spool) == [(1, 40, 10_000), (41, 50, 10_000), (61, 100, 10_000)]
    assert sealed.n == 30
    await drain(spool, "main", NOW + DAY)


async def test_what_is_merged_keeps_its_place_in_the_line_however_often(open_spool: OpenSpool) -> None:
    running = Clock()
    spool = open_spool("main", running=running)
    start = NOW // 7_200_000 * 7_200_000 - NOW
    for window in range(1, 4_300):
        running.now += 1
        await spool.journal(rotation(spool, window, made_ms=NOW + start + window * 1000))
        if window % 60 == 0:
            await merge_all(spool)
    assert {length for _, _, length in rows(spool)} == {60_000, 10_000, 1_000}
    query = "SELECT i.window FROM delivery NATURAL JOIN item i ORDER BY place"
    windows = [window for (window,) in spool._connection.execute(query)]
    assert windows == sorted(windows)


async def test_what_gives_way_for_room_does_not_undo_every_merge(open_spool: OpenSpool) -> None:
    """The oldest are merged first, and the oldest give way: a second of each would be enough to merge nothing ever."""
    running = Clock()
    limits = SpoolLimits(metrics=ClassLimit(200_000, 1e9, "drop_oldest"))
    spool = open_spool("main", running=running, limits=limits)
    await journal(spool, running, 1, 600)
    running.now += 600
    loop = asyncio.get_running_loop()
    window = 601

    def merge(snapshots: Any, length_ms: int) -> list[bytes]:
        nonlocal window
        asyncio.run_coroutine_threadsafe(journal(spool, running, window, window), loop).result(20)
        window += 1
        return MERGE(snapshots, length_ms)

    assert await spool.merge_backlog(merge) == 1
    assert (await spool.books()).balance() == []


async def test_a_lease_that_takes_a_row_while_it_is_merged_wins(open_spool: OpenSpool) -> None:
    running = Clock()
    spool = open_spool("main", running=running)
    await journal(spool, running, 1, 120)
    running.now += 600
    loop = asyncio.get_running_loop()
    leased = []

    def merge(snapshots: Any, length_ms: int) -> list[bytes]:
        leased.append(asyncio.run_coroutine_threadsafe(spool.lease("main", NOW + DAY), loop).result(20))
        return MERGE(snapshots, length_ms)

    assert await spool.merge_backlog(merge) == 0
    assert leased[0][0].n == 360
    assert rows(spool) == []
    assert (await spool.books()).balance() == []


async def test_a_damaged_row_or_one_that_the_core_refuses_does_not_stop_the_merging(open_spool: OpenSpool) -> None:
    running = Clock()
    spool = open_spool("main", running=running)
    await journal(spool, running, 1, 240)
    broken = rotation(spool, 241)
    broken.lines = [b'{"name":"not a snapshot"}']
    await spool.journal(broken)
    await journal(spool, running, 242, 500)
    spool._connection.execute("UPDATE item SET checksum = zeroblob(16) WHERE window = 30")
    running.now += 600
    await merge_all(spool)
    found = await drain(spool, "main", NOW + DAY)
    books = await spool.books()
    assert books.balance() == []
    assert sum(json.loads(line)["sum"] for line in found) == 498 * 3
    assert books.points_out[0].lost == {"disk_failed": 6}


async def test_a_group_that_cannot_be_merged_is_left_as_it_is_and_the_others_are_merged(open_spool: OpenSpool) -> None:
    running = Clock()
    spool = open_spool("main", running=running)
    await journal(spool, running, 1, 300)
    running.now += 600
    calls = []

    def merge(snapshots: Any, length_ms: int) -> list[bytes]:
        found = [list(lines) for lines in snapshots]
        calls.append(len(found))
        if len(calls) == 1 and len(found) > 1:
            raise ValueError("a defect")
        return MERGE(found, length_ms)

    while await spool.merge_backlog(merge):
        pass
    assert len(rows(spool)) < 100
    assert (await spool.books()).points_out[0].pending == 900


async def test_what_waits_for_a_long_interval_is_not_made_coarser_than_that(open_spool: OpenSpool) -> None:
    running = Clock()
    spool = open_spool(OutputSpec("slow", 75_000), OutputSpec("slower", 3_600_000), running=running)
    await journal(spool, running, 1, 180)
    running.now += 10
    await merge_all(spool)
    assert rows(spool)[0] == (1, 1, 1_000)
    running.now += 100
    await merge_all(spool)
    assert rows(spool)[0][2] == 10_000


@pytest.mark.parametrize("values", [integers, decimals], ids=["whole", "fractions"])
@settings(deadline=None, max_examples=12, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_life_of_a_backlog_ends_in_the_same_snapshot_as_without_merging(
    values: st.SearchStrategy[str], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_live(Path(folder), values, data))


async def _live(folder: Path, values: st.SearchStrategy[str], data: st.DataObject) -> None:
    """Seconds are journaled with gaps, over several runs; merged, leased and delivered at any moment."""
    running, now = Clock(), NOW
    outputs = [OutputSpec("main", 10_000), OutputSpec("late", 60_000)]
    expected: list[bytes] = []
    taken: dict[str, list[bytes]] = {output.name: [] for output in outputs}
    points = 0
    for _ in range(data.draw(st.integers(1, 3))):
        spool = Spool.open(folder, outputs, merge=MERGE, host="h", now_ms=now, limits=SpoolLimits(), running=running)
        core = make_core(Limits(), spool.gauges, (spool.epoch, 1))
        gap = 0
        for _ in range(data.draw(st.integers(1, 12))):
            match data.draw(st.sampled_from(["feed", "feed", "feed", "wait", "merge", "deliver", "gap"])):
                case "feed":
                    for _ in range(data.draw(st.sampled_from([1, 3, 70]))):
                        lines = data.draw(st.lists(lines_of(values), max_size=4))
                        core.feed("\n".join(["up:1|c", *lines]).encode(), "s", [("service", "shop")], now)
                        now, running.now = now + 1_000, running.now + 1
                        one = core.rotate(now)
                        one.ord = (one.ord[0], one.ord[1] + gap)
                        await _journal(spool, one, expected)
                        points += sum(one.points.values())
                case "wait":
                    pause = data.draw(st.sampled_from([5, 130, 4_000, 100_000]))
                    now, running.now = now + pause * 1_000, running.now + pause
                case "merge":
                    await spool.merge_backlog(MERGE, data.draw(st.integers(1, 5)))
                case "deliver":
                    output = data.draw(st.sampled_from(outputs)).name
                    batches = await spool.lease(output, now)
                    for batch in batches:
                        taken[output] += decode_body(batch.blob, "zstd")[0].lines
                    await spool.settle(output, [Delivered(batch) for batch in batches])
                case "gap":
                    gap += 1
            books = await spool.books()
            assert books.balance() == []
            assert all(book.pending + book.delivered == points for book in books.points_out)
        one = core.rotate(now, everything=True)
        one.ord = (one.ord[0], one.ord[1] + gap)
        await _journal(spool, one, expected)
        points += sum(one.points.values())
        spool.close()
        now += 60_000
    spool = Spool.open(folder, outputs, merge=MERGE, host="h", now_ms=now, limits=SpoolLimits(), running=running)
    running.now += 200_000
    await merge_all(spool)
    for output in taken:
        taken[output] += await drain(spool, output, now + DAY)
    assert (await spool.books()).balance() == []
    spool.close()
    whole = MERGE([expected], 600_000)
    for delivered in taken.values():
        merged = MERGE([delivered], 600_000)
        if values is integers:
            assert [_exactly(line) for line in merged] == [_exactly(line) for line in whole]
        assert alike([json.loads(line) for line in merged], [json.loads(line) for line in whole])


async def _journal(spool: Spool, one: Rotation, expected: list[bytes]) -> None:
    await spool.journal(one)
    expected += one.lines


def _exactly(line: bytes) -> dict[str, Any]:
    """What merging must keep to the bit, whatever rates the lines had."""
    read: dict[str, Any] = json.loads(line)
    return {key: value for key, value in read.items() if key not in ("sum", "weight", "zero", "pos", "neg")}
