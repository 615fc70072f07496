"""The direct path below its transports: connections, rounds, failing disks, restarts, clients that end."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from sendoff_server.gateway.direct import project as project_module
from sendoff_server.gateway.direct import rounds as rounds_module
from sendoff_server.gateway.direct.session import BLOCKED_S
from sendoff_server.gateway.store import DiskFailed
from sendoff_server.intake import clients as clients_module
from sendoff_server.intake import intake as intake_module
from sendoff_server.wire.frame import Lines, decode_frame

from .direct import Sender, frame
from .direct_world import Wire, World, world_in
from .support import NOW


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_in(tmp_path) as made:
        yield made


async def test_a_connection_hears_what_is_stored_after_its_hello_and_after_each_round(world: World) -> None:
    sender, wire = Sender(), world.connect()
    wire.send(sender.hello(), sender.event(), sender.points(b"a:2|c", 1))
    await wire.heard(ack=1, n=1)
    assert wire.said[0] == {"ack": 0, "n": 0}
    wire.send(sender.event())
    assert await wire.heard(ack=2) == {"ack": 2, "n": 1}
    assert (await world.events(), await world.sum("a")) == (2, 2)


async def test_what_comes_before_a_hello_is_answered_by_again_and_not_looked_at(world: World) -> None:
    sender, wire = Sender(), world.connect()
    wire.send(sender.event(), sender.hello(), sender.event())
    assert wire.said == [{"again": 0}]
    lines = world.connect()
    lines.session.take(Lines(b"a:1|c"))
    assert lines.said == [{"again": 0}]


async def test_what_waits_for_the_store_to_say_who_is_there_counts_as_taken_in(world: World) -> None:
    go_on = asyncio.get_running_loop().create_future()
    world.store.writer.submit(lambda db: asyncio.run_coroutine_threadsafe(_wait(go_on), go_on.get_loop()).result(10))
    sender, wire = Sender(), world.connect()
    wire.send(sender.hello(), sender.event(text="x" * 10_000))
    assert world.project.allowance.held > 10_000
    wire.send(*(sender.event(text="x" * 200_000) for _ in range(15)))
    assert wire.said == [{"again": 1.0}]
    assert world.project.allowance.held == 0
    go_on.set_result(None)


async def test_lines_after_a_hello_are_points_of_nobody(world: World) -> None:
    sender, wire = Sender(), world.connect()
    wire.send(sender.hello())
    await wire.heard(n=0)
    wire.session.take(Lines(b"a:1|c\nnot a line"))
    assert await world.project.rounds.flush(5)
    assert await world.sum("a") == 1
    (lines,) = [book for book in (await world.books())["books"] if book["book"] == "lines"]
    assert (lines["source"], lines["received"], lines["rejected"]) == ("statsd/zmq", 2, {"no_value": 1})


async def test_an_event_among_the_lines_of_a_frame_that_comes_again_is_stored_once(world: World) -> None:
    sender = Sender()
    metrics_frame = sender.points(b"_e{5,4}:title|text\n_e{5,4}:title|text\na:1|c", 1)
    world.connect().send(sender.hello(), metrics_frame)
    async with asyncio.timeout(5):
        while await world.events() < 2:
            await asyncio.sleep(0.01)
    await world.kill()
    await world.connect().send(sender.hello(), metrics_frame, sender.points(b"a:1|c", 1)).heard(n=2)
    assert (await world.events(), await world.sum("a")) == (2, 2)


async def test_events_of_frames_without_points_are_kept_though_they_are_alike(world: World) -> None:
    sender = Sender()
    frames = [sender.points(b"_e{5,4}:title|text", 0) for _ in range(2)]
    await world.connect().send(sender.hello(), *frames, sender.points(b"a:1|c", 1)).heard(n=1)
    assert await world.events() == 2


async def test_points_that_were_not_acknowledged_come_again_after_a_kill_and_count_once(world: World) -> None:
    sender = Sender()
    first, second = sender.points(b"a:1|c", 1), sender.points(b"a:10|c", 1)
    await world.connect().send(sender.hello(), first).heard(n=1)
    world.project.rounds._metrics_at = 1e18  # the second is in the core when the gateway dies
    wire = world.connect().send(sender.hello(), second, sender.event())
    assert await wire.heard(ack=1) == {"ack": 1, "n": 1}
    await world.kill()
    wire = world.connect().send(sender.hello())
    assert await wire.heard(ack=1) == {"ack": 1, "n": 1}
    wire.send(first, second)
    await wire.heard(n=2)
    assert await world.sum("a") == 11
    (memo,) = await world.clients()
    assert (memo["points"], memo["events"], memo["gap"]) == (2, 1, 0)


async def test_points_behind_a_hole_count_once_whatever_is_stored_of_them_when_the_gateway_dies(world: World) -> None:
    sender = Sender()
    zeroth, first, second = (sender.points(b"a:%d|c" % value, 1) for value in (1, 10, 100))
    wire = world.connect().send(sender.hello(), zeroth, second)
    assert await wire.heard(n=1)
    assert await world.project.rounds.flush(5)
    assert await world.sum("a") == 101
    await world.kill()
    wire = world.connect().send(sender.hello(), first, second)
    await wire.heard(n=3)
    assert await world.sum("a") == 111
    (memo,) = await world.clients()
    assert (memo["points"], memo["gap"]) == (3, 0)


async def test_points_that_never_come_are_a_gap_and_the_rest_is_acknowledged(world: World) -> None:
    sender = Sender()
    first = sender.points(b"a:1|c", 1)
    sender.n = 8
    wire = world.connect().send(sender.hello(), first, sender.points(b"a:1|c", 1))
    await wire.heard(n=1)
    world.clock.ms += 121_000
    await wire.heard(n=9)
    (memo,) = await world.clients()
    assert (memo["points"], memo["gap"]) == (2, 7)


async def test_gauges_go_on_from_their_last_values_after_a_restart(world: World) -> None:
    sender = Sender()
    await world.connect().send(sender.hello(), sender.points(b"depth:5|g", 1)).heard(n=1)
    await world.connect().send(sender.hello(), sender.points(b"depth:+2|g", 1)).heard(n=2)
    assert await world.sum("depth") == 7
    await world.kill()
    repeated = frame("metrics", sender.name, b"depth:+2|g", n=1)
    wire = world.connect().send(sender.hello(), repeated, sender.points(b"depth:+3|g", 1))
    await wire.heard(n=3)
    assert await world.sum("depth") == 10


async def test_a_held_back_hour_is_stored_second_by_second(world: World) -> None:
    sender = Sender()
    made = [sender.points(b"a:1|c", 1, t=NOW - 3_600_000 + number * 1_000) for number in range(3_600)]
    wire = world.connect().send(sender.hello())
    await wire.heard(n=0)
    wire.send(*made)
    await wire.heard(n=3_600)
    assert await world.sum("a") == 3_600
    books = (await world.books())["books"]
    assert not any(book.get("rejected") for book in books)


async def test_a_full_disk_acknowledges_nothing_and_loses_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds_module, "RETRY_MOST_S", 0.1)
    sender = Sender()
    wire = world.connect().send(sender.hello(), sender.event(), sender.points(b"a:1|c", 1))
    await wire.heard(ack=1, n=1)

    def fill(db: apsw.Connection) -> None:
        db.pragma("max_page_count", int(str(db.pragma("page_count"))))

    await asyncio.wrap_future(world.store.writer.submit(fill))
    events = [sender.event(text="x" * 900) for _ in range(500)]
    points = sender.points(b"a:10|c", 1)
    wire.send(*events, points)
    assert await wire.heard(again=5.0)
    wire.send(sender.event())  # nobody listens any more
    late = world.connect()
    late.session.take(decode_frame(sender.hello(), datagram=False))
    assert late.said == [{"again": 5.0}]
    assert "full" in (world.project.blocked or "")
    assert (await world.events(), await world.sum("a")) == (1, 1)
    world.store.writer.submit(lambda db: db.pragma("max_page_count", 1_000_000))
    assert await world.project.rounds.flush(10)
    wire = world.connect().send(sender.hello(), *events, points)
    await wire.heard(ack=501, n=2)
    assert (await world.events(), await world.sum("a")) == (501, 11)
    assert await world.books()


async def test_a_round_that_was_stored_without_anybody_hearing_of_it_is_not_stored_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = Sender()
    wire = world.connect().send(sender.hello())
    await wire.heard(ack=0)
    put, failed = world.project.rounds._put, itertools.count()

    async def stored_and_failed(round_: Any) -> None:
        await put(round_)
        if next(failed) == 0:
            raise DiskFailed("the answer of the disk was lost")

    monkeypatch.setattr(world.project.rounds, "_put", stored_and_failed)
    wire.send(sender.event(), sender.points(b"a:1|c", 1))
    assert await world.project.rounds.flush(10)
    await world.connect().send(sender.hello()).heard(ack=1, n=1)
    assert (await world.events(), await world.sum("a")) == (1, 1)
    events = [book for book in (await world.books())["books"] if book["book"] == "events"]
    assert [book["received"] for book in events] == [1]


async def test_a_slow_disk_holds_no_more_than_the_project_may_have_in_flight(world: World) -> None:
    sender = Sender()
    wire = world.connect().send(sender.hello())
    await wire.heard(ack=0)
    project = world.project
    project.allowance.in_flight = 100_000
    go_on = asyncio.get_running_loop().create_future()
    world.store.writer.submit(lambda db: asyncio.run_coroutine_threadsafe(_wait(go_on), go_on.get_loop()).result(10))
    taken = 0
    for _ in range(1_000):
        event = sender.event(text="x" * 900)
        if project.admit(len(event)):
            break
        wire.send(event)
        taken += 1
    assert 50 < taken < 100
    assert project.allowance.refused == {"in_flight": 1}
    go_on.set_result(None)
    assert await wire.heard(ack=taken)
    assert project.allowance.held == 0


async def test_a_client_that_takes_no_answer_is_told_to_come_again_once_it_does(world: World) -> None:
    sender, wire = Sender(), world.connect()
    wire.send(sender.hello())
    await wire.heard(ack=0)
    wire.full = True
    world.project.rounds.blocked = "for once"
    wire.send(sender.event())
    assert wire.said == [{"ack": 0, "n": 0}]
    wire.full = False
    wire.session.writable()
    assert wire.said[1:] == [{"again": 5.0}]


async def test_points_wait_for_a_round_and_events_do_not(world: World) -> None:
    sender = Sender()
    wire = world.connect().send(sender.hello(), sender.points(b"a:1|c", 1))
    await wire.heard(n=1)
    began = time.monotonic()
    wire.send(sender.points(b"a:1|c", 1), sender.event())
    await wire.heard(ack=1)
    events_after = time.monotonic() - began
    await wire.heard(n=2)
    assert events_after < time.monotonic() - began
    assert time.monotonic() - began >= 0.2


async def test_a_connection_that_ends_leaves_the_tail_unknown_and_a_bye_does_not(world: World) -> None:
    one, two = Sender("one"), Sender("two")
    for sender, last in ((one, one.event()), (two, two.bye())):
        wire = world.connect().send(sender.hello(), last)
        wire.session.ended(orderly=True)
        async with asyncio.timeout(5):
            while not wire.closed:
                await asyncio.sleep(0.01)
    world.project.tick()
    assert await world.project.rounds.flush(5)
    assert {memo["service"]: memo["state"] for memo in await world.clients()} == {"one": "tail unknown", "two": "ended"}


async def test_clients_that_ended_go_into_totals_and_are_still_known_when_they_come_again(world: World) -> None:
    sender = Sender()
    event, points = sender.event(), sender.points(b"a:1|c", 1, dropped={"metric.closed": 3})
    wire = world.connect().send(sender.hello(), event, points)
    await wire.heard(ack=1, n=1)
    wire.session.ended(orderly=True)
    world.clock.ms += int(clients_module.FOLD_S * 1_000) + 1_000
    await until(lambda: not len(world.project.clients), world)
    assert await world.project.rounds.flush(5)
    (memo,) = [memo for memo in (await world.books())["memos"] if memo["memo"] == "folded"]
    assert [memo[name] for name in ("clients", "events", "points", "gap")] == [1, 1, 1, 0]
    assert memo["dropped"] == {"metric.closed": 3}
    assert await world.clients() == []
    again = world.connect().send(sender.hello(1), event, points)
    assert await again.heard(ack=1, n=1)
    assert (await world.events(), await world.sum("a")) == (1, 1)


async def test_what_a_client_says_it_dropped_counts_once_though_it_was_in_totals(world: World) -> None:
    sender = Sender()
    for total in (3, 3, 5):
        points = sender.points(b"a:1|c", 1, dropped={"metric.closed": total})
        wire = world.connect().send(sender.hello(), points)
        await wire.heard(n=sender.n)
        wire.session.ended(orderly=True)
        world.clock.ms += int(clients_module.FOLD_S * 1_000) + 1_000
        await until(lambda: not len(world.project.clients), world)
    (memo,) = [memo for memo in (await world.books())["memos"] if memo["memo"] == "folded"]
    assert (memo["points"], memo["dropped"]) == (3, {"metric.closed": 5})


async def test_services_that_clients_name_do_not_make_totals_without_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "MAX_SOURCES", 3)
    for number in range(6):
        wire = world.connect().send(Sender(f"made-up-{number}").hello())
        await wire.heard(ack=0)
        wire.session.ended(orderly=True)
    world.clock.ms += int(clients_module.FOLD_S * 1_000) + 1_000
    await until(lambda: not len(world.project.clients), world)
    folded = [memo for memo in (await world.books())["memos"] if memo["memo"] == "folded"]
    assert {memo["service"]: memo["clients"] for memo in folded} == {
        "made-up-0": 1, "made-up-1": 1, "made-up-2": 1, "others": 3
    }  # fmt: skip


async def test_refusals_are_remembered_for_so_many_clients_and_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project_module, "REFUSALS_MOST", 2_500)
    for _ in range(5):
        sender = Sender()
        sender.seq = 5_000
        wire = world.connect().send(sender.hello(), sender.event())
        await wire.heard(ack=5_001)
        wire.session.ended(orderly=True)
    world.project.tick()
    assert [len(client.refused) for client in world.project.clients] == [0, 0, 0, 1_000, 1_000]


async def test_a_second_hello_on_a_connection_is_told_to_come_again(world: World) -> None:
    sender = Sender()
    wire = world.connect().send(sender.hello(), sender.hello(), sender.event())
    await wire.heard(again=0)
    assert await world.events() == 0


async def test_lines_beyond_what_is_taken_in_at_once_are_refused(world: World) -> None:
    sender = Sender()
    await world.connect().send(sender.hello(), sender.points(b"a:1|c\n" * 20_000, 20_000), sender.event()).heard(ack=1)
    assert world.project.intake.refused == {"zmq": {"payload_too_long": 1}}
    assert await world.sum("a") == 0


async def test_the_core_never_holds_much_when_a_round_begins(world: World) -> None:
    sender = Sender()
    await world.connect().send(sender.hello()).heard(ack=0)
    world.project.rounds._metrics_at = asyncio.get_running_loop().time() + 0.5
    wire = world.connect().send(sender.hello())
    for part in range(10):
        names = range(part * 4_000, part * 4_000 + 4_000)
        wire.send(sender.points(b"\n".join(b"m%d:1|c" % name for name in names), 4_000))
        assert len(world.project.rounds._rotations) >= (part + 1) * 4_000 // 16_000
    await wire.heard(n=40_000)


async def test_a_run_that_another_took_the_place_of_acknowledges_nothing(world: World) -> None:
    sender = Sender()
    await world.connect().send(sender.hello()).heard(ack=0)
    old = world.direct._projects.pop(1)
    await world.connect().send(Sender().hello()).heard(ack=0)
    wire = Wire(old).send(sender.hello(), sender.event())
    await wire.heard(again=BLOCKED_S)
    assert {"ack": 1, "n": 0} not in wire.said
    assert "another has begun" in (old.blocked or "")
    await old.close()


async def test_clients_that_come_back_do_not_make_more_than_may_be_known(world: World) -> None:
    senders = [Sender() for _ in range(30)]
    await world.connect().send(senders[0].hello()).heard(ack=0)
    world.project.clients._most = 10
    for sender in senders * 2:
        wire = world.connect().send(sender.hello(), sender.event())
        await wire.heard(ack=sender.seq)
        wire.session.ended(orderly=True)
        world.project.tick()
        assert len(world.project.clients) <= 11
    assert await world.events() == 60


async def test_a_project_that_nobody_sends_to_is_put_away_and_comes_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project_module, "IDLE_S", 10.0)
    sender = Sender()
    wire = world.connect().send(sender.hello(), sender.points(b"depth:5|g", 1))
    await wire.heard(n=1)
    wire.session.ended(orderly=True)
    world.clock.ms += int(clients_module.FOLD_S * 1_000) + 1_000
    await until(lambda: not len(world.project.clients), world)
    world.clock.ms += 60_000
    async with asyncio.timeout(10):
        while world.direct._projects:
            await asyncio.sleep(0.02)
    repeat = frame("metrics", sender.name, b"depth:5|g", n=0)
    await world.connect().send(sender.hello(), repeat, sender.points(b"depth:+1|g", 1)).heard(n=2)
    assert await world.sum("depth") == 6


async def test_clients_of_an_earlier_run_end_though_nobody_comes_back(world: World) -> None:
    sender = Sender()
    await world.connect().send(sender.hello(), sender.event()).heard(ack=1)
    await world.kill()
    async with asyncio.timeout(5):
        while not world.direct._projects or not world.project.is_open:
            await asyncio.sleep(0.01)
    world.clock.ms += int(clients_module.FOLD_S * 1_000) + 1_000
    await until(lambda: not len(world.project.clients), world)
    memos = (await world.books())["memos"]
    assert [(memo["memo"], memo["events"]) for memo in memos] == [("folded", 1)]


async def until(holds: Callable[[], bool], world: World) -> None:
    async with asyncio.timeout(10):
        while not holds():
            world.project.tick()
            await asyncio.sleep(0.02)


async def _wait(future: "asyncio.Future[None]") -> None:
    await future
