"""Receipts: what an event whose sender asked has come to, by output, through every fate."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sendoff_server.spool import (
    Dead,
    Delivered,
    EventIn,
    OutputSpec,
    Refusal,
    RefusedLine,
    Split,
    Spool,
    SpoolLimits,
)
from sendoff_server.spool.keeping import Purging

from .conftest import NOW, OpenSpool, event, within

LATER = NOW + 3_600_000


def confirmed(number: int) -> EventIn:
    return replace(event(number), confirm=True, client="c" * 32)


async def standing(spool: Spool, number: int) -> dict[str, tuple[str, str]]:
    """By output: state and detail."""
    found = await spool.receipt(f"e{number}")
    assert found is not None, f"nothing is known of e{number}"
    return {each["output"]: (each["state"], each["detail"]) for each in found["outputs"]}


async def test_a_receipt_is_kept_for_those_who_asked_and_for_nobody_else(open_spool: OpenSpool) -> None:
    spool = open_spool("main", OutputSpec("hook", 10_000, events=False))
    await spool.put([confirmed(1), event(2)], [])
    found = await spool.receipt("e1")
    assert found is not None
    assert (found["state"], found["client"], found["at"]) == ("spooled", "c" * 32, NOW)
    assert await standing(spool, 1) == {"main": ("pending", ""), "hook": ("not_routed", "")}
    assert await spool.receipt("e2") is None


async def test_a_receipt_says_when_each_output_had_it(open_spool: OpenSpool) -> None:
    now = NOW
    spool = open_spool("main", "hook", clock=lambda: now)
    await spool.put([confirmed(1)], [])
    (batch,) = await spool.lease("main", LATER)
    now += 5_000
    await spool.settle("main", [Delivered(batch)])
    found = await spool.receipt("e1")
    assert found is not None
    hook, main = found["outputs"]
    assert (main["state"], main["at"], main["item"]) == ("delivered", NOW + 5_000, None)
    assert (hook["state"], hook["item"]) == ("pending", batch.item)


async def test_a_refused_line_is_refused_with_the_destinations_words_and_its_neighbours_are_delivered(
    open_spool: OpenSpool,
) -> None:
    spool = open_spool("main")
    await spool.put([confirmed(1), event(2), confirmed(3)], [])
    (batch,) = await spool.lease("main", LATER)
    await spool.settle("main", [Delivered(batch, [RefusedLine(1, "invalid", "name: missing")])])
    assert await standing(spool, 1) == {"main": ("refused", "200 invalid: name: missing")}
    assert await standing(spool, 3) == {"main": ("delivered", "")}


async def test_a_receipt_follows_its_event_through_splits_to_a_dead_letter(open_spool: OpenSpool) -> None:
    spool = open_spool("main", "hook")
    await spool.put([confirmed(number) for number in (1, 2, 3, 4)], [])
    (root,) = await spool.lease("main", LATER)
    await spool.settle("main", [Split(root)])
    first, second = await spool.lease("main", LATER)
    await spool.settle("main", [Delivered(first), Split(second)])
    third, fourth = await spool.lease("main", LATER)
    await spool.settle("main", [Dead(third, 413, "refused", b"too large"), Delivered(fourth)])
    assert [(await standing(spool, number))["main"] for number in (1, 2, 3, 4)] == [
        ("delivered", ""),
        ("delivered", ""),
        ("refused", "413 refused: too large"),
        ("delivered", ""),
    ]
    assert {(await standing(spool, number))["hook"] for number in (1, 2, 3, 4)} == {("pending", "")}


async def test_what_the_agent_refused_is_known_with_the_reason(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    await spool.put([], [], [Refusal("e1", "c" * 32, "payload_invalid")])
    found = await spool.receipt("e1")
    assert found is not None
    assert (found["state"], found["reason"], found["outputs"]) == ("refused", "payload_invalid", [])


async def test_an_event_that_was_refused_and_is_taken_later_is_no_longer_said_to_be_refused(
    open_spool: OpenSpool,
) -> None:
    spool = open_spool("main")
    await spool.put([], [], [Refusal("e1", "c" * 32, "payload_invalid")])
    await spool.put([confirmed(1)], [])
    found = await spool.receipt("e1")
    assert found is not None
    assert (found["state"], found["reason"]) == ("spooled", "")
    assert await standing(spool, 1) == {"main": ("pending", "")}
    await spool.put([], [], [Refusal("e1", "c" * 32, "payload_invalid")])
    again = await spool.receipt("e1")
    assert again == found


async def test_an_event_that_comes_again_keeps_its_first_receipt(open_spool: OpenSpool) -> None:
    spool = open_spool("main")
    await spool.put([confirmed(1)], [])
    (batch,) = await spool.lease("main", LATER)
    await spool.settle("main", [Delivered(batch)])
    await spool.put([confirmed(1)], [])
    assert await standing(spool, 1) == {"main": ("delivered", "")}


async def test_what_waited_without_outputs_stands_with_those_that_come(open_spool: OpenSpool) -> None:
    spool = open_spool()
    await spool.put([confirmed(1)], [])
    assert await standing(spool, 1) == {"unassigned": ("pending", "")}
    spool.close()
    spool = open_spool("main", OutputSpec("numbers", 10_000, events=False))
    assert await standing(spool, 1) == {"main": ("pending", ""), "numbers": ("not_routed", "")}
    (batch,) = await spool.lease("main", LATER)
    await spool.settle("main", [Delivered(batch)])
    assert await standing(spool, 1) == {"main": ("delivered", ""), "numbers": ("not_routed", "")}


async def test_what_was_lost_while_there_were_no_outputs_stays_lost_when_they_come(open_spool: OpenSpool) -> None:
    spool = open_spool()
    await spool.put([confirmed(1)], [])
    await spool.purge(Purging("waiting", yes=True))
    await spool.put([confirmed(2)], [])
    spool.close()
    spool = open_spool("main")
    assert await standing(spool, 1) == {"unassigned": ("lost", "purged")}
    assert await standing(spool, 2) == {"main": ("pending", "")}


async def test_what_waited_for_a_removed_output_is_lost_and_says_why(open_spool: OpenSpool) -> None:
    spool = open_spool("main", "old")
    await spool.put([confirmed(1)], [])
    (batch,) = await spool.lease("main", LATER)
    await spool.settle("main", [Delivered(batch)])
    spool.close()
    assert await standing(open_spool("main"), 1) == {"main": ("delivered", ""), "old": ("lost", "output_removed")}


async def test_a_damaged_batch_is_lost_for_whom_it_waited(open_spool: OpenSpool, folder: Path) -> None:
    spool = open_spool("main")
    await spool.put([confirmed(1)], [])
    (batch,) = await spool.lease("main", LATER)

    def damage(transaction: Any) -> None:
        transaction.connection.execute("UPDATE item SET blob = x'00' WHERE item = ?", (batch.item,))

    await spool._writer.submit(damage)
    assert await spool.lease("main", LATER) == []
    state, reason = (await standing(spool, 1))["main"]
    assert (state, reason) in {("lost", "disk_failed"), ("lost", "damaged")}


async def test_receipts_go_after_their_days_of_running_time(open_spool: OpenSpool) -> None:
    ran = 0.0
    limits = replace(within(1 << 30), receipts_s=86_400.0)
    spool = open_spool("main", running=lambda: ran, limits=limits)
    await spool.put([confirmed(1)], [])
    ran += 86_000
    await spool.put([confirmed(2)], [])
    assert await standing(spool, 1) == {"main": ("pending", "")}
    ran += 1_000
    await spool.put([event(3)], [])
    assert await spool.receipt("e1") is None
    assert await standing(spool, 2) == {"main": ("pending", "")}
    (batch, *_) = await spool.lease("main", LATER)
    await spool.settle("main", [Delivered(batch)])
    assert (await spool.books()).balance() == []


async def test_receipts_never_fill_the_spool(open_spool: OpenSpool, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = 0.0
    monkeypatch.setattr(SpoolLimits, "receipts", 16)
    spool = open_spool("main", running=lambda: ran)
    await spool.put([confirmed(number) for number in range(100)], [])
    ran += 61
    await spool.put([confirmed(100)], [])
    kept = [number for number in range(101) if await spool.receipt(f"e{number}")]
    assert len(kept) == 16
    assert kept[-1] == 100
