"""What the JSON API answers, its limits, and its errors."""

from typing import Any

import pytest

from sendoff_server.aggregate import snapshot
from sendoff_server.aggregate.histogram import Distribution
from sendoff_server.gateway import look

from .support import NOW, Json, Running, batch, counter, event, exception

START = NOW // 600_000 * 600_000 - 3_600_000


def distribution(name: str, start: int, values: list[float], **tags: str) -> bytes:
    value = Distribution()
    for one in values:
        value.add(one, 1.0)
    identity = snapshot.identity(name, snapshot.tags_json(dict(sorted(tags.items()))), "ms", "distribution")
    return snapshot.encode(identity, (start, 10_000), (1, 1), value)


async def pages(gateway: Running, path: str, key: str, **query: Any) -> list[Json]:
    found: list[Json] = []
    cursor = ""
    while True:
        page = await gateway.get(path, cursor=cursor, **query)
        found += page[key]
        if page["next"] is None:
            return found
        cursor = page["next"]


async def test_events_come_latest_first_and_page_by_page_without_gaps(gateway: Running) -> None:
    sent = [event(t=NOW - 1_000 * (i % 7)) for i in range(50)]
    await gateway.post(batch("events", sent))
    found = await pages(gateway, "events", "events", limit=7)
    assert sorted(one["id"] for one in found) == sorted(one["id"] for one in sent)
    assert [one["t"] for one in found] == sorted((one["t"] for one in found), reverse=True)


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({"name": "signup"}, 1),
        ({"service": "jobs"}, 1),
        ({"env": "staging"}, 1),
        ({"release": "2"}, 1),
        ({"q": "K-204"}, 1),
        ({"q": "100%_"}, 1),
        ({"q": "100x_"}, 0),
        ({"from": NOW - 500, "to": NOW}, 1),
        ({}, 6),
    ],
)
async def test_events_are_found_by_their_filters(gateway: Running, query: dict[str, Any], count: int) -> None:
    sent = [
        event("signup"),
        event(service="jobs"),
        event(env="staging"),
        event(release="2", fields={"off": "100%_"}),
        event(fields={"ref": "K-204"}),
        event(t=NOW - 100),
    ]
    await gateway.post(batch("events", sent))
    assert len((await gateway.get("events", **query))["events"]) == count


async def test_exceptions_are_grouped_sorted_filtered_and_paged(gateway: Running) -> None:
    sent = [
        exception(f"{number:032x}", t=NOW - number * 1_000, service=f"s{number % 2}", repeats=number)
        for number in range(1, 31)
    ]
    await gateway.post(batch("events", sent))
    found = await pages(gateway, "exceptions", "exceptions", limit=8, sort="count")
    assert [group["in_range"] for group in found] == list(range(31, 1, -1))
    by_time = await gateway.get("exceptions", limit=3)
    assert [group["last_seen"] for group in by_time["exceptions"]] == [NOW - 1_000, NOW - 2_000, NOW - 3_000]
    assert len(await pages(gateway, "exceptions", "exceptions", service="s1", limit=4)) == 15
    assert len(await pages(gateway, "exceptions", "exceptions", q="no answer")) == 30
    assert await pages(gateway, "exceptions", "exceptions", q="nowhere") == []


async def test_an_exception_is_given_whole_with_its_neighbours(gateway: Running) -> None:
    sent = [exception(t=NOW - 3_000 + i) for i in range(3)]
    await gateway.post(batch("events", sent))
    found = await gateway.get(f"exceptions/{'f' * 32}/{sent[1]['id']}")
    assert found["chain"][0]["frames"][0]["file"] == "shop/pay.py"
    assert (found["older"], found["newer"]) == (sent[0]["id"], sent[2]["id"])
    assert found["delivery"]["agent"] == "a" * 32
    listed = await pages(gateway, "exceptions/" + "f" * 32, "events", limit=1)
    assert [one["id"] for one in listed] == [one["id"] for one in reversed(sent)]
    assert (await gateway.ask(f"/api/v1/shop/exceptions/{'e' * 32}/{sent[1]['id']}"))[0] == 404


async def test_a_series_has_points_where_windows_are_known_and_none_elsewhere(gateway: Running) -> None:
    lines = [counter("orders", START + i * 10_000, i, service="a") for i in (0, 1, 2, 12, 13)]
    await gateway.post(batch("snapshot", lines))
    found = await gateway.get("metrics/series", name="orders", step=60_000, **{"from": START, "to": START + 600_000})
    (series,) = found["series"]
    assert [(point["t"] - START, point["length"], point["sum"]) for point in series["points"]] == [
        (0, 60_000, 3),
        (120_000, 60_000, 25),
    ]
    assert series["points"][1]["rate"] == 25 / 60


async def test_series_are_told_apart_by_a_tag_and_chosen_by_tags(gateway: Running) -> None:
    lines = [counter("orders", START, n + 1, shop=shop, till=str(n)) for n, shop in enumerate(["x", "x", "y"])]
    await gateway.post(batch("snapshot", lines))
    when = {"from": START, "to": START + 60_000}
    by = await gateway.get("metrics/total", name="orders", by="shop", **when)
    assert {total["by"]: total["sum"] for total in by["totals"]} == {"x": 3, "y": 3}
    one = await gateway.get("metrics/total", name="orders", tags="shop:x,till:1", **when)
    assert one["totals"][0]["sum"] == 2
    none = await gateway.get("metrics/total", name="orders", tags="shop:z", **when)
    assert none["totals"] == []


async def test_a_longer_window_makes_its_points_coarser_but_not_wrong(gateway: Running) -> None:
    fine = [counter("orders", START + i * 10_000, 1, service="a") for i in range(12)]
    await gateway.post(batch("snapshot", fine))
    merged = counter("orders", START, 100, length=60_000, service="a")
    await gateway.post(batch("snapshot", [merged], agent="b" * 32))
    when = {"from": START, "to": START + 120_000}
    (series,) = (await gateway.get("metrics/series", name="orders", step=10_000, **when))["series"]
    shown = [(point["t"] - START, point["length"], point["sum"]) for point in series["points"]]
    assert shown == [(0, 60_000, 106), *((60_000 + i * 10_000, 10_000, 1) for i in range(6))]


async def test_percentiles_come_from_merged_distributions_within_their_error(gateway: Running) -> None:
    values = [float(value) for value in range(-50, 1_000)]
    await gateway.post(batch("snapshot", [distribution("took", START, values[:500], half="1")]))
    await gateway.post(batch("snapshot", [distribution("took", START + 10_000, values[500:], half="2")]))
    found = await gateway.get(
        "metrics/total", name="took", percentiles="0,1,50,95,99,100", **{"from": START, "to": START + 60_000}
    )
    (total,) = found["totals"]
    assert (total["n"], total["min"], total["max"], total["sum"]) == (1_050, -50, 999, sum(values))
    for q in (1, 50, 95, 99):
        exact = values[min(int(q / 100 * len(values)), len(values) - 1)]
        assert abs(total[f"p{q}"] - exact) <= found["percentile_error"] * abs(exact) + 1
    assert (total["p0"], total["p100"]) == (pytest.approx(-50, rel=0.011), pytest.approx(999, rel=0.011))


async def test_metrics_are_listed_by_name_with_their_kinds(gateway: Running) -> None:
    lines = [counter("b", START, 1), counter("a", START, 1, x="1"), counter("a", START, 1, x="2")]
    await gateway.post(batch("snapshot", [*lines, distribution("a", START, [1.0])]))
    found = await pages(gateway, "metrics", "metrics", limit=1)
    assert [(one["name"], one["type"], one["series"]) for one in found] == [
        ("a", "counter", 2),
        ("a", "distribution", 1),
        ("b", "counter", 1),
    ]
    total = await gateway.get("metrics/total", name="a", type="distribution", **{"from": START, "to": START + 1})
    assert total["also"] == [{"type": "counter", "unit": ""}]


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        ("events", {"limit": "0"}, "limit"),
        ("events", {"limit": "1001"}, "limit"),
        ("events", {"limit": "ten"}, "limit"),
        ("events", {"cursor": "!"}, "cursor"),
        ("events", {"cursor": "WyJhIl0"}, "cursor"),
        ("events", {"cursor": "Wzk5OTk5OTk5OTk5OTk5OTk5OTk5LDFd"}, "cursor"),  # [99999999999999999999,1]
        ("events", {"range": "2y"}, "range"),
        ("events", {"from": "9", "to": "3"}, "from"),
        ("events", {"from": "0"}, "from"),
        ("events", {"kind": "poem"}, "kind"),
        ("events", {"q": "x" * 501}, "q"),
        ("exceptions", {"sort": "luck"}, "sort"),
        ("metrics/series", {}, "name"),
        ("metrics/series", {"name": "a", "step": "1000", "range": "30d"}, "step"),
        ("metrics/total", {"name": "a", "percentiles": "50,x"}, "percentiles"),
        ("metrics/total", {"name": "a", "percentiles": "101"}, "percentiles"),
    ],
)
async def test_a_parameter_that_is_wrong_is_named(
    gateway: Running, path: str, query: dict[str, str], field: str
) -> None:
    await gateway.post(batch("snapshot", [counter("a", START, 1)]))
    status, problem = await gateway.ask(f"/api/v1/shop/{path}", **query)
    assert (status, problem["field"]) == (422, field)
    assert problem["remedy"]


@pytest.mark.parametrize("path", ["events/x", "exceptions/x", "exceptions/x/y", "metrics/total?name=x", "nothing"])
async def test_what_is_not_there_is_a_404_with_a_remedy(gateway: Running, path: str) -> None:
    status, problem = await gateway.ask(f"/api/v1/shop/{path}")
    assert status == 404
    assert problem["remedy"]


async def test_a_query_that_takes_too_long_is_given_up_with_advice(gateway: Running) -> None:
    await gateway.post(batch("events", [event() for _ in range(2_000)]))
    store = gateway.gateway._store
    assert store is not None
    store.readers._limit = 0.0
    status, problem = await gateway.ask("/api/v1/shop/events", q="nowhere")
    assert status == 503
    assert "shorter range" in problem["remedy"]


async def test_pages_of_exceptions_come_to_an_end_even_beyond_the_farthest(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look, "FARTHEST_PAGE", 4)
    await gateway.post(batch("events", [exception(f"{number:032x}") for number in range(9)]))
    assert len(await pages(gateway, "exceptions", "exceptions", limit=2)) == 6


async def test_users_without_an_id_are_told_apart_by_what_else_is_known(gateway: Running) -> None:
    users = [{"id": None, "email": "a@example.org"}, {"id": None, "email": "b@example.org"}, {"id": 0}, None]
    await gateway.post(batch("events", [exception(user=user) for user in users]))
    assert (await gateway.get("exceptions"))["exceptions"][0]["users"] == 3


async def test_a_page_of_large_events_ends_early_and_the_next_goes_on(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look, "PAGE_BYTES", 5_000)
    sent = [event(t=NOW - 1_000 - i, fields={"text": "x" * 2_000}) for i in range(7)]
    await gateway.post(batch("events", sent))
    assert len((await gateway.get("events"))["events"]) == 3
    assert [one["id"] for one in await pages(gateway, "events", "events")] == [one["id"] for one in sent]
