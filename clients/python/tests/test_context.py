"""User, tags and request follow the work they belong to, and nothing else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

import sendoff
from sendoff.content.scrub import HIDDEN
from sendoff.testing import Recorder, recording


@pytest.fixture
def sent() -> Iterator[Recorder]:
    with recording() as recorder:
        yield recorder


async def test_each_asyncio_task_has_its_own(sent: Recorder) -> None:
    async def serve(number: int) -> None:
        with sendoff.context(request=number):
            sendoff.set_user(id=number)
            await asyncio.sleep(0.001 * (5 - number))
            sendoff.event("served", number=number)

    await asyncio.gather(*(serve(number) for number in range(5)))
    assert len(sent.events) == 5
    for event in sent.events:
        number = event["fields"]["number"]
        assert event["user"] == {"id": number}
        assert event["tags"] == {"request": str(number)}
    sendoff.event("outside")
    assert "user" not in sent.one("outside")


def test_a_block_ends_what_was_set_in_it(sent: Recorder) -> None:
    with sendoff.context(job="import"):
        sendoff.tag(step=2)
        sendoff.set_user(id=7, password="x")
        with sendoff.context(row=9):
            sendoff.event("inner")
        sendoff.event("middle")
    sendoff.event("outer")
    assert sent.one("inner")["tags"] == {"job": "import", "step": "2", "row": "9"}
    assert sent.one("middle")["tags"] == {"job": "import", "step": "2"}
    assert sent.one("middle")["user"] == {"id": 7, "password": "[scrubbed]"}
    assert set(sent.one("outer")) == {"kind", "id", "name"}


def test_threads_do_not_see_each_other(sent: Recorder) -> None:
    ready = threading.Barrier(2)

    def work(number: int) -> None:
        with sendoff.context(thread=number):
            ready.wait()
            sendoff.event("x", number=number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(event["tags"] == {"thread": str(event["fields"]["number"])} for event in sent.events)


async def test_timers_measure_blocks_functions_and_coroutines(sent: Recorder) -> None:
    @sendoff.timer("sync", kind="f")
    def slow(value: int) -> int:
        return value + 1

    @sendoff.timer("async")
    async def slower(value: int) -> int:
        await asyncio.sleep(0.01)
        return value + 1

    @sendoff.timer("failing")
    def fail() -> None:
        raise ValueError

    with sendoff.timer("block"):
        assert slow(1) == 2
    assert list(await asyncio.gather(slower(1), slower(2))) == [2, 3]
    with pytest.raises(ValueError):
        fail()
    assert slow.__name__ == "slow"
    assert [point.kind for point in sent.points] == ["ms"] * 5
    assert len(sent.find("sync", kind="f")) == 1
    assert all(8 < float(point.value) < 5_000 for point in sent.find("async"))
    assert len(sent.find("failing")) == len(sent.find("block")) == 1


def test_bound_instruments_bound_before_init_record_after_it() -> None:
    counter = sendoff.counter("orders", country="PL")
    gauge = sendoff.gauge_of("level")
    sizes = sendoff.distribution_of("size")
    took = sendoff.timing_of("took")
    users = sendoff.unique_of("users")
    counter.increment()
    with recording() as sent:
        counter.increment(3)
        gauge.set(2)
        sizes.record(1.5)
        took.record(7)
        with took.timer():
            pass
        users.add("u1")
        assert sent.total("orders", country="PL") == 3
        assert [point.kind for point in sent.points] == ["c", "g", "d", "ms", "ms", "s"]


def test_everything_is_a_no_op_before_init() -> None:
    sendoff.increment("x")
    sendoff.gauge("x", 1)
    sendoff.distribution("x", 1)
    sendoff.timing("x", 1)
    sendoff.unique("x", 1)
    with sendoff.timer("x"):
        pass
    assert sendoff.event("x") is None
    assert sendoff.capture_exception(ValueError()) is None
    sendoff.set_user(id=1)
    sendoff.set_user()
    assert sendoff.flush() is True
    sendoff.close()
    assert sendoff.stats() == {"dropped": {}}


def test_a_recorder_says_what_was_sent(sent: Recorder) -> None:
    sendoff.increment("orders", 2, country="PL", worker=1)
    sendoff.increment("orders", country="PL", worker=2)
    sendoff.increment("orders", rate=0.001)
    assert sent.total("orders", country="PL") == 3
    assert sent.total("orders") == 4
    with pytest.raises(AssertionError, match="0 times 'x'"):
        sent.one("x")


def test_a_request_is_scrubbed_and_made_plain_like_everything_else(sent: Recorder) -> None:
    class Route:
        def __str__(self) -> str:
            raise AssertionError("no code of the application's is to be run")

    headers = {"Authorization": "Basic abc", "Accept": "text/html", "X-Note": "token=abcdef", "X-Many": ["a", 1]}
    sendoff.set_request(
        method="GET", url="https://ada:hunter2@shop/orders", route=Route(), query="page=2&password=x", headers=headers,
        remote=7, other={"secret": 1},
    )  # fmt: skip
    assert sendoff.capture_exception(ValueError("x")) is not None
    assert sent.exceptions[0]["request"] == {
        "method": "GET",
        "url": f"https://{HIDDEN}@shop/orders",
        "route": f"<{__name__}.test_a_request_is_scrubbed_and_made_plain_like_everything_else.<locals>.Route>",
        "query": f"page=2&password={HIDDEN}",
        "headers": {"Authorization": HIDDEN, "Accept": "text/html", "X-Note": f"token={HIDDEN}", "X-Many": ["a", 1]},
        "remote": "7",
        "other": {"secret": HIDDEN},
    }
    sendoff.set_request(headers="none", query={"a": 1}, url=None)
    assert sendoff.capture_exception(ValueError("x")) is not None
    assert sent.exceptions[1]["request"] == {"query": "<dict>"}, "the agent takes texts and an object only"


def test_a_request_too_large_is_left_out_rather_than_the_exception(sent: Recorder) -> None:
    sendoff.set_request(url="http://shop/", body=["x" * 1_000] * 400)
    assert sendoff.capture_exception(ValueError("x"), fields={"kept": 1}) is not None
    assert "request" not in sent.exceptions[0]
    assert sent.exceptions[0]["fields"] == {"kept": 1}
