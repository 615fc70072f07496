"""A real spool, a real HTTP destination on loopback, real workers; only time and chance are the test's."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sendoff_server.aggregate import Limits, make_core
from sendoff_server.delivery import Worker
from sendoff_server.outputs import build
from sendoff_server.settings import OutputSettings
from sendoff_server.spool import EventIn, OutputSpec, Spool, SpoolLimits
from server.tests.outputs.destination import KEY, Destination

NOW = 1_700_000_000_000


class ManualClock:
    """Stands still unless the test moves it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wall_ms(self) -> int:
        return NOW + 3_600_000 + round(self.seconds * 1000)

    def running_s(self) -> float:
        return self.seconds


class Middling:
    """Chance that always says one half."""

    def random(self) -> float:
        return 0.5


@pytest.fixture
async def destination() -> AsyncIterator[Destination]:
    made = Destination()
    await made.start()
    yield made
    await made.stop()
    assert made.complaints == []


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    outputs = [OutputSpec("main", 10_000), OutputSpec("hook", 10_000)]
    merge = make_core(Limits(), (), (1, 1)).merge
    made = Spool.open(tmp_path / "a", outputs, merge=merge, host="web-1", now_ms=NOW, limits=SpoolLimits())
    yield made
    made.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


MakeWorker = Callable[..., Worker]


@pytest.fixture
async def worker(spool: Spool, destination: Destination, clock: ManualClock) -> AsyncIterator[MakeWorker]:
    made: list[Worker] = []

    def make(type: str = "gateway", **more: Any) -> Worker:
        url = destination.url + ("" if type == "gateway" else "/hook")
        given: dict[str, Any] = {"type": type, "url": url, "key": KEY, "timeout": 5, **more}
        output = build("main" if type == "gateway" else "hook", OutputSettings.model_validate(given))
        made.append(Worker(output, spool, clock, Middling()))
        return made[-1]

    yield make
    for one in made:
        await one.output.close()


def event(number: int, word: str = "") -> EventIn:
    return EventIn(json.dumps({"id": f"e{number}", "word": word}).encode(), f"e{number}", "shop")


async def settled(worker: Worker, clock: ManualClock, rounds: int = 200) -> None:
    """Step, passing the time that the worker wants to wait, until it has nothing to do."""
    for _ in range(rounds):
        wait = await worker.step()
        if wait > 0 and worker.oldest_ms is None:
            return
        clock.seconds += min(wait, 3_600)
    raise AssertionError(f"{worker!r} was not done after {rounds} rounds: {worker.last_error}")
