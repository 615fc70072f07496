"""All outputs together: none holds up another, the ledger goes out, stopping drains and gives up in time."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sendoff_server.aggregate import Limits, make_core
from sendoff_server.delivery import Delivery
from sendoff_server.gateway import Gateway, keys
from sendoff_server.ledger import Books
from sendoff_server.outputs import build
from sendoff_server.settings import OutputSettings, Settings
from sendoff_server.spool import EventIn, Spool, SpoolFailed
from server.tests.outputs.destination import KEY, Destination, status

from .conftest import event
from .test_worker import numbers, put, until


def settings(url: str, type: str = "gateway", key: str = KEY, **more: object) -> OutputSettings:
    return OutputSettings.model_validate({"type": type, "url": url, "key": key, "timeout": 5, **more})


@pytest.fixture
async def delivery(spool: Spool, destination: Destination) -> AsyncIterator[Delivery]:
    outputs = [
        build("main", settings(destination.url)),
        build("hook", settings(destination.url + "/hook?token=hidden", "http")),
    ]
    made = Delivery(spool, outputs, chance=random.Random(1))
    yield made
    await made.stop(0)


async def test_what_is_put_is_delivered_when_delivery_is_woken(
    delivery: Delivery, spool: Spool, destination: Destination
) -> None:
    delivery.start()
    await put(spool, "a", "b")
    delivery.wake()
    async with asyncio.timeout(10):
        for output in ("main", "hook"):
            while await numbers(spool, output) != (2, 0, 0):
                await asyncio.sleep(0.01)


async def test_an_output_that_hangs_holds_up_no_other(
    delivery: Delivery, spool: Spool, destination: Destination
) -> None:
    await put(spool, "a")

    async def hang_as_gateway(request, batches):  # type: ignore[no-untyped-def]
        if request.path == "/v1/batches":
            return await destination.hang(request, batches)
        return await destination.store(request, batches)

    destination.always = hang_as_gateway
    delivery.start()
    await asyncio.wait_for(destination.hanging.wait(), 5)
    for number in range(5):
        await spool.put([event(100 + number)], [])
        delivery.wake()
    await until(lambda: delivery.status()[1]["lines"] == 6)
    assert delivery.status()[0]["lines"] == 0


async def test_stopping_delivers_what_is_there(delivery: Delivery, spool: Spool, destination: Destination) -> None:
    delivery.start()
    await put(spool, *["a"] * 200)
    await delivery.stop(10)
    assert await numbers(spool, "main") == (200, 0, 0)
    assert await numbers(spool, "hook") == (200, 0, 0)
    assert destination.ledgers[-1].lines != []


async def test_stopping_comes_to_its_end_though_the_disk_does_not_give_the_books_back(
    spool: Spool, destination: Destination
) -> None:
    async def books() -> Books:
        raise SpoolFailed("the disk reports an input/output error")

    delivery = Delivery(spool, [build("main", settings(destination.url))], books=books)
    delivery.start()
    await put(spool, "a")
    await delivery.stop(10)
    assert await numbers(spool, "main") == (1, 0, 0)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "send ledgers"]


async def test_stopping_gives_up_in_time_and_loses_nothing(
    delivery: Delivery, spool: Spool, destination: Destination, caplog: pytest.LogCaptureFixture
) -> None:
    await put(spool, "a")
    destination.always = destination.hang
    delivery.start()
    await asyncio.wait_for(destination.hanging.wait(), 5)
    began = asyncio.get_running_loop().time()
    await delivery.stop(0.2)
    assert asyncio.get_running_loop().time() - began < 2
    assert "stays in the spool" in caplog.text
    assert await numbers(spool, "main") == (0, 1, 0)


async def test_what_was_answered_while_another_request_hangs_is_not_sent_again_after_a_stop(
    delivery: Delivery, spool: Spool, destination: Destination
) -> None:
    await put(spool, "a", "b", "c")

    async def hang_once(request, batches):  # type: ignore[no-untyped-def]
        hanging = destination.hanging.is_set() or request.path != "/hook"
        return await (destination.store if hanging else destination.hang)(request, batches)

    destination.always = hang_once
    delivery.start()
    async with asyncio.timeout(3):  # the one that hangs is given up after five seconds
        await until(lambda: delivery.status()[1]["lines"] == 2)
    await delivery.stop(0.2)
    assert await numbers(spool, "hook") == (2, 1, 0)


async def test_the_ledger_goes_to_gateways_that_answer_with_a_rising_ordinal(
    delivery: Delivery, spool: Spool, destination: Destination
) -> None:
    await put(spool, "a")
    await delivery.send_ledger()
    await delivery.send_ledger()
    first, second = (ledger.header for ledger in destination.ledgers)
    assert first["ordinal"] < second["ordinal"] < 2**53
    assert (first["type"], first["agent"], first["host"]) == ("ledger", spool.agent_id, "web-1")
    assert b'"book":"events"' in destination.ledgers[0].lines[0]


async def test_a_destination_that_asked_to_be_left_alone_gets_no_ledger(
    delivery: Delivery, spool: Spool, destination: Destination
) -> None:
    await put(spool, "a")
    destination.always = status(503, Retry_After="60")
    delivery.start()
    await until(lambda: delivery.status()[0]["state"] == "waiting")
    await delivery.send_ledger()
    assert destination.ledgers == []


async def test_status_shows_no_secret(delivery: Delivery, destination: Destination) -> None:
    shown = repr(delivery.status())
    assert "hidden" not in shown
    assert KEY not in shown
    assert delivery.status()[1]["url"] == f"{destination.url}/hook"


async def test_a_real_gateway_stores_events_snapshots_and_the_ledger(spool: Spool, tmp_path: Path) -> None:
    """Ours against ours: what the spool seals and the delivery sends is what the gateway takes."""
    gateway = Gateway(Settings.model_validate({"gateway": {"listen": "127.0.0.1:0", "data_dir": str(tmp_path)}}))
    await gateway.start()
    try:
        key = keys.create(tmp_path / "gateway", "shop")
        delivery = Delivery(spool, [build("main", settings(f"http://{gateway.addresses['http']}", key=key))])
        core = make_core(Limits(), (), (spool.epoch, 1))
        core.feed(b"sold:2|c\nlatency:12:15|ms|#page:cart\nusers:u1|s\ntemp:20|g", "shop", [], 1_000_000)
        await spool.journal(core.rotate(1_005_000))
        await spool.put([real_event(1), real_event(2)], [])
        delivery.start()
        delivery.wake()
        await until(lambda: delivery.status()[0]["batches"] == 2)
        await delivery.send_ledger()
        await delivery.stop(5)
        (book,) = (book for book in (await spool.books()).points_out if book.output == "main")
        assert (book.journaled, book.delivered) == (5, 5)
        assert await numbers(spool, "main") == (2, 0, 0)
        assert (await spool.stats())["dead_letters"] == []
    finally:
        await gateway.stop(1)


def real_event(number: int) -> EventIn:
    identity = f"0192f0c1-2345-7{number:03}-8abc-0123456789ab"
    line = {
        "id": identity,
        "kind": "event",
        "t": 1_000_000,
        "service": "shop",
        "env": "test",
        "release": "1",
        "host": "web-1",
        "client": "c" * 32,
        "seq": number,
        "name": "sale",
        "user": None,
        "tags": {},
        "fields": {"n": number},
    }
    return EventIn(json.dumps(line).encode(), identity, "shop")
