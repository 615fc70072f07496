"""The pages: every one of them with nothing, with something, and with the worst that can be sent."""

import re
from typing import Any

import pytest

from sendoff_server.gateway import keys
from sendoff_server.gateway.pages import charts, words
from sendoff_server.gateway.pages.stack import stacks

from .support import NOW, Running, batch, counter, event, exception

HOSTILE = "\u202e<script>alert(1)</script><img src=x onerror=alert(1)>\"'&{{777*777}}\x00"
PATHS = ["", "exceptions", "exceptions/" + "f" * 32, "events", "metrics", "metrics?m=orders&by=shop", "ledger"]
BOOKS = [
    {"book": "events", "source": "web", "output": "main", "received": 9, "delivered": 8, "lost": {"spool_full": 1}},
    {"book": "points_in", "source": "web", "received": 10, "journaled": 10},
    {"book": "points_out", "output": "main", "journaled": 10, "delivered": 7, "pending": 3},
    {"memo": "client", "client": "c" * 32, "service": "web", "pid": 7, "state": "live", "seen": NOW, "events": 9},
    {"memo": "kernel", "socket": "udp", "dropped": 3},
]


async def fill(gateway: Running) -> None:
    await gateway.post(batch("events", [event(fields={"ref": "K-1"}), exception(user={"id": 3})]))
    await gateway.post(batch("snapshot", [counter("orders", NOW - 60_000, 5, shop="x")]))
    await gateway.post(batch("ledger", BOOKS))


@pytest.mark.parametrize(
    ("path", "heading", "line"),
    [
        ("", "Nothing has come in yet", "sendoff gateway keys create shop"),
        ("exceptions", "No exceptions in 24", "import sendoff"),
        ("events", "No events in 24", "import sendoff"),
        ("metrics", "No metric has come in yet", "import sendoff"),
        ("ledger", "No agent has reported its books yet", "sendoff agent"),
    ],
)
async def test_an_empty_page_says_so_and_gives_the_line_to_paste(
    gateway: Running, path: str, heading: str, line: str
) -> None:
    status, text = await gateway.page(f"/shop/{path}")
    assert status == 200
    assert heading in text
    assert line in text


async def test_the_lines_to_paste_call_what_the_client_has(gateway: Running) -> None:
    client = pytest.importorskip("sendoff")
    for path in ("", "exceptions", "events", "metrics"):
        _, text = await gateway.page(f"/shop/{path}")
        called = set(re.findall(r"sendoff\.(\w+)\(", text))
        assert "init" in called
        assert called <= set(client.__all__), path


async def test_every_page_shows_what_came_in(gateway: Running) -> None:
    await fill(gateway)
    expected = {
        "": ["One thing needs attention", "PaymentTimeout", "order.placed", "orders", "Books balance"],
        "exceptions": ["1 exception in 24", "1 new", "shop/pay.py:88 in charge"],
        "exceptions/" + "f" * 32: ["PaymentTimeout", "no answer within 10 s", "Receipt", "line 88"],
        "events": ["1 event in 24", "K-1", "web-1"],
        "metrics": ["orders: 5 in 24", "What this rests on"],
        "metrics?m=orders&by=shop": ["orders by shop", "Sum"],
        "ledger": ["Every message is accounted for", "= Received", "spool_full", "Its books balance", "pid"],
    }
    for path, parts in expected.items():
        status, text = await gateway.page(f"/shop/{path}")
        assert status == 200, path
        for part in parts:
            assert part in text, (path, part)


async def test_an_exception_that_stands_for_others_says_so(gateway: Running) -> None:
    await gateway.post(batch("events", [exception(t=NOW - 30_000, repeats=9_900)]))
    _, text = await gateway.page("/shop/exceptions/" + "f" * 32)
    assert text.count("1 of 9,901 shown; 9,900 folded") == 2  # in the range, and of the one that is shown
    _, text = await gateway.page("/shop/exceptions")
    assert ">9,901<" in text


async def test_hostile_text_is_text_on_every_page(gateway: Running) -> None:
    frame = {"file": HOSTILE, "line": 1, "func": HOSTILE, "module": HOSTILE, "in_app": True, "code": HOSTILE}
    frame |= {"pre": [HOSTILE], "post": [HOSTILE], "vars": {HOSTILE: HOSTILE}}
    chain = [
        {"type": HOSTILE, "message": HOSTILE * 200, "frames": [frame, frame | {"in_app": False}], "notes": [HOSTILE]},
        {"type": HOSTILE, "message": HOSTILE, "frames": [frame | {"in_app": False}], "parent": 0, "link": "cause"},
    ]
    names: dict[str, Any] = {
        "service": HOSTILE[:150],
        "env": HOSTILE[:150],
        "release": HOSTILE[:150],
        "host": HOSTILE[:150],
    }
    rest: dict[str, Any] = {
        "fields": {HOSTILE: [HOSTILE]},
        "tags": {HOSTILE: HOSTILE},
        "user": {"id": HOSTILE, HOSTILE: HOSTILE},
    }
    request = {"method": HOSTILE, "url": HOSTILE, "route": HOSTILE, "headers": {HOSTILE: HOSTILE}, "query": HOSTILE}
    sent = [
        exception(name=HOSTILE[:150], chain=chain, request=request, **names, **rest),
        event(HOSTILE[:150], **names, **rest),
    ]
    _, answer = await gateway.post(batch("events", sent, host=HOSTILE[:150]))
    assert "refused" not in answer["results"][0]
    no_control = HOSTILE.replace("\x00", "")
    _, answer = await gateway.post(batch("snapshot", [counter(no_control, NOW - 60_000, 5, shop=no_control)]))
    assert "refused" not in answer["results"][0]
    memo = {
        "memo": "client",
        "client": HOSTILE,
        "service": HOSTILE,
        "lib": HOSTILE,
        "release": HOSTILE,
        "state": HOSTILE,
    }
    kernel = {"memo": "kernel", "socket": HOSTILE, "dropped": "many"}
    book = {"book": "events", "source": HOSTILE, "output": HOSTILE, "received": 1, "lost": {HOSTILE: 2}}
    _, answer = await gateway.post(batch("ledger", [memo, kernel, book], host=HOSTILE[:150]))
    assert "refused" not in answer["results"][0]
    for path in ("", "exceptions", "exceptions/" + "f" * 32, "events", "metrics", "ledger"):
        status, text = await gateway.page(f"/shop/{path}")
        assert status == 200, path
        assert "<script" not in text, path
        assert "<img" not in text, path
        assert "\x00" not in text, path
        assert "603729" not in text, path
        # A character that turns the direction of writing stands only inside an isolating element.
        outside = re.sub(r"<bdi>[^<]*</bdi>", "", text)
        assert "\u202e" not in outside, path
    for query in ("q", "service", "name", "cursor"):
        _, text = await gateway.page("/shop/events", **{query: HOSTILE.replace("\x00", "")})
        assert "<script" not in text


async def test_a_megabyte_is_cut_and_said_to_be(gateway: Running) -> None:
    huge = "m" * 1_000_000
    chain = [{"type": "A", "message": huge, "frames": [{"file": "a.py", "line": 1, "in_app": True}]}]
    await gateway.post(batch("events", [exception(chain=chain), event(fields={"huge": huge})]))
    for path in ("", "exceptions", "exceptions/" + "f" * 32, "events"):
        status, text = await gateway.page(f"/shop/{path}")
        assert status == 200
        assert len(text) < 60_000
    _, text = await gateway.page("/shop/exceptions/" + "f" * 32)
    assert "characters more" in text


async def test_nothing_is_inline_and_every_answer_has_its_guards(gateway: Running) -> None:
    await fill(gateway)
    for path in [f"/shop/{path}" for path in PATHS] + ["/", "/shop/nothing", "/nothing"]:
        async with gateway.http.get(gateway.url + path) as answer:
            text = await answer.text()
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["X-Frame-Options"] == "DENY"
        assert not re.search(r"<script|<style|\sstyle=|\son\w+=|javascript:", text), path


async def test_what_a_page_asks_for_is_there(gateway: Running) -> None:
    await fill(gateway)
    for path in PATHS:
        _, text = await gateway.page(f"/shop/{path}")
        for address in set(re.findall(r'(?:href|src|action)="([^"#]+)"', text)):
            address = address.replace("&amp;", "&")
            full = address if address.startswith("/") else f"/shop/{path.partition('?')[0]}{address}"
            async with gateway.http.get(gateway.url + full) as answer:
                assert answer.status == 200, (path, address)


async def test_the_range_is_kept_from_page_to_page(gateway: Running) -> None:
    _, text = await gateway.page("/shop/events", range="7d", name="a")
    assert 'href="/shop/ledger?range=7d"' in text
    assert 'href="?name=a&amp;range=30d"' in text


async def test_one_project_is_shown_at_once_and_several_are_listed(gateway: Running) -> None:
    async with gateway.http.get(gateway.url + "/", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (302, "/shop/")
    keys.create(gateway.folder / "gateway", "other")
    status, text = await gateway.page("/")
    assert status == 200
    assert "2 projects" in text


async def test_a_silent_agent_and_unbalanced_books_are_said_in_words(gateway: Running) -> None:
    off = [{"book": "events", "source": "web", "output": "main", "received": 9, "delivered": 1}]
    await gateway.post(batch("ledger", off))
    gateway.clock.ms += 60_000
    _, text = await gateway.page("/shop/")
    assert "Two things need attention" in text
    assert "is silent" in text
    _, text = await gateway.page("/shop/ledger")
    assert "The books do not balance" in text
    assert "≠ Received" in text
    assert "off by 8" in text


async def test_a_problem_is_a_page_for_people(gateway: Running) -> None:
    status, text = await gateway.page("/nobody/")
    assert status == 404
    assert "there is no project" in text
    status, text = await gateway.page("/shop/events", range="2y")
    assert status == 422
    assert "range is not valid" in text


def test_a_gap_breaks_the_line_and_draws_no_bar() -> None:
    known = [(0, 10, 5.0), (10, 10, 6.0), (40, 10, 7.0)]
    path = charts._line(known, 0, 100, 0, 10)
    assert path.count("M") == 2
    bars = charts._bars(known, 0, 100, 10)
    assert bars.count("z") == 3


def test_the_smallest_part_of_a_book_can_be_seen() -> None:
    bar = charts.ledger_bar((("b-delivered", 999_999), ("hatch", 1), ("stripe", 0)), "books")
    widths = [float(width) for width in re.findall(r'width="([\d.]+)%"', bar)]
    assert len(widths) == 2
    assert min(widths) > 1
    assert sum(widths) == pytest.approx(100, abs=0.02)


def test_library_frames_are_folded_and_the_latest_call_comes_first() -> None:
    frames = [
        {"file": "wsgi.py", "line": 1, "module": "flask.app", "in_app": False},
        {"file": "views.py", "line": 2, "in_app": True, "code": "pay()", "pre": ["a", "b"], "post": ["c"]},
        {"file": "http.py", "line": 3, "module": "requests.api", "in_app": False},
        {"file": "ssl.py", "line": 4, "module": "ssl", "in_app": False},
    ]
    (section,) = stacks([{"type": "A", "frames": frames}])
    assert [run["own"] for run in section["runs"]] == [False, True, False]
    assert section["runs"][0]["label"] == "2 frames in ssl, requests"
    assert [line["n"] for line in section["runs"][1]["source"]] == [0, 1, 2, 3]
    assert [line["hit"] for line in section["runs"][1]["source"]] == [False, False, True, False]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (words.quantity_text(1_840, "ms"), "1.84\u00a0s"),
        (words.quantity_text(0.5), "0.5"),
        (words.quantity_text(1_234_567), "1,234,567"),
        (words.quantity_text(-3.0, "ms"), "−3\u00a0ms"),
        (words.quantity_text(1e300), "1e+300"),
        (words.change(150, 100), "+50\u00a0%"),
        (words.change(260, 100), "×\u00a02.6"),
        (words.change(5, 0), ""),
        (words.span(86_400_000), "1\u00a0d"),
        (words.span(38_000), "38\u00a0s"),
        (words.count(12_345_678), "12.3\u00a0million"),
        (words.plural(1, "event"), "1 event"),
    ],
)
def test_numbers_are_said_as_people_read_them(given: str, said: str) -> None:
    assert given == said


@pytest.mark.parametrize("t", [0, -5, 2**53 - 1, NOW])
def test_any_time_a_sender_claims_can_be_shown(t: int) -> None:
    assert "<time" in words.ago(t, NOW)
    assert "<time" in words.when(t, NOW)


async def test_a_filtered_list_of_events_does_not_claim_the_number_of_all(gateway: Running) -> None:
    await gateway.post(batch("events", [event(service="web"), event(service="jobs"), event(service="jobs")]))
    _, every = await gateway.page("/shop/events")
    assert "<h1>3 events in" in every
    _, some = await gateway.page("/shop/events?service=web")
    assert "<h1>Events that match in" in some
    assert "3 events" not in some
    _, none = await gateway.page("/shop/events?service=nowhere")
    assert "<h1>No event matches" in none


def test_a_chart_of_the_greatest_numbers_has_no_place_that_is_none() -> None:
    points = [(0, 10, 1.79e308), (10, 10, -1.79e308)]
    drawn = charts.lines([charts.Line("a", points)], 0, 20, "a") + charts.bars(points, 0, 20, "a")
    assert "nan" not in drawn
