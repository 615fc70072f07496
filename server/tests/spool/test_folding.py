"""Folds in the spool: pending while they are only counted, one line for all when their minute is over, then settled."""

import json
from pathlib import Path
from typing import Any

import apsw
import pytest

from sendoff_server.ledger import EventsBook
from sendoff_server.spool import Dead, Delivered, EventIn, OutputSpec, RefusedLine, Sealed, Split, Spool
from sendoff_server.spool.items import unseal
from sendoff_server.spool.keeping import Listing, Purging, Replaying, listing, purging
from sendoff_server.spool.offline import Files

from .conftest import NOW, OpenSpool, event


def folded(number: int, key: str = "k", source: str = "shop", line: bytes | None = None) -> EventIn:
    whole = json.dumps({"id": f"f{number}", "repeats": 0}, separators=(",", ":")).encode()
    return EventIn(whole if line is None else line, f"f{number}", source, fold=key)


async def books(spool: Spool) -> dict[tuple[str, str], EventsBook]:
    """By source and output; they balance at every look."""
    found = await spool.books()
    assert found.balance() == []
    return {(book.source, book.output): book for book in found.events}


def lines(batch: Sealed) -> list[Any]:
    return [json.loads(line) for line in unseal(batch.blob)[1]]


async def storm(spool: Spool, n: int = 100) -> Sealed:
    """Two events kept and ``n`` folded ones of two sources, then their minute is over; the batch of the folded ones."""
    await spool.put([event(1), event(2)], [])
    await spool.put([folded(1), folded(1, "other", "web")], [])
    await spool.put([folded(i, line=b"") for i in range(2, n + 1)], [])
    assert await spool.unfold(["k", "other"]) == 2
    [_, batch] = await spool.lease("main", NOW)
    return batch


async def test_the_first_stands_for_all_and_the_others_need_no_line(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    batch = await storm(spool)
    assert lines(batch) == [{"id": "f1", "repeats": 99}, {"id": "f1", "repeats": 0}]
    assert (batch.lines, batch.n) == (2, 101)


async def test_folds_are_pending_until_one_of_them_is_delivered_and_the_others_with_it(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    await spool.put([folded(i) for i in range(100)], [])
    book = (await books(spool))["shop", "main"]
    assert (book.received, book.pending) == (100, 100)
    await spool.unfold()
    book = (await books(spool))["shop", "main"]
    assert (book.received, book.pending) == (100, 100)
    [batch] = await spool.lease("main", NOW)
    await spool.settle("main", [Delivered(batch)])
    book = (await books(spool))["shop", "main"]
    assert (book.received, book.pending, book.delivered, book.folded) == (100, 0, 1, 99)


async def test_folds_of_a_minute_that_goes_on_stay(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    await spool.put([folded(1, "a"), folded(2, "b")], [])
    assert await spool.unfold(["a"]) == 1
    assert [lines(batch) for batch in await spool.lease("main", NOW)] == [[{"id": "f1", "repeats": 0}]]
    assert (await books(spool))["shop", "main"].pending == 2


async def test_a_batch_that_is_refused_is_dead_with_all_that_it_stands_for(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    batch = await storm(spool)
    await spool.settle("main", [Dead(batch, 413, "413", b"too large")])
    found = await books(spool)
    assert (found["shop", "main"].dead, found["web", "main"].dead) == (100, 1)


async def test_a_line_that_is_refused_is_dead_with_all_that_it_stands_for(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    batch = await storm(spool)
    await spool.settle("main", [Delivered(batch, [RefusedLine(1, "invalid", "x")])])
    found = await books(spool)
    assert (found["shop", "main"].dead, found["shop", "main"].folded) == (100, 0)
    assert (found["web", "main"].delivered, found["web", "main"].dead) == (1, 0)


async def test_the_halves_of_a_split_weigh_what_their_lines_stand_for(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    batch = await storm(spool)
    await spool.settle("main", [Split(batch)])
    [_, first, second] = await spool.lease("main", NOW)
    assert [(half.lines, half.n) for half in (first, second)] == [(1, 100), (1, 1)]
    await spool.settle("main", [Delivered(first), Dead(second, 413, "413", b"")])
    found = await books(spool)
    assert (found["shop", "main"].delivered, found["shop", "main"].folded) == (1, 99)
    assert found["web", "main"].dead == 1


async def test_what_an_earlier_run_had_folded_goes_out_at_the_start_for_the_outputs_that_it_had(
    open_spool: OpenSpool,
) -> None:
    spool = open_spool("main", "gone")
    await spool.put([folded(i) for i in range(10)], [])
    spool.close()
    spool = open_spool("main", "new")
    found = await books(spool)
    assert found["shop", "main"].pending == 10
    assert found["shop", "gone"].lost == {"output_removed": 10}
    assert ("shop", "new") not in found
    [batch] = await spool.lease("main", NOW)
    assert lines(batch) == [{"id": "f0", "repeats": 9}]


async def test_what_was_folded_while_there_was_no_output_is_handed_to_the_first_that_there_is(
    open_spool: OpenSpool,
) -> None:
    spool = open_spool()
    await spool.put([folded(i) for i in range(10)], [])
    assert (await books(spool))["shop", "unassigned"].pending == 10
    spool.close()
    spool = open_spool("main")
    book = (await books(spool))["shop", "main"]
    assert (book.received, book.pending) == (10, 10)


async def test_an_output_that_wants_no_events_gets_no_folds(open_spool: OpenSpool) -> None:
    spool = open_spool("main", OutputSpec("numbers", 10_000, events=False))
    await spool.put([folded(i) for i in range(10)], [])
    found = await books(spool)
    assert (found["shop", "main"].pending, found["shop", "numbers"].not_routed) == (10, 10)
    await spool.unfold()
    found = await books(spool)
    assert (found["shop", "main"].pending, found["shop", "numbers"].pending) == (10, 0)


@pytest.mark.parametrize("line", [b"", b"\xff", b"[1]"])
async def test_a_fold_whose_line_is_damaged_is_lost_and_counted(open_spool: OpenSpool, line: bytes) -> None:
    spool = open_spool("main")
    await spool.put([folded(1, line=line), folded(2, line=line)], [])
    await spool.unfold()
    assert (await books(spool))["shop", "main"].lost == {"damaged": 2}


async def test_a_storm_takes_the_room_of_one_line(open_spool: OpenSpool, folder: Path) -> None:
    spool = open_spool("main")
    before = (await spool.stats())["used_bytes"]
    for piece in range(20):
        await spool.put([folded(1_000 * piece + i) for i in range(1_000)], [])
    found = await spool.stats()
    assert found["folding"] == {"lines": 1, "exceptions": 20_000}
    assert found["used_bytes"] - before < 64 * 1024


async def test_a_dead_letter_that_stands_for_others_weighs_the_same_when_it_is_sent_again(
    open_spool: OpenSpool,
) -> None:
    spool = open_spool("main")
    batch = await storm(spool)
    await spool.settle("main", [Delivered(batch, [RefusedLine(1, "invalid", "x")])])
    [letter] = (await spool.stats())["dead_letters"]
    await spool.replay(Replaying(numbers=[letter["dead"]]))
    found = await books(spool)
    assert (found["shop", "main"].dead, found["shop", "main"].pending) == (0, 102)  # with the two that still wait
    again = (await spool.lease("main", NOW))[-1]
    assert (again.lines, again.n) == (1, 100)
    await spool.settle("main", [Delivered(again)])
    found = await books(spool)
    assert (found["shop", "main"].delivered, found["shop", "main"].folded) == (1, 99)


@pytest.mark.parametrize("bits", [b'{"id":"f\xff","repeats":0}', b'{"id":"f9","repeats":0}', b"[1]", b""])
async def test_a_line_that_is_not_what_was_stored_never_stands_for_all_and_the_agent_starts(
    bits: bytes, open_spool: OpenSpool, folder: Path
) -> None:
    spool = open_spool("main")
    await spool.put([folded(1), folded(2), folded(3, "other")], [])
    spool.close()
    connection = apsw.Connection(str(folder / "spool.db"))
    good = b'{"id":"f1","repeats":0}'
    connection.execute(
        "UPDATE fold SET line = CAST(? || substr(line, ?) AS BLOB) WHERE key = 'k'", (bits, len(good) + 1)
    )
    connection.close()
    spool = open_spool("main")
    book = (await books(spool))["shop", "main"]
    assert (book.pending, dict(book.lost)) == (1, {"damaged": 2})
    assert [lines(batch) for batch in await spool.lease("main", NOW)] == [[{"id": "f3", "repeats": 0}]]


async def folding(spool: Spool, output: str | None = None) -> list[tuple[str, int, int]]:
    found = await spool.look(lambda connection: listing(connection, Listing(output), 0))
    return [(each["output"], each["lines"], each["events"]) for each in found["totals"]["folding"]]


async def test_what_is_being_folded_is_listed_so_that_all_that_is_pending_is(open_spool: OpenSpool) -> None:
    spool = open_spool("main", "hook", OutputSpec("numbers", 10_000, events=False))
    await spool.put([folded(i) for i in range(5)] + [folded(9, "other")], [])
    assert await folding(spool) == [("hook", 2, 6), ("main", 2, 6)]
    assert await folding(spool, "main") == [("main", 2, 6)]
    assert await folding(spool, "numbers") == []
    await spool.unfold()
    assert await folding(spool) == []


async def test_folds_are_purged_with_all_that_waits_and_what_still_comes_in_their_minute_is_counted(
    open_spool: OpenSpool,
) -> None:
    spool = open_spool("main", "hook")
    await spool.put([folded(i) for i in range(5)], [])
    would = await spool.purge(Purging("waiting"))
    assert (would["gone"]["folds"], would["gone"]["events"]) == (1, 10)
    assert (await books(spool))["shop", "main"].pending == 5
    gone = await spool.purge(Purging("waiting", yes=True))
    assert gone["gone"] == would["gone"]
    for output in ("main", "hook"):
        book = (await books(spool))["shop", output]
        assert (book.pending, dict(book.lost)) == (0, {"purged": 5})
    assert await folding(spool) == []
    assert (await spool.stats())["folding"] == {"lines": 0, "exceptions": 0}
    await spool.put([folded(i, line=b"") for i in range(5, 8)], [])  # they name a fold that has its line
    assert await spool.unfold(["k"]) == 1
    (batch,) = await spool.lease("main", NOW)
    assert lines(batch) == [{"id": "f0", "repeats": 2}]
    assert (await books(spool))["shop", "main"].pending == 3


async def test_a_fold_that_was_purged_and_got_no_more_leaves_nothing(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    await spool.put([folded(1)], [])
    await spool.purge(Purging("waiting", yes=True))
    assert await spool.unfold() == 0
    assert await spool.lease("main", NOW) == []
    assert (await books(spool))["shop", "main"].lost == {"purged": 1}


async def test_folds_of_several_outputs_are_not_purged_for_one_of_them_nor_by_the_numbers_of_others(
    open_spool: OpenSpool,
) -> None:
    spool = open_spool("main", "hook")
    await spool.put([folded(1)], [])
    for wish in (Purging("waiting", "main", yes=True), Purging("waiting", numbers=[1], yes=True)):
        assert (await spool.purge(wish))["gone"]["folds"] == 0
    assert (await books(spool))["shop", "main"].pending == 1


async def test_folds_of_a_run_that_was_killed_are_listed_and_purged_on_the_files(
    open_spool: OpenSpool, folder: Path
) -> None:
    spool = open_spool("main")
    await spool.put([folded(1), folded(2)], [])
    spool.close()
    files = Files(folder)
    try:
        assert files.look(lambda c: listing(c, Listing(), 0))["totals"]["folding"][0]["events"] == 2
        wish = Purging("waiting", "main", yes=True)
        assert files.change(lambda transaction: purging(transaction, wish))["gone"]["events"] == 2
    finally:
        files.close()
    spool = open_spool("main")
    assert (await books(spool))["shop", "main"].lost == {"purged": 2}
    assert await spool.lease("main", NOW) == []
