"""Old windows become longer ones without loss; what is older than its retention goes; repeats stay recognised."""

from pathlib import Path

import pytest

from .support import AGENT, NOW, Clock, Json, Running, batch, counter, event, exception, running

DAY = 86_400_000


def gauge(start: int, last: float, at: int, order: int = 1) -> Json:
    made = {"name": "depth", "tags": {}, "unit": "", "type": "gauge", "w": [start, 10_000], "ord": [1, order]}
    return made | {"last": last, "at": at, "min": last - 1, "max": last + 1, "n": 2}


async def windows(gateway: Running, name: str) -> list[tuple[int, int]]:
    store = gateway.gateway._store
    assert store is not None
    query = "SELECT start, length FROM windows JOIN series ON series.id = windows.series WHERE name = ?1 ORDER BY 1"
    return await store.readers.read(lambda db: list(db.execute(query, (name,))))


async def test_old_windows_are_merged_to_minutes_and_ten_minutes_with_the_same_totals(tmp_path: Path) -> None:
    clock = Clock(NOW)
    start = NOW // 600_000 * 600_000 - 3_600_000
    lines = [counter("orders", start + i * 10_000, 0.1 * i, n=i + 1, shop=str(i % 2)) for i in range(360)]
    async with running(tmp_path, clock=clock) as gateway:
        await gateway.post(batch("snapshot", lines))
        clock.ms = NOW + 3 * DAY
        wide = {"from": NOW - DAY, "to": NOW + DAY}
        before = await gateway.get("metrics/total", name="orders", **wide)
        await gateway.gateway._upkeep.once()
        assert {length for _, length in await windows(gateway, "orders")} == {60_000}
        after = await gateway.get("metrics/total", name="orders", **wide)
        assert abs(after["totals"][0]["sum"] - before["totals"][0]["sum"]) < 1e-9
        assert after["totals"][0]["n"] == before["totals"][0]["n"] == sum(range(361))
        clock.ms = NOW + 31 * DAY
        await gateway.gateway._upkeep.once()
        assert len(await windows(gateway, "orders")) == 2 * 6
        last = await gateway.get("metrics/total", name="orders", **wide)
        assert abs(last["totals"][0]["sum"] - before["totals"][0]["sum"]) < 1e-9
        assert last["longest_window"] == 600_000
        clock.ms = NOW + 400 * DAY
        await gateway.gateway._upkeep.once()
        assert await windows(gateway, "orders") == []
        assert (await gateway.get("metrics"))["metrics"] == []


async def test_a_window_that_comes_late_joins_the_minute_it_belongs_to(tmp_path: Path) -> None:
    clock = Clock(NOW)
    start = NOW // 60_000 * 60_000 - 600_000
    async with running(tmp_path, clock=clock) as gateway:
        await gateway.post(batch("snapshot", [counter("orders", start, 1), counter("orders", start + 10_000, 2)]))
        clock.ms += 3 * DAY
        await gateway.gateway._upkeep.once()
        await gateway.post(batch("snapshot", [counter("orders", start + 20_000, 4)]))
        await gateway.gateway._upkeep.once()
        assert await windows(gateway, "orders") == [(start, 60_000)]
        found = await gateway.get("metrics/total", name="orders", **{"from": NOW - DAY, "to": NOW})
        assert found["totals"][0]["sum"] == 7


async def test_of_gauges_the_newest_moment_wins_and_then_the_agent(tmp_path: Path) -> None:
    clock = Clock(NOW)
    start = NOW // 60_000 * 60_000 - 600_000
    async with running(tmp_path, clock=clock) as gateway:
        await gateway.post(batch("snapshot", [gauge(start, 5, start + 9)], agent="b" * 32))
        await gateway.post(batch("snapshot", [gauge(start, 7, start + 9)], agent=AGENT))
        for _ in range(2):
            total = (await gateway.get("metrics/total", name="depth", **{"from": NOW - DAY, "to": NOW}))["totals"][0]
            assert (total["last"], total["min"], total["max"], total["n"]) == (5, 4, 8, 4)
            clock.ms += 3 * DAY
            await gateway.gateway._upkeep.once()


async def test_old_events_go_but_their_ids_are_recognised_as_long_as_was_said(tmp_path: Path) -> None:
    clock = Clock(NOW)
    known = event()
    old = batch("events", [known, exception()], "old")
    async with running(tmp_path, clock=clock, events=DAY / 1000) as gateway:
        _, answer = await gateway.post(old)
        assert answer["dedupe_s"] == 30 * 86_400
        clock.ms += 2 * DAY
        await gateway.post(batch("events", [exception("e" * 32, t=clock.ms)]))
        await gateway.gateway._upkeep.once()
        everything = {"from": NOW - DAY, "to": clock.ms + 1}
        assert (await gateway.get("events", **everything))["events"] == []
        groups = (await gateway.get("exceptions", **everything))["exceptions"]
        assert [group["group"] for group in groups] == ["e" * 32]
        assert (await gateway.ask("/api/v1/shop/exceptions/" + "f" * 32))[0] == 404
        clock.ms = NOW + 29 * DAY
        await gateway.gateway._upkeep.once()
        _, answer = await gateway.post(old)
        assert answer["results"][0]["status"] == "duplicate"
        await gateway.post(batch("events", [known], "another"))
        assert (await gateway.get("counts"))["duplicates"] == 1
        clock.ms = NOW + 31 * DAY
        await gateway.gateway._upkeep.once()
        _, answer = await gateway.post(old)
        assert answer["results"][0]["status"] == "stored"


async def test_many_old_rows_go_in_small_steps(tmp_path: Path) -> None:
    clock = Clock(NOW)
    async with running(tmp_path, clock=clock, events=DAY / 1000) as gateway:
        await gateway.post(batch("events", [event() for _ in range(2_500)]))
        clock.ms += 2 * DAY
        await gateway.gateway._upkeep.once()
        everything = {"from": NOW - DAY, "to": clock.ms}
        assert (await gateway.get("events", **everything))["events"] == []


async def test_windows_that_become_longer_than_a_line_are_merged_and_read_and_hinder_no_others(tmp_path: Path) -> None:
    def wide(signs: str) -> Json:
        buckets = [[index, 1.123456789] for index in range(-20_000, 20_000)]
        made: Json = {
            "name": "wide",
            "tags": {},
            "unit": "",
            "type": "distribution",
            "w": [NOW // 60_000 * 60_000, 10_000],
        }
        made |= {"ord": [1, 1], "n": 40_000, "weight": 44_938.2, "sum": 1.0, "min": -1e200, "max": 1e200}
        return made | {"scale": 5, "zero": 0.0, "pos": [], "neg": []} | {signs: buckets}

    async with running(tmp_path, clock=Clock(NOW)) as gateway:
        for lines in ([wide("pos")], [wide("neg")], [counter("after", NOW - 60_000, 1), counter("after", NOW, 1)]):
            assert (await gateway.post(batch("snapshot", lines)))[0] == 200
        assert (await gateway.get("metrics/total", name="wide", to=NOW + DAY))["totals"][0]["n"] == 80_000
        gateway.clock.ms = NOW + 3 * DAY
        await gateway.gateway._upkeep.once()
        for name in ("wide", "after"):
            assert {length for _, length in await windows(gateway, name)} == {60_000}


@pytest.mark.parametrize("ahead", [5_000 * DAY, -5_000 * DAY])
async def test_a_clock_that_jumps_deletes_nothing(tmp_path: Path, ahead: int) -> None:
    clock = Clock(NOW)
    async with running(tmp_path, clock=clock, events=DAY / 1000) as gateway:
        await gateway.post(batch("events", [event()]))
        clock.ahead = ahead
        await gateway.gateway._upkeep.once()
        assert len((await gateway.get("events", **{"from": NOW - DAY, "to": NOW}))["events"]) == 1
    async with running(tmp_path, clock=clock, events=DAY / 1000) as gateway:  # nor one that is wrong at the start
        await gateway.gateway._upkeep.once()
        assert len((await gateway.get("events", **{"from": NOW - DAY, "to": NOW}))["events"]) == 1
    clock.ahead = 0
    async with running(tmp_path, clock=clock, events=DAY / 1000) as gateway:
        await gateway.gateway._upkeep.once()
        clock.ms += 2 * DAY
        await gateway.gateway._upkeep.once()
        assert (await gateway.get("events", **{"from": NOW - DAY, "to": NOW}))["events"] == []


async def test_agents_not_heard_of_for_the_retention_of_events_are_forgotten(tmp_path: Path) -> None:
    clock = Clock(NOW)
    async with running(tmp_path, clock=clock, events=DAY / 1000) as gateway:
        await gateway.post(batch("ledger", [{"memo": "kernel", "dropped": 1}]))
        clock.ms += 2 * DAY
        await gateway.post(batch("ledger", [{"memo": "kernel", "dropped": 1}], agent="b" * 32, made=clock.ms))
        await gateway.gateway._upkeep.once()
        assert [agent["agent"] for agent in (await gateway.get("ledger"))["agents"]] == ["b" * 32]
