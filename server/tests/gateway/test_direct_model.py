"""Whatever order frames, repeats, broken connections, failing disks and deaths of the gateway come in: everything that
clients hold until it is acknowledged is stored once, and the books balance at every moment.
"""

import asyncio
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest

from sendoff_server.gateway.direct import rounds as rounds_module
from sendoff_server.gateway.store import DiskFailed

from .direct import Sender
from .direct_world import Wire, World, world_in
from .support import NOW


class Holder:
    """A client as the wire format wants it: keeps what is not acknowledged, and sends it again in order."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self.world = world
        self.chance = chance
        self.sender = Sender(chance.choice(("web", "worker")))
        self.durable: list[tuple[int, bytes]] = []
        self.points: list[tuple[int, bytes]] = []
        self.unsent: list[bytes] = []
        self.wire: Wire | None = None
        self.ack = self.n = 0
        self.made_events = self.made_points = 0
        self.made_sum = 0

    def make(self) -> None:
        if self.chance.random() < 0.5:
            made = self.sender.event()
            self.durable.append((self.sender.seq, made))
            self.made_events += 1
        else:
            values = [self.chance.randint(1, 9) for _ in range(self.chance.randint(1, 3))]
            lines = b"\n".join(b"sum:%d|c" % value for value in values)
            more = {"t": NOW - self.chance.randint(0, 60_000)} if self.chance.random() < 0.3 else {}
            made = self.sender.points(lines, len(values), **more)
            self.points.append((self.sender.n, made))
            self.made_points += len(values)
            self.made_sum += sum(values)
        self.unsent.append(made)

    def connect(self) -> None:
        """A new connection: hello, and everything from what was acknowledged on."""
        self.lose()
        self.wire = self.world.connect()
        self.listen()
        self.wire.send(self.sender.hello(self.ack + 1))
        held = sorted([*self.durable, *self.points], key=lambda one: one[1] in self.unsent)
        self.unsent = [frame for _, frame in held]

    def send(self) -> None:
        if self.wire is None:
            self.connect()
            return
        self.listen()
        if any("again" in said for said in self.wire.said):
            self.lose()
            return
        for _ in range(self.chance.randint(1, 5)):
            if self.unsent:
                self.wire.send(self.unsent.pop(0))

    def lose(self) -> None:
        """The connection breaks. What was on its way back is lost with it."""
        if self.wire is not None:
            self.wire.session.ended(orderly=False)
            self.wire = None

    def listen(self) -> None:
        assert self.wire is not None
        for said in self.wire.said:
            self.ack, self.n = max(self.ack, said.get("ack", 0)), max(self.n, said.get("n", 0))
            assert not said.get("refused")
        self.durable = [(seq, made) for seq, made in self.durable if seq > self.ack]
        self.points = [(end, made) for end, made in self.points if end > self.n]

    @property
    def done(self) -> bool:
        return not self.durable and not self.points


@pytest.mark.parametrize("seed", range(12))
async def test_any_order_of_frames_repeats_and_deaths_gives_the_same_sums(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(rounds_module, "METRICS_S", 0.001)
    monkeypatch.setattr(rounds_module, "RETRY_FIRST_S", 0.001)
    with tempfile.TemporaryDirectory() as folder:
        async with world_in(Path(folder)) as world:
            holders = [Holder(world, chance) for _ in range(4)]
            for _ in range(chance.randint(200, 400)):
                await _step(world, holders, chance)
            await _settle(world, holders)
            assert await world.events() == sum(holder.made_events for holder in holders)
            assert await world.sum("sum") == sum(holder.made_sum for holder in holders)
            books = (await world.books())["books"]
            delivered = [book["delivered"] for book in books if book["book"] == "points_out"]
            assert delivered == [sum(holder.made_points for holder in holders)]
            clients = await world.clients()
            assert sum(memo["events"] for memo in clients) == sum(holder.made_events for holder in holders)
            assert sum(memo["points"] for memo in clients) == sum(holder.made_points for holder in holders)
            assert not any(memo["gap"] for memo in clients)


async def _step(world: World, holders: list[Holder], chance: random.Random) -> None:
    holder = chance.choice(holders)
    match chance.choices(("make", "send", "lose", "wait", "tick", "fail", "kill"), (30, 40, 5, 20, 3, 3, 1))[0]:
        case "make":
            holder.make()
        case "send":
            holder.send()
        case "lose":
            holder.lose()
        case "wait":
            await asyncio.sleep(chance.choice((0, 0, 0.001, 0.005)))
        case "tick":
            world.project.tick()
        case "fail":
            _fail_once(world, stored=chance.random() < 0.5)
        case "kill":
            await world.kill()
            for each in holders:
                each.wire = None


def _fail_once(world: World, *, stored: bool) -> None:
    """The next round is not stored, or is stored and nobody hears of it."""
    if not world.project.is_open:
        return
    rounds = world.project.rounds
    put = rounds._put

    async def fail(round_: Any) -> None:
        rounds._put = put
        if stored:
            await put(round_)
        raise DiskFailed("for once")

    rounds._put = fail  # type: ignore[assignment]


async def _settle(world: World, holders: list[Holder]) -> None:
    async with asyncio.timeout(20):
        while not all(holder.done for holder in holders):
            for holder in holders:
                if holder.wire is not None:
                    holder.listen()
                if not holder.done:
                    holder.send()
            await asyncio.sleep(0.002)
