"""An output that sends one batch a request gets small batches of events gathered into larger ones."""

import asyncio
import os
from pathlib import Path
from typing import Any

import apsw
import pytest

from sendoff_server.spool import Delivered, EventIn, OutputSpec, Sealed, Split, gathering
from sendoff_server.wire.batch import decode_body

from .conftest import NOW, OpenSpool, event

LATER = NOW + 3_600_000
ONE = OutputSpec("one", 10_000, gather=True)


def names(batch: Sealed) -> list[str]:
    return [line.split(b'"')[3].decode() for line in decode_body(batch.blob, "zstd")[0].lines]


async def test_small_batches_are_gathered_in_their_order_for_this_output_alone(open_spool: OpenSpool) -> None:
    spool = open_spool(ONE, "main")
    for number in range(1, 31):
        await spool.put([event(number, "shop" if number % 2 else "till")], [])
    (batch,) = await spool.lease("one", LATER)
    assert names(batch) == [f"e{number}" for number in range(1, 31)]
    assert (batch.lines, batch.n) == (30, 30)
    header = decode_body(batch.blob, "zstd")[0].header
    assert (header["batch"], header["count"], header["type"]) == (batch.id, 30, "events")
    assert len(await spool.lease("main", LATER)) == 30
    books = await spool.books()
    assert books.balance() == []
    assert {(book.source, book.output): book.pending for book in books.events} == {
        ("shop", "one"): 15,
        ("till", "one"): 15,
        ("shop", "main"): 15,
        ("till", "main"): 15,
    }
    await spool.settle("one", [Delivered(batch)])
    assert await spool.lease("one", LATER) == []
    assert {book.delivered for book in (await spool.books()).events if book.output == "one"} == {15}


async def test_what_was_gathered_comes_again_under_its_id_whatever_came_meanwhile(open_spool: OpenSpool) -> None:
    spool = open_spool(ONE)
    for number in range(3):
        await spool.put([event(number)], [])
    first = await spool.lease("one", LATER, max_batches=1)
    for number in range(3, 6):
        await spool.put([event(number)], [])
    assert await spool.lease("one", LATER, max_batches=1) == first
    spool.close()
    spool = open_spool(ONE)
    both = await spool.lease("one", LATER, max_batches=4)
    assert both[:1] == first
    assert [names(batch) for batch in both] == [["e0", "e1", "e2"], ["e3", "e4", "e5"]]
    assert len({batch.id for batch in both}) == 2


async def test_a_gathered_batch_has_at_most_a_thousand_events_and_a_mebibyte(open_spool: OpenSpool) -> None:
    spool = open_spool(ONE)
    for start in range(0, 2_400, 400):
        await spool.put([event(number) for number in range(start, start + 400)], [])
    await spool.put([EventIn(os.urandom(400_000).hex().encode(), "big", "shop")], [])
    await spool.put([EventIn(os.urandom(400_000).hex().encode(), "big", "shop")], [])
    assert [batch.lines for batch in await spool.lease("one", LATER)] == [800, 800, 801, 1]


async def test_behind_a_dead_destination_nothing_more_is_gathered_than_it_is_offered(open_spool: OpenSpool) -> None:
    spool = open_spool(ONE)
    for number in range(20):
        await spool.put([event(number)], [])
        offered = await spool.lease("one", LATER, max_batches=1)
    assert [names(batch) for batch in offered] == [["e0"]]
    await spool.settle("one", [Delivered(batch) for batch in offered])
    assert [len(names(batch)) for batch in await spool.lease("one", LATER, max_batches=1)] == [19]


async def test_halves_of_what_was_gathered_are_not_gathered_again(open_spool: OpenSpool) -> None:
    spool = open_spool(ONE)
    for number in range(4):
        await spool.put([event(number)], [])
    (root,) = await spool.lease("one", LATER)
    await spool.settle("one", [Split(root)])
    await spool.put([event(4)], [])
    assert [(batch.id, names(batch)) for batch in (await spool.lease("one", LATER))[:2]] == [
        (f"{root.id}/1-2", ["e0", "e1"]),
        (f"{root.id}/3-4", ["e2", "e3"]),
    ]


async def test_receipts_follow_events_that_are_gathered(open_spool: OpenSpool) -> None:
    spool = open_spool(ONE, "main")
    for number in range(3):
        one = event(number)
        await spool.put([EventIn(one.line, one.id, one.source, confirm=number == 1)], [])
    (batch,) = await spool.lease("one", LATER)

    async def states() -> dict[str, str]:
        receipt = await spool.receipt("e1")
        assert receipt is not None
        return {output["output"]: output["state"] for output in receipt["outputs"]}

    assert await states() == {"one": "pending", "main": "pending"}
    await spool.settle("one", [Delivered(batch)])
    assert await states() == {"one": "delivered", "main": "pending"}


async def test_a_damaged_batch_costs_itself_and_the_others_are_gathered(open_spool: OpenSpool, folder: Path) -> None:
    spool = open_spool(ONE)
    for number in range(4):
        await spool.put([event(number)], [])
    spool._connection.execute("UPDATE item SET checksum = zeroblob(16) WHERE item = 2")
    (batch,) = await spool.lease("one", LATER)
    assert names(batch) == ["e0", "e2", "e3"]
    books = await spool.books()
    assert books.balance() == []
    assert sum(books.events[0].lost.values()) == 1


async def test_a_disk_that_takes_no_new_batch_still_lets_what_is_there_be_offered(
    open_spool: OpenSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = open_spool(ONE)
    for number in range(3):
        await spool.put([event(number)], [])

    def full(*arguments: Any, **more: Any) -> None:
        raise apsw.FullError("the disk is full")

    monkeypatch.setattr("sendoff_server.spool.gathering.add_item", full)
    delivered = []
    while batches := await spool.lease("one", LATER, max_batches=1):
        delivered += [names(batch) for batch in batches]
        await spool.settle("one", [Delivered(batch) for batch in batches])
    assert delivered == [["e0"], ["e1"], ["e2"]]
    assert (await spool.books()).balance() == []


async def test_what_is_given_up_while_it_is_gathered_is_neither_offered_nor_counted_twice(
    open_spool: OpenSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = open_spool(ONE)
    for number in range(3):
        await spool.put([event(number)], [])
    loop = asyncio.get_running_loop()
    gather = gathering.gather

    def slow(*arguments: Any, **more: Any) -> Any:
        found = gather(*arguments, **more)
        asyncio.run_coroutine_threadsafe(spool._lose_items([1]), loop).result(20)
        return found

    monkeypatch.setattr(gathering, "gather", slow)
    assert await spool.lease("one", LATER) == []
    monkeypatch.setattr(gathering, "gather", gather)
    (batch,) = await spool.lease("one", LATER)
    assert names(batch) == ["e1", "e2"]
    books = await spool.books()
    assert books.balance() == []
    assert (books.events[0].pending, sum(books.events[0].lost.values())) == (2, 1)
