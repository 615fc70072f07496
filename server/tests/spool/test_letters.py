"""Dead letters are sent again: under which id, counted how, and when that is refused."""

import json
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import pytest

from sendoff_server.spool import Dead, Delivered, EventIn, RefusedLine, Sealed, Split, Spool
from sendoff_server.spool.keeping import Replaying
from sendoff_server.wire.batch import Batch, decode_body, encode_batch
from server.tests.gateway.support import Running, counter, running

from .conftest import NOW, OpenSpool, event, rotation

LATER = NOW + 3_600_000
DAY = 86_400_000


def decoded(batch: Sealed) -> Batch:
    (found,) = decode_body(batch.blob, "zstd")
    return found


async def balanced(spool: Spool) -> dict[str, tuple[int, int, int, int]]:
    """By output: received, delivered, pending and dead, of events and points together."""
    books = await spool.books()
    assert books.balance() == []
    found: dict[str, tuple[int, int, int, int]] = {}
    for book in books.events:
        before = found.get(book.output, (0, 0, 0, 0))
        more = (book.received, book.delivered, book.pending, book.dead)
        found[book.output] = tuple(map(sum, zip(before, more, strict=True)))  # type: ignore[assignment]
    for out in books.points_out:
        before = found.get(out.output, (0, 0, 0, 0))
        more = (out.journaled, out.delivered, out.pending, out.dead)
        found[out.output] = tuple(map(sum, zip(before, more, strict=True)))  # type: ignore[assignment]
    return found


async def replay(spool: Spool, **wish: Any) -> tuple[list[int], list[str]]:
    answer = await spool.replay(Replaying(**({"every": True} | wish)))
    return [each["dead"] for each in answer["replayed"]], [each["why"] for each in answer["refused"]]


async def test_a_whole_batch_is_sent_again_under_its_id_and_the_books_balance_at_each_step(
    open_spool: OpenSpool,
) -> None:
    spool = open_spool("main")
    await spool.put([event(1), event(2, "till")], [])
    (batch,) = await spool.lease("main", LATER)
    await spool.settle("main", [Dead(batch, 400, "refused", b"no")])
    assert await balanced(spool) == {"main": (2, 0, 0, 2)}
    assert await replay(spool) == ([1], [])
    assert await balanced(spool) == {"main": (2, 0, 2, 0)}
    (again,) = await spool.lease("main", LATER)
    assert (again.id, again.blob) == (batch.id, batch.blob)
    await spool.settle("main", [Delivered(again)])
    assert await balanced(spool) == {"main": (2, 2, 0, 0)}
    assert (await spool.stats())["dead_letters"] == []


async def test_a_refused_event_goes_under_another_id_since_its_batch_is_stored(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    await spool.put([event(1), event(2, "till"), event(3)], [])
    (batch,) = await spool.lease("main", LATER)
    await spool.settle("main", [Delivered(batch, [RefusedLine(2, "invalid", "name: missing")])])
    assert await balanced(spool) == {"main": (3, 2, 0, 1)}
    assert await replay(spool) == ([1], [])
    (again,) = await spool.lease("main", LATER)
    assert again.id != batch.id
    assert decoded(again).lines == [event(2, "till").line]
    assert decoded(again).id == again.id
    assert {book.source: book.pending for book in (await spool.books()).events} == {"shop": 0, "till": 1}
    assert await balanced(spool) == {"main": (3, 2, 1, 0)}


async def test_a_batch_whose_every_line_was_refused_goes_under_another_id_too(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    await spool.put([event(1)], [])
    (batch,) = await spool.lease("main", LATER)
    await spool.settle("main", [Delivered(batch, [RefusedLine(1, "invalid", "")])])
    await replay(spool)
    (again,) = await spool.lease("main", LATER)
    assert again.id != batch.id


async def test_lines_refused_again_and_again_never_have_an_id_twice_and_can_be_split(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    await spool.put([event(number) for number in range(8)], [])
    (root,) = await spool.lease("main", LATER)
    await spool.settle("main", [Split(root)])
    first, second = await spool.lease("main", LATER)
    await spool.settle("main", [Delivered(first), Delivered(second)])
    seen = {root.id, first.id, second.id}
    await spool.put([event(number) for number in range(8, 16)], [])
    (batch,) = await spool.lease("main", LATER)
    await spool.settle("main", [Split(batch)])
    half, other = await spool.lease("main", LATER)
    await spool.settle("main", [Delivered(other)])
    seen |= {batch.id, half.id, other.id}
    for _ in range(3):
        await spool.settle("main", [Delivered(half, [RefusedLine(1, "invalid", ""), RefusedLine(2, "invalid", "")])])
        await replay(spool)
        (half,) = await spool.lease("main", LATER)
        assert half.id not in seen
        assert len(half.id) < 100
        seen.add(half.id)
    await spool.settle("main", [Split(half)])
    halves = {each.id for each in await spool.lease("main", LATER)}
    assert not halves & seen
    assert (await balanced(spool))["main"][3] == 0


@pytest.fixture
async def gateway(tmp_path: Path) -> Any:
    async with running(tmp_path / "g") as made:
        yield made


async def test_lines_of_a_stored_snapshot_are_no_overlap_at_a_real_gateway_and_count_once(
    open_spool: OpenSpool, gateway: Running
) -> None:
    spool = open_spool("main")
    made = NOW + 1_000
    second = rotation(spool, 1)
    lines = [
        json.dumps(counter(name, made - 1_000, 3, length=1_000, n=3) | {"ord": [spool.epoch, 1]}).encode()
        for name in ("bad", "good")
    ]
    await spool.journal(changed(second, lines=lines, points={"shop": 6}))
    (batch,) = await spool.lease("main", LATER)
    whole = decoded(batch)
    spoilt = [b'{"name": 1}' if b'"bad"' in line else line for line in whole.lines]
    number = spoilt.index(b'{"name": 1}') + 1
    status, answer = await gateway.post(encode_batch(whole.header, spoilt))
    assert status == 200
    assert [line["line"] for line in answer["results"][0]["refused"]] == [number]
    await spool.settle("main", [Delivered(batch, [RefusedLine(number, "invalid", "name")])])
    assert await balanced(spool) == {"main": (6, 3, 0, 3)}
    assert await replay(spool) == ([1], [])
    (again,) = await spool.lease("main", LATER)
    assert decoded(again).header["covers"][:3] == whole.header["covers"][:3]
    for expected in ("stored", "duplicate"):
        status, answer = await gateway.post(again.blob)
        assert (status, answer["results"][0]["status"]) == (200, expected)
    for name in ("bad", "good"):
        found = await gateway.get("metrics/total", name=name, **{"from": NOW - 1_000, "to": NOW + 60_000})
        assert [row["sum"] for row in found["totals"]] == [3]
    await spool.settle("main", [Delivered(again)])
    assert await balanced(spool) == {"main": (6, 6, 0, 0)}


async def test_what_is_older_than_repeats_are_recognised_asks_for_force(open_spool: OpenSpool) -> None:
    now = NOW
    spool = open_spool("main", clock=lambda: now)
    await spool.put([event(1)], [])
    (batch,) = await spool.lease("main", LATER)
    await spool.settle("main", [Dead(batch, 400, "refused", b"")])
    await spool.remember("main", 86_400)
    now += 2 * DAY
    done, (why,) = await replay(spool)
    assert done == []
    assert "older than main recognises repeats (1 days)" in why
    assert "--force" in why
    assert await balanced(spool) == {"main": (1, 0, 0, 1)}
    assert await replay(spool, force=True) == ([1], [])


async def test_a_letter_of_an_output_that_is_gone_stays_until_it_is_sent_to_another(open_spool: OpenSpool) -> None:
    spool = open_spool("old")
    await spool.put([event(1)], [])
    (batch,) = await spool.lease("old", LATER)
    await spool.settle("old", [Dead(batch, 400, "refused", b"")])
    spool.close()
    spool = open_spool("main")
    done, (why,) = await replay(spool)
    assert (done, why) == ([], "dead/1: there is no output old in the settings; --to sends it to another (main)")
    assert await replay(spool, to="main") == ([1], [])
    assert await balanced(spool) == {"old": (1, 0, 0, 1), "main": (1, 0, 1, 0)}


async def test_lines_of_metrics_go_to_another_output_by_force_only(open_spool: OpenSpool) -> None:
    spool = open_spool("main", "hook")
    await spool.journal(rotation(spool, 1))
    (batch,) = await spool.lease("main", LATER)
    await spool.settle("main", [Delivered(batch, [RefusedLine(1, "invalid", "")])])
    done, (why,) = await replay(spool, to="hook")
    assert done == []
    assert "would count them twice" in why
    assert await replay(spool, to="hook", force=True) == ([1], [])
    assert (await balanced(spool))["hook"] == (6, 0, 6, 0)


async def test_lines_of_metrics_that_are_refused_once_more_still_go_elsewhere_by_force_only(
    open_spool: OpenSpool,
) -> None:
    spool = open_spool("main", "hook")
    await spool.journal(rotation(spool, 1))
    (batch,) = await spool.lease("main", LATER)
    await spool.settle("main", [Delivered(batch, [RefusedLine(1, "invalid", "")])])
    assert await replay(spool) == ([1], [])
    (alone,) = await spool.lease("main", LATER)
    await spool.settle("main", [Dead(alone, 400, "refused", b"")])
    done, (why,) = await replay(spool, to="hook")
    assert done == []
    assert "would count them twice" in why


async def test_a_damaged_letter_stays(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    await spool.put([event(1)], [])
    (batch,) = await spool.lease("main", LATER)
    await spool.settle("main", [Dead(batch, 400, "refused", b"")])
    await spool._writer.submit(lambda transaction: transaction.connection.execute("UPDATE dead SET blob = x'00'"))
    done, (why,) = await replay(spool)
    assert (done, why) == ([], "dead/1: it is damaged on the disk and cannot be sent; purge it")


@pytest.mark.parametrize("status", [200, 422])
async def test_letters_of_an_older_layout_are_sent_again_and_the_books_balance(
    open_spool: OpenSpool, status: int
) -> None:
    spool = open_spool("main")
    line = json.dumps({"id": "e1", "service": "till"}).encode()
    await spool.put([EventIn(line, "e1", "till")], [])
    await spool.journal(rotation(spool, 1))
    batches = await spool.lease("main", LATER)
    await spool.settle("main", [Dead(batch, status, "refused", b"") for batch in batches])

    def age(transaction: Any) -> None:
        transaction.connection.execute("UPDATE dead SET sources = '', epoch = 0, first = 0, window = 0")

    await spool._writer.submit(age)
    assert await replay(spool) == ([1, 2], [])
    assert (await balanced(spool))["main"][2] == 4
    again = await spool.lease("main", LATER)
    assert ([each.id for each in again] == [each.id for each in batches]) == (status != 200)
    await spool.settle("main", [Delivered(batch) for batch in again])
    assert (await balanced(spool))["main"][1] == 4


async def test_a_replayed_event_with_a_receipt_waits_again_and_then_is_delivered(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    await spool.put([changed(event(1), confirm=True), event(2)], [])
    (batch,) = await spool.lease("main", LATER)
    await spool.settle("main", [Delivered(batch, [RefusedLine(1, "invalid", "")])])

    async def state() -> str:
        found = await spool.receipt("e1")
        assert found is not None
        return str(found["outputs"][0]["state"])

    assert await state() == "refused"
    await replay(spool)
    assert await state() == "pending"
    (again,) = await spool.lease("main", LATER)
    await spool.settle("main", [Delivered(again)])
    assert await state() == "delivered"


async def test_what_is_refused_while_all_is_replayed_is_not_taken_up_again(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    for number in range(30):
        await spool.put([event(number)], [])
        (batch,) = await spool.lease("main", LATER)
        await spool.settle("main", [Dead(batch, 400, "refused", b"")])
    first = await spool.replay(Replaying(every=True))
    assert first["more"]
    for batch in await spool.lease("main", LATER):
        await spool.settle("main", [Dead(batch, 400, "refused", b"")])
    second = await spool.replay(Replaying(every=True, after=first["after"], until=first["until"]))
    assert not second["more"]
    assert len(first["replayed"]) + len(second["replayed"]) == 30
