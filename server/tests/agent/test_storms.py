"""Storms of one exception: which are folded, and that a storm neither fills the spool nor hides anything else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sendoff_server.intake.storms import Storms
from sendoff_server.settings import Settings
from sendoff_server.spool import SpoolFailed
from sendoff_server.wire.frame import encode_unit

from .support import EVENTS, FrameClient, frame, running, settings, status, stored, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from sendoff_server.agent import Agent

A = "a" * 32
STORM, OTHER = "1" * 32, "2" * 32
KIND = ("shop", "shop", "prod", STORM)


def exception(fingerprint: str = STORM, **more: Any) -> dict[str, Any]:
    chain = [{"type": "KeyError", "message": "sku", "frames": [{"file": "shop.py", "line": 3}]}]
    return {"name": "KeyError", "fingerprint": fingerprint, "chain": chain, **more}


def limited(folder: Path, storm: int) -> Settings:
    chosen = settings(folder)
    return chosen.model_copy(update={"spool": chosen.spool.model_copy(update={"storm": storm})})


class Clock:
    """Running time that a test moves on."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def kept(storms: Storms, n: int, now: float, kind: tuple[str, str, str, str] = KIND) -> int:
    """How many of so many are kept by themselves; all others bring a line."""
    folds = [storms.count(kind, now) for _ in range(n)]
    for fold in folds:
        if fold:
            fold.has_line = True
    return folds.count(None)


def test_the_first_of_a_minute_are_kept_and_the_next_minute_begins_anew() -> None:
    storms = Storms(3, 1)
    assert [kept(storms, 10, now) for now in (0.0, 59.9, 60.0, 119.0, 200.0)] == [3, 0, 3, 0, 3]


def test_each_source_service_environment_and_fingerprint_is_counted_by_itself() -> None:
    storms = Storms(3, 1)
    kinds = [
        KIND,
        ("web", *KIND[1:]),
        ("shop", "web", "prod", STORM),
        ("shop", "shop", "dev", STORM),
        (*KIND[:3], OTHER),
    ]
    assert [kept(storms, 10, 0.0, kind) for kind in kinds] == [3] * 5


def test_a_limit_of_zero_folds_nothing() -> None:
    assert kept(Storms(0, 1), 1_000, 0.0) == 1_000


def test_no_more_kinds_are_counted_than_agreed_and_the_minute_that_began_first_ends() -> None:
    storms = Storms(1, 1, most=3)
    for number in range(10):
        kept(storms, 2, float(number), (*KIND[:3], f"{number:032x}"))
    assert len(storms._minutes) == 3
    assert [kept(storms, 1, 10.0, (*KIND[:3], f"{number:032x}")) for number in (9, 8, 7, 6)] == [0, 0, 0, 1]
    assert len(storms.over(10.0, 0, 0)) == 8  # what was folded before goes out all the same


def test_a_fold_waits_until_all_that_names_it_is_stored() -> None:
    storms = Storms(1, 1)
    kept(storms, 5, 0.0)
    assert storms.over(59.0, 5, 5) == []
    assert storms.over(60.0, 5, 4) == []
    assert storms.over(61.0, 9, 4) == []
    [key] = storms.over(62.0, 9, 5)
    assert storms.over(63.0, 9, 9) == []
    storms.again([key])
    assert storms.over(64.0, 9, 9) == [key]


async def burst(client: FrameClient, first: int, n: int, fingerprint: str = STORM, **header: Any) -> None:
    payload = exception(fingerprint)
    units = [encode_unit(frame(client.client, "exception", payload, seq=first + i, **header)) for i in range(n)]
    await client.raw(b"".join(units))
    await client.acknowledged(first + n - 1)


async def minute_over(agent: Agent, clock: Clock) -> None:
    clock.now += 61
    await until("the folds are taken off", lambda: _no_folds(agent))


async def _no_folds(agent: Agent) -> bool:
    await agent.tick()
    return bool((await status(agent))["spool"]["folding"]["exceptions"] == 0)


async def test_what_is_folded_goes_out_as_one_line_that_says_how_many_more_it_stands_for(tmp_path: Path) -> None:
    clock = Clock()
    async with running(tmp_path, limited(tmp_path, 10), running=clock) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        await burst(client, 1, 1_000)
        found = await status(agent)
        assert found["spool"]["folding"] == {"lines": 1, "exceptions": 990}
        assert [(book["received"], book["pending"]) for book in found["books"]["events"]] == [(1_000, 1_000)]
        await minute_over(agent, clock)
        found = await status(agent)
        assert [(book["received"], book["pending"]) for book in found["books"]["events"]] == [(1_000, 1_000)]
        client.close()
    lines = stored(tmp_path, EVENTS)
    assert [line["repeats"] for line in lines] == [0] * 10 + [989]
    assert [line["seq"] for line in lines] == list(range(1, 12))
    assert all(line["chain"] for line in lines)


async def test_at_the_end_what_is_folded_goes_out_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, limited(tmp_path, 10)) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        await burst(client, 1, 50)
        client.close()
    assert [line["repeats"] for line in stored(tmp_path, EVENTS)] == [0] * 10 + [39]


async def test_events_and_exceptions_that_are_asked_about_are_never_folded(tmp_path: Path) -> None:
    async with running(tmp_path, limited(tmp_path, 2)) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        await burst(client, 1, 20, confirm=True)
        units = [frame(A, "event", {"name": "order.placed"}, seq=21 + i) for i in range(20)]
        await client.raw(b"".join(map(encode_unit, units)))
        await client.acknowledged(40)
        client.close()
    assert len(stored(tmp_path, EVENTS)) == 40


async def test_another_exception_in_the_middle_of_a_storm_is_kept_by_itself(tmp_path: Path) -> None:
    async with running(tmp_path, limited(tmp_path, 10)) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        await burst(client, 1, 2_000)
        await burst(client, 2_001, 3, OTHER)
        await burst(client, 2_004, 2_000)
        client.close()
    lines = stored(tmp_path, EVENTS)
    assert [line["repeats"] for line in lines if line["fingerprint"] == OTHER] == [0, 0, 0]
    assert sum(1 + line["repeats"] for line in lines if line["fingerprint"] == STORM) == 4_000


async def test_a_disk_that_refuses_the_end_of_a_minute_gets_it_with_a_later_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    async with running(tmp_path, limited(tmp_path, 1), running=clock) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        await burst(client, 1, 10)
        spool: Any = agent._spool
        unfold: Callable[..., Any] = spool.unfold

        async def refused(keys: Any = None) -> int:
            monkeypatch.setattr(spool, "unfold", unfold)
            raise SpoolFailed("the disk is full")

        monkeypatch.setattr(spool, "unfold", refused)
        await minute_over(agent, clock)
        client.close()
    assert [line["repeats"] for line in stored(tmp_path, EVENTS)] == [0, 8]
