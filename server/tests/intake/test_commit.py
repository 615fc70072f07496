"""Group commit without sockets: order, groups, holding on, and what is lost at the end."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from sendoff_server.intake import commit as module
from sendoff_server.intake.client import Client
from sendoff_server.intake.commit import Committer
from sendoff_server.spool import ClientState, EventIn, Refusal, SpoolFailed, SpoolFull

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


class Disk:
    """A spool that remembers, and refuses as often as it is told to."""

    def __init__(self) -> None:
        self.puts: list[tuple[list[str], dict[str, int]]] = []
        self.refusals: list[Exception] = []
        self.lost: list[tuple[dict[str, int], str]] = []

    async def put(self, events: Sequence[EventIn], clients: Sequence[ClientState], refusals: Sequence[Refusal]) -> None:
        await asyncio.sleep(0)
        if self.refusals:
            raise self.refusals.pop(0)
        self.puts.append(([event.id for event in events], {state.client: state.upto for state in clients}))

    def lose_events(self, by_source: dict[str, int], reason: str) -> None:
        self.lost.append((by_source, reason))


class Listening:
    def __init__(self, client: Client) -> None:
        self.client = client
        self.heard: list[int] = []

    def acknowledge(self) -> None:
        self.heard.append(self.client.state.upto)


@pytest.fixture
async def disk() -> Disk:
    return Disk()


@pytest.fixture
async def committer(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Committer]:
    monkeypatch.setattr(module, "RETRY_FIRST_S", 0.001)
    made = Committer(disk, lambda pressed: None, lambda: None)
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def arrive(committer: Committer, client: Client, seq: int, size: int = 10) -> None:
    assert client.arrives(seq)
    committer.add(EventIn(b"x" * size, f"{client.state.client}{seq}", "shop"), client)


async def test_what_came_together_is_stored_together_and_told_once(committer: Committer, disk: Disk) -> None:
    a, b = Client(ClientState("a")), Client(ClientState("b"))
    ears = [Listening(a), Listening(b)]
    for ear in ears:
        ear.client.sessions.add(ear)
    for seq in (1, 2, 3):
        arrive(committer, a, seq)
        arrive(committer, b, seq)
    assert await committer.flush(5)
    assert disk.puts == [(["a1", "b1", "a2", "b2", "a3", "b3"], {"a": 3, "b": 3})]
    assert [ear.heard for ear in ears] == [[3], [3]]


async def test_groups_are_bounded_and_upto_never_runs_ahead_of_them(
    committer: Committer, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GROUP_EVENTS", 2)
    a = Client(ClientState("a"))
    for seq in range(1, 6):
        arrive(committer, a, seq)
    assert await committer.flush(5)
    assert disk.puts == [(["a1", "a2"], {"a": 2}), (["a3", "a4"], {"a": 4}), (["a5"], {"a": 5})]


async def test_a_refusal_alone_is_stored_alone(committer: Committer, disk: Disk) -> None:
    a = Client(ClientState("a"))
    a.refuse(1, "payload_invalid")
    committer.touch(a)
    assert await committer.flush(5)
    assert disk.puts == [([], {"a": 1})]


@pytest.mark.parametrize("error", [SpoolFull("full"), SpoolFailed("ill")])
async def test_what_was_refused_is_tried_again_in_order_and_told_only_then(
    committer: Committer, disk: Disk, error: Exception
) -> None:
    a = Client(ClientState("a"))
    ear = Listening(a)
    a.sessions.add(ear)
    disk.refusals = [error] * 3
    arrive(committer, a, 1)
    await asyncio.sleep(0.001)
    arrive(committer, a, 2)
    assert await committer.flush(5)
    assert disk.puts[-1][1] == {"a": 2}
    assert [name for names, _ in disk.puts for name in names] == ["a1", "a2"]
    assert ear.heard[-1] == 2
    assert committer.blocked is None


async def test_pressure_begins_at_the_bound_and_ends_well_below_it(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HIGH_BYTES", 5_000)
    said: list[bool] = []
    committer = Committer(disk, said.append, lambda: None)
    a = Client(ClientState("a"))
    for seq in range(1, 10):
        arrive(committer, a, seq, size=1_000)
    assert said == [True]
    committer.add_unacknowledged(EventIn(b"x", "e", "statsd/udp"))
    assert disk.lost == [({"statsd/udp": 1}, "disk_failed")]
    task = asyncio.create_task(committer.run())
    assert await committer.flush(5)
    assert said == [True, False]
    task.cancel()


async def test_at_the_end_only_what_nobody_else_holds_is_lost(disk: Disk) -> None:
    committer = Committer(disk, lambda pressed: None, lambda: None)
    arrive(committer, Client(ClientState("a")), 1)
    committer.add_unacknowledged(EventIn(b"x", "e", "statsd/udp"))
    assert not await committer.flush(0.01)
    committer.give_up()
    assert disk.lost == [({"statsd/udp": 1}, "disk_failed")]
