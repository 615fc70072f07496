"""What goes into a spool, comes out of it, and is counted."""

import asyncio
import os
from pathlib import Path

import apsw
import pytest

from sendoff_server.spool import (
    ClientState,
    Dead,
    Delivered,
    EventIn,
    OutputSpec,
    RefusedLine,
    Split,
    SpoolClosed,
    SpoolFailed,
    SpoolFull,
    SpoolLocked,
    SpoolTooNew,
)
from sendoff_server.spool.database import check_library
from sendoff_server.wire.batch import decode_body

from .conftest import NOW, OpenSpool, event, rotation

CLIENT = ClientState("c" * 32, service="shop", upto=7, refused=[(3, "missing")], events=7, points=90, gap=2)
DROPPED = {"event.closed": 2}
LATER = NOW + 3_600_000


async def test_events_are_pending_until_their_output_has_taken_them(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    await spool.put([event(1), event(2, "till")], [])
    (batch,) = await spool.lease("main", LATER)
    assert (batch.kind, batch.lines, batch.n) == ("events", 2, 2)
    (decoded,) = decode_body(batch.blob, "zstd")
    assert decoded.lines == [event(1).line, event(2).line]
    assert decoded.header["type"] == "events"
    assert decoded.header["agent"] == spool.agent_id
    assert [(book.source, book.pending) for book in (await spool.books()).events] == [("shop", 1), ("till", 1)]
    await spool.settle("main", [Delivered(batch)])
    assert await spool.lease("main", LATER) == []
    books = await spool.books()
    assert [(book.source, book.delivered, book.pending) for book in books.events] == [("shop", 1, 0), ("till", 1, 0)]
    assert books.balance() == []


async def test_a_batch_is_leased_again_under_its_id_until_it_is_settled(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    await spool.put([event(1)], [])
    await spool.journal(rotation(spool, 1))
    first = await spool.lease("main", LATER)
    assert await spool.lease("main", LATER) == first
    spool.close()
    assert await open_spool("main").lease("main", LATER) == first


async def test_puts_that_wait_together_become_one_batch_and_one_commit(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    await asyncio.gather(*(spool.put([event(number)], []) for number in range(200)))
    batches = await spool.lease("main", LATER)
    assert sum(batch.n for batch in batches) == 200
    assert len(batches) < 5


async def test_batches_have_at_most_a_thousand_events_and_about_a_mebibyte(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    await spool.put([event(number) for number in range(2_500)], [])
    await spool.put([event(number, size=300_000) for number in range(8)], [])
    assert [batch.lines for batch in await spool.lease("main", LATER)] == [1000, 1000, 500, 3, 3, 2]


async def test_a_body_is_never_leased_beyond_its_limits(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    for number in range(70):
        await spool.put([event(number, size=100)], [])
    assert len(await spool.lease("main", LATER)) == 64
    assert len(await spool.lease("main", LATER, max_batches=3)) == 3
    assert len(await spool.lease("main", LATER, max_bytes=400)) in (2, 3)
    assert len(await spool.lease("main", LATER, max_bytes=1)) == 1


async def test_each_output_takes_events_by_itself(open_spool: OpenSpool) -> None:
    spool = open_spool("main", "copy")
    await spool.put([event(1)], [])
    (batch,) = await spool.lease("main", LATER)
    await spool.settle("main", [Delivered(batch)])
    assert await spool.lease("main", LATER) == []
    (other,) = await spool.lease("copy", LATER)
    assert other.blob == batch.blob
    await spool.settle("copy", [Delivered(other)])
    assert (await spool.stats())["waiting"] == []


async def test_settling_twice_counts_once(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    await spool.put([event(1)], [])
    (batch,) = await spool.lease("main", LATER)
    for _ in range(2):
        await spool.settle("main", [Delivered(batch)])
    await spool.settle("main", [Split(batch), Dead(batch, 400, "refused", b"")])
    (book,) = (await spool.books()).events
    assert (book.received, book.delivered, book.dead) == (1, 1, 0)


async def test_seconds_are_merged_when_their_interval_is_over_and_not_before(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    for window in range(1, 13):
        await spool.journal(rotation(spool, window))
    assert await spool.lease("main", NOW + 9_999) == []
    (batch,) = await spool.lease("main", NOW + 12_000)
    assert (batch.kind, batch.lines, batch.n) == ("snapshot", 1, 30)
    (decoded,) = decode_body(batch.blob, "zstd")
    assert decoded.header["covers"] == [spool.epoch, 1, 10, 0]
    assert b'"sum":30' in decoded.lines[0]
    assert b"[1700000000000,10000]" in decoded.lines[0]
    await spool.settle("main", [Delivered(batch)])
    (rest,) = await spool.lease("main", NOW + 20_000)
    assert rest.n == 6
    books = await spool.books()
    assert books.balance() == []
    assert (books.points_out[0].delivered, books.points_out[0].pending) == (30, 6)


async def test_outputs_get_windows_of_their_own_interval(open_spool: OpenSpool) -> None:
    spool = open_spool("main", OutputSpec("slow", 60_000))
    for window in range(1, 31):
        await spool.journal(rotation(spool, window))
    (batch,) = await spool.lease("main", NOW + 30_000)
    assert batch.lines == 3
    assert await spool.lease("slow", NOW + 39_999) == []
    (slow,) = await spool.lease("slow", NOW + 40_000)
    assert slow.n == 90
    assert slow.id != batch.id


async def test_events_come_before_snapshots_and_new_snapshots_before_old_ones(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    await spool.journal(rotation(spool, 1))
    await spool.lease("main", NOW + 10_000)
    await spool.journal(rotation(spool, 11))
    await spool.lease("main", NOW + 20_000)
    await spool.put([event(1)], [])
    batches = await spool.lease("main", NOW + 20_000)
    assert [batch.kind for batch in batches] == ["events", "snapshot", "snapshot"]
    assert batches[1].made_ms > batches[2].made_ms


@pytest.mark.parametrize("size", [0, 50_000])
async def test_more_events_than_a_lease_holds_leave_room_for_one_snapshot(open_spool: OpenSpool, size: int) -> None:
    spool = open_spool("main")
    await spool.journal(rotation(spool, 1))
    for number in range(6):
        await spool.put([EventIn(os.urandom(size // 2).hex().encode() or b"{}", f"e{number}", "shop")], [])
    batches = await spool.lease("main", LATER, max_batches=4, max_bytes=4_000_000 if size == 0 else 150_000)
    kinds = [batch.kind for batch in batches]
    assert kinds[-1] == "snapshot"
    assert kinds.count("events") == len(kinds) - 1 >= 2
    assert len(kinds) <= 4
    assert size == 0 or sum(len(batch.blob) for batch in batches) <= 150_000
    assert [batch.kind for batch in await spool.lease("main", LATER, max_batches=1)] == ["events"]


async def test_a_lease_leaves_out_the_items_that_it_is_told_to(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    for number in range(3):
        await spool.put([event(number)], [])
    await spool.journal(rotation(spool, 1))
    first, second, third, snapshot = await spool.lease("main", LATER)
    assert await spool.lease("main", LATER, without={first.item, third.item}) == [second, snapshot]
    assert await spool.lease("main", LATER, max_batches=1, without=[first.item]) == [second]
    assert await spool.lease("main", LATER, without=[snapshot.item]) == [first, second, third]


async def test_a_large_snapshot_is_sealed_in_parts_of_one_cover(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    one = rotation(spool, 1)
    pad = "x" * 400
    one.lines = sorted(
        one.lines[0].replace(b'"sold"', f'"{number:05}"'.encode()).replace(b"{},", f'{{"t":"{pad}"}},'.encode())
        for number in range(10_000)
    )
    one.points = {"shop": 30_000}
    await spool.journal(one)
    batches = await spool.lease("main", LATER)
    covers = [decode_body(batch.blob, "zstd")[0].header["covers"] for batch in batches]
    assert sorted(cover[3] for cover in covers) == [0, 1]
    assert len({tuple(cover[:3]) for cover in covers}) == 1
    assert sum(batch.n for batch in batches) == 30_000


async def test_rows_of_another_run_are_never_merged_with_those_of_this_one(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    await spool.journal(rotation(spool, 1))
    spool.close()
    spool = open_spool("main", now_ms=NOW + 1)
    await spool.journal(rotation(spool, 1))
    await spool.lease("main", LATER)
    batches = await spool.lease("main", LATER)
    assert {tuple(decode_body(batch.blob, "zstd")[0].header["covers"]) for batch in batches} == {
        (NOW, 1, 1, 0),
        (NOW + 1, 1, 1, 0),
    }


async def test_rows_left_of_an_earlier_merge_are_never_merged_around_it(
    open_spool: OpenSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway refuses windows that overlap those it has."""
    monkeypatch.setattr("sendoff_server.spool.leasing.MERGE_ROWS", 6)
    spool = open_spool("main")
    for window in range(1, 11):
        await spool.journal(rotation(spool, window))
    await spool.lease("main", NOW + 10_000)
    for window in range(11, 14):
        await spool.journal(rotation(spool, window))
    for _ in range(3):
        batches = await spool.lease("main", LATER)
    covers = [decode_body(batch.blob, "zstd")[0].header["covers"][1:3] for batch in batches]
    assert covers == [[11, 13], [5, 10], [1, 4]]
    assert sum(batch.n for batch in batches) == 39


async def test_every_run_has_a_higher_epoch_even_if_the_clock_went_back(open_spool: OpenSpool) -> None:
    epochs = []
    for now_ms in (NOW, NOW - 5_000, NOW - 5_000, NOW + 9):
        spool = open_spool("main", now_ms=now_ms)
        epochs.append(spool.epoch)
        spool.close()
    assert epochs == [NOW, NOW + 1, NOW + 2, NOW + 9]


async def test_a_clock_that_jumped_back_does_not_hold_metrics_up(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    await spool.journal(rotation(spool, 1, made_ms=NOW + 86_400_000))
    assert len(await spool.lease("main", NOW)) == 1


async def test_refused_lines_become_dead_letters_of_their_own_source(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    await spool.put([event(1), event(2, "till"), event(3)], [])
    (batch,) = await spool.lease("main", LATER)
    await spool.settle("main", [Delivered(batch, [RefusedLine(2, "invalid", "t: not a time")])])
    books = await spool.books()
    assert books.balance() == []
    assert [(book.source, book.delivered, book.dead) for book in books.events] == [("shop", 2, 0), ("till", 0, 1)]
    (letter,) = (await spool.stats())["dead_letters"]
    assert (letter["lines"], letter["code"], letter["excerpt"]) == (1, "invalid", "t: not a time")


async def test_refused_snapshot_lines_are_counted_in_points(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    one = rotation(spool, 1)
    one.lines.append(one.lines[0].replace(b'"sold"', b'"torn"').replace(b'"n":3', b'"n":4'))
    one.points = {"shop": 7}
    await spool.journal(one)
    (batch,) = await spool.lease("main", LATER)
    await spool.settle("main", [Delivered(batch, [RefusedLine(2, "invalid", "")])])
    (book,) = (await spool.books()).points_out
    assert (book.journaled, book.delivered, book.dead) == (7, 3, 4)


async def test_a_dead_batch_keeps_its_lines_and_at_most_two_kibibytes_of_the_answer(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    await spool.put([event(1)], [])
    (batch,) = await spool.lease("main", LATER)
    await spool.settle("main", [Dead(batch, 422, "refused", b"x" * 10_000)])
    (letter,) = (await spool.stats())["dead_letters"]
    assert (letter["status"], len(letter["excerpt"]), letter["batch"]) == (422, 2_048, batch.id)
    assert (await spool.books()).balance() == []


async def test_halves_have_the_lines_of_the_root_in_their_names(open_spool: OpenSpool) -> None:
    spool = open_spool("main", "copy")
    await spool.put([event(number, "till" if number > 3 else "shop") for number in range(1, 6)], [])
    (root,) = await spool.lease("main", LATER)
    await spool.settle("main", [Split(root)])
    first, second = await spool.lease("main", LATER)
    assert (first.id, second.id) == (f"{root.id}/1-2", f"{root.id}/3-5")
    assert [name for name, _, _ in root.halves()] == [first.id, second.id]
    await spool.settle("main", [Split(second)])
    third = (await spool.lease("main", LATER))[2]
    assert third.id == f"{root.id}/4-5"
    assert decode_body(third.blob, "zstd")[0].lines == [event(4).line, event(5).line]
    assert decode_body(third.blob, "zstd")[0].header["batch"] == third.id
    await spool.settle("main", [Dead(third, 400, "refused", b"")])
    books = await spool.books()
    assert books.balance() == []
    assert {(book.source, book.output): book.dead for book in books.events} == {
        ("shop", "copy"): 0,
        ("shop", "main"): 0,
        ("till", "copy"): 0,
        ("till", "main"): 2,
    }
    assert [batch.id for batch in await spool.lease("copy", LATER)] == [root.id]


async def test_a_split_snapshot_keeps_its_points(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    one = rotation(spool, 1)
    one.lines.append(one.lines[0].replace(b'"sold"', b'"torn"'))
    one.points = {"shop": 6}
    await spool.journal(one)
    (batch,) = await spool.lease("main", LATER)
    await spool.settle("main", [Split(batch)])
    assert [half.n for half in await spool.lease("main", LATER)] == [3, 3]
    assert (await spool.books()).balance() == []


async def test_what_was_put_is_there_after_reopening(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    await spool.put([event(1)], [CLIENT])
    one = rotation(spool, 1)
    one.gauges = [b"a\0[1,2,0]", b"b\0[3,4,1]"]
    await spool.journal(one)
    one = rotation(spool, 2)
    one.gauges = [b"a\0"]
    await spool.journal(one)
    agent = spool.agent_id
    spool.close()
    spool = open_spool("main")
    assert spool.agent_id == agent
    assert spool.clients == {CLIENT.client: CLIENT}
    assert spool.gauges == [b"b\0[3,4,1]"]
    assert [batch.n for batch in await spool.lease("main", LATER)] == [1, 6]


async def test_the_spool_keeps_a_copy_of_a_client_as_it_was_when_put(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    client = ClientState("d" * 32, upto=1)
    waiting = asyncio.ensure_future(spool.put([event(1)], [client]))
    await asyncio.sleep(0)
    client.upto = 99
    await waiting
    spool.close()
    assert open_spool("main").clients["d" * 32].upto == 1


async def test_ended_clients_fold_into_totals_of_their_service(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    ended = ClientState(
        "e" * 32, "shop", state="ended", seen=NOW, events=5, points=9, gap=1, dropped={"event.closed": 2}
    )
    tail = ClientState("f" * 32, "shop", state="tail unknown", seen=NOW, events=1)
    await spool.put([], [CLIENT, ended, tail])
    assert await spool.fold_clients(NOW) == []
    assert sorted(await spool.fold_clients(NOW + 1)) == ["e" * 32, "f" * 32]
    books = await spool.books()
    assert [memo.client for memo in books.clients] == [CLIENT.client]
    (total,) = books.folded_clients
    assert (total.service, total.events, total.points, total.gap, total.dropped) == (
        "shop",
        6,
        9,
        1,
        {"event.closed": 2},
    )


async def test_lines_and_lost_points_are_counted_by_source_and_reason(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    one = rotation(spool, 1)
    one.lost = {"shop": {"series_limit": 4}}
    one.lines_received = {"shop": 10}
    one.lines_rejected = {"shop": {"no_type": 2, "no_value": 1}}
    await spool.journal(one)
    books = await spool.books()
    assert books.balance() == []
    assert (books.points_in[0].received, books.points_in[0].journaled, books.points_in[0].lost) == (
        7,
        3,
        {"series_limit": 4},
    )
    assert (books.lines[0].accepted, books.lines[0].rejected) == (7, {"no_type": 2, "no_value": 1})


async def test_a_full_spool_takes_no_events_and_counts_metrics_as_lost(open_spool: OpenSpool) -> None:
    spool = open_spool("main", limit_bytes=0)
    with pytest.raises(SpoolFull, match=r"spool\.events\.limit"):
        await spool.put([event(1)], [CLIENT])
    await spool.put([], [CLIENT])  # a refusal alone still has to be kept
    await spool.journal(rotation(spool, 1))
    books = await spool.books()
    assert books.events == []
    assert books.points_in[0].lost == {"spool_full": 3}
    assert books.points_out == []
    assert books.balance() == []
    assert await spool.lease("main", LATER) == []


async def test_a_full_spool_takes_events_again_when_it_was_drained(open_spool: OpenSpool) -> None:
    spool = open_spool("main", limit_bytes=2_000_000)
    taken = 0
    while True:
        try:
            await spool.put([EventIn(os.urandom(50_000).hex().encode(), "e", "shop")], [])
        except SpoolFull:
            break
        taken += 1
    while batches := await spool.lease("main", LATER):
        await spool.settle("main", [Delivered(batch) for batch in batches])
    await spool.put([event(1)], [])
    (book,) = (await spool.books()).events
    assert (book.received, book.delivered, book.pending) == (taken + 1, taken, 1)


async def test_events_of_nobody_that_cannot_be_stored_are_counted_lost(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    spool.lose_events({"statsd/udp": 2}, "spool_full")
    spool.lose(rotation(spool, 1))
    spool.close()
    books = await open_spool("main").books()
    assert books.events[0].lost == {"spool_full": 2}
    assert books.points_in[0].lost == {"disk_failed": 3}
    assert books.balance() == []


async def test_without_an_output_everything_is_kept_for_those_to_come(open_spool: OpenSpool) -> None:
    spool = open_spool()
    await spool.put([event(1)], [])
    await spool.journal(rotation(spool, 1))
    assert (await spool.books()).events[0].output == "unassigned"
    spool.close()
    spool = open_spool(OutputSpec("main", 10_000), OutputSpec("events", 10_000, metrics=False))
    assert [batch.kind for batch in await spool.lease("main", LATER)] == ["events", "snapshot"]
    assert [batch.kind for batch in await spool.lease("events", LATER)] == ["events"]
    books = await spool.books()
    assert books.balance() == []
    assert {book.output for book in books.events} == {"main", "events"}
    assert {book.output: book.not_routed for book in books.points_out} == {"main": 0, "events": 3}


async def test_what_waits_for_a_removed_output_is_lost_and_counted(open_spool: OpenSpool) -> None:
    spool = open_spool("old", "kept")
    await spool.put([event(1)], [])
    await spool.journal(rotation(spool, 1))
    await spool.lease("old", LATER)
    spool.close()
    spool = open_spool("kept", "new")
    books = await spool.books()
    assert books.balance() == []
    assert {book.output: book.lost for book in books.events} == {"kept": {}, "old": {"output_removed": 1}}
    assert {book.output: book.lost for book in books.points_out} == {"kept": {}, "old": {"output_removed": 3}}
    assert await spool.lease("new", LATER) == []
    assert [batch.kind for batch in await spool.lease("kept", LATER)] == ["events", "snapshot"]


async def test_settings_without_any_output_give_nothing_up(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    await spool.put([event(1)], [])
    spool.close()
    spool = open_spool()
    assert (await spool.books()).events[0].pending == 1
    spool.close()
    assert len(await open_spool("main").lease("main", LATER)) == 1


async def test_an_output_gets_only_what_it_wants(open_spool: OpenSpool) -> None:
    spool = open_spool(OutputSpec("numbers", 10_000, events=False), OutputSpec("neither", 10_000, False, False))
    await spool.put([event(1)], [])
    await spool.journal(rotation(spool, 1))
    assert [batch.kind for batch in await spool.lease("numbers", LATER)] == ["snapshot"]
    assert await spool.lease("neither", LATER) == []
    books = await spool.books()
    assert books.balance() == []
    assert [(book.output, book.not_routed) for book in books.events] == [("neither", 1), ("numbers", 1)]


async def test_a_second_agent_is_told_who_holds_the_spool(open_spool: OpenSpool) -> None:
    open_spool("main")
    with pytest.raises(SpoolLocked, match=rf"in use by process {os.getpid()}\. Stop that agent first"):
        open_spool("main")


async def test_a_spool_of_a_later_version_is_left_alone(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    spool.close()
    with apsw.Connection(str(spool._path / "spool.db")) as connection:
        connection.pragma("user_version", 99)
        connection.execute("UPDATE meta SET value = 99 WHERE key = 'layout'")
    connection.close()
    with pytest.raises(SpoolTooNew, match="upgrade"):
        open_spool("main")
    assert not (spool._path / "quarantine").exists()


def test_an_sqlite_with_the_checkpoint_fault_is_refused() -> None:
    with pytest.raises(SpoolFailed, match=r"SQLite 3\.51\.2 can lose committed writes"):
        check_library(3_051_002)
    check_library(3_051_003)


async def test_a_line_with_a_line_feed_is_refused_before_it_can_spoil_a_batch(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    with pytest.raises(ValueError, match="line feed"):
        await spool.put([EventIn(b"{}\n{}", "e1", "shop")], [])


async def test_a_closed_spool_says_so(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    spool.close()
    spool.close()
    with pytest.raises(SpoolClosed):
        await spool.put([event(1)], [])


async def test_the_file_shrinks_when_a_backlog_was_delivered(open_spool: OpenSpool, folder: Path) -> None:
    spool = open_spool("main")
    for _ in range(80):
        await spool.put([EventIn(os.urandom(100_000).hex().encode(), "e", "shop")], [])
    grown = (await spool.stats())["used_bytes"]
    while batches := await spool.lease("main", LATER):
        await spool.settle("main", [Delivered(batch) for batch in batches])
    assert grown > 8_000_000
    async with asyncio.timeout(30):  # by itself, with nothing else to do
        while (folder / "spool.db").stat().st_size > 2_000_000:
            await asyncio.sleep(0.05)


async def test_two_outputs_split_the_same_batch_each_for_itself(open_spool: OpenSpool) -> None:
    spool = open_spool("main", "copy")
    await spool.put([event(1), event(2)], [])
    for output in ("main", "copy"):
        (root,) = await spool.lease(output, LATER)
        await spool.settle(output, [Split(root)])
        assert [half.lines for half in await spool.lease(output, LATER)] == [1, 1]
    assert (await spool.books()).balance() == []


async def test_the_books_balance_at_every_moment_not_only_between_steps(open_spool: OpenSpool) -> None:
    """Another connection sees each committed state: none of them may have moved data without its count."""
    spool = open_spool("main", "copy")
    busy = True

    async def live(output: str) -> None:
        window = 0
        while busy:
            window += 1
            await spool.put([event(window), event(window, "till")], [])
            if output == "main":
                await spool.journal(rotation(spool, window))
            batches = await spool.lease(output, NOW + window * 1000)
            await spool.settle(output, [Delivered(batch, [RefusedLine(1, "no", "")]) for batch in batches])

    lives = [asyncio.create_task(live(output)) for output in ("main", "copy")]
    try:
        for _ in range(300):
            assert (await spool.books()).balance() == []
    finally:
        busy = False
        await asyncio.gather(*lives)


@pytest.mark.parametrize("rows", [1, 3, 2_000])
async def test_pending_is_summed_part_by_part(
    rows: int, open_spool: OpenSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the books of a backlog of a million would take more memory than the agent has."""
    monkeypatch.setattr("sendoff_server.spool.accounts.PENDING_ROWS", rows)
    spool = open_spool("main", "copy", OutputSpec("numbers", 10_000, events=False))
    for number in range(5):
        await spool.put([event(number), event(10 + number, "till")], [])
        await spool.journal(rotation(spool, number + 1))
    await spool.settle("copy", [Delivered(batch) for batch in await spool.lease("copy", NOW, max_batches=2)])
    books = await spool.books()
    assert books.balance() == []
    assert [(book.source, book.output, book.pending) for book in books.events if book.pending] == [
        ("shop", "copy", 3),
        ("shop", "main", 5),
        ("till", "copy", 3),
        ("till", "main", 5),
    ]
    assert [(book.output, book.pending) for book in books.points_out] == [("copy", 15), ("main", 15), ("numbers", 15)]


async def test_dead_letters_never_fill_the_spool(open_spool: OpenSpool, caplog: pytest.LogCaptureFixture) -> None:
    spool = open_spool("main", limit_bytes=16_000_000)
    for _ in range(4):
        events = [EventIn(os.urandom(20_000).hex().encode(), "e", "shop") for _ in range(64)]
        await spool.put(events, [])
        while batches := await spool.lease("main", LATER):
            refused = [[RefusedLine(line, str(line), "") for line in range(1, batch.lines + 1)] for batch in batches]
            await spool.settle("main", [Delivered(*pair) for pair in zip(batches, refused, strict=True)])
    assert (await spool.stats())["used_bytes"] < 8_000_000
    (book,) = (await spool.books()).events
    assert (book.received, book.dead) == (256, 256)
    assert "the oldest" in caplog.text


async def test_a_few_large_dead_letters_never_fill_a_small_spool(open_spool: OpenSpool) -> None:
    spool = open_spool("main", limit_bytes=16_000_000)
    for _ in range(30):
        await spool.put([EventIn(os.urandom(400_000).hex().encode(), "e", "shop")], [])
        [batch] = await spool.lease("main", LATER)
        await spool.settle("main", [Dead(batch, 400, "refused", b"")])
    assert (await spool.stats())["used_bytes"] < 8_000_000
