"""A power cut at any write, sync, truncation or deletion; and a disk that fails at any of them, once or for a while.

One life of a spool goes through all that it does: an older layout is migrated, events and metrics come, are sealed,
split, refused, delivered, the log is folded in, space is given back. ``FAULT_STRIDE=1`` takes every place.
"""

import os
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import apsw
import pytest

from sendoff_server.aggregate import Limits, make_core
from sendoff_server.spool import (
    ClientState,
    Dead,
    Delivered,
    EventIn,
    OutputSpec,
    RefusedLine,
    Sealed,
    Settlement,
    Split,
    Spool,
    SpoolError,
    SpoolFailed,
    SpoolLimits,
    writer,
)
from sendoff_server.wire.batch import decode_body

from .conftest import NOW, rotation
from .disk import WAYS, Disk, Way, after_a_cut, recorded
from .test_migration import make_layout_1

T = TypeVar("T")
OUTPUTS = [OutputSpec("main", 10_000)]
MERGE = make_core(Limits(), (), (1, 1)).merge
LATER = NOW + 3_600_000
STRIDE = int(os.environ.get("FAULT_STRIDE", "0"))
FRAME_HEAD = 24
CUTS, FAULTS = 60, 12
"""How many places a test run takes."""
OLD = {"e10", "e11", "e20", "e21"}
"""What waits in the older layout."""


@dataclass(slots=True)
class Known:
    """What was promised, and what may have happened."""

    tried: set[str] = field(default_factory=lambda: set(OLD))
    stored: set[str] = field(default_factory=lambda: set(OLD))
    leaving: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    points: int = 9

    def copy(self) -> "Known":
        return Known(set(self.tried), set(self.stored), set(self.leaving), set(self.gone), self.points)


def open_spool(folder: Path, now_ms: int = NOW) -> Spool:
    return Spool.open(folder, OUTPUTS, merge=MERGE, host="h", now_ms=now_ms, limits=SpoolLimits(), clock=lambda: LATER)


def ids(batch: Sealed) -> set[str]:
    lines = decode_body(batch.blob, "zstd")[0].lines if batch.kind == "events" else []
    return {line.decode().split('"')[3] for line in lines}


class Life:
    """What happens to the spool, step by step; a step that fails is tried again, and the disk heals at the second."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self.folder = folder
        self.disk = disk
        self.known = Known()
        self.failures = 0

    async def attempt(self, step: Callable[[], Awaitable[T]]) -> T:
        for _ in range(6):
            try:
                return await step()
            except SpoolError:
                self.failures += 1
                if self.failures % 2 == 0:
                    self.disk.heal()
        raise AssertionError("the disk is well again, and the spool is not")

    async def run(self) -> None:
        async def opened() -> Spool:
            return open_spool(self.folder)

        self.spool = await self.attempt(opened)
        self.spool._connection.wal_autocheckpoint(12)
        self.note()
        for number in range(1, 9):
            await self.put(number)
            if number in (2, 3, 6):
                await self.journal(number)
            if number in (4, 7):
                await self.deliver()
        for _ in range(4):
            await self.deliver()
        self.spool.close()

    def note(self) -> None:
        self.disk.mark(self.known.copy())

    async def put(self, number: int) -> None:
        names = [f"n{number}", f"n{number}b"] if number % 2 else [f"n{number}"]
        pad = os.urandom(1_500 if number == 5 else 30).hex()
        events = [EventIn(b'{"id":"%s","pad":"%s"}' % (name.encode(), pad.encode()), name, "shop") for name in names]
        self.known.tried.update(names)
        self.note()
        client = ClientState("c" * 32, upto=number)
        await self.attempt(lambda: self.spool.put(events, [client]))
        self.known.stored.update(names)
        self.note()

    async def journal(self, number: int) -> None:
        one = rotation(self.spool, number, made_ms=NOW + number * 1_000)
        await self.attempt(lambda: self.spool.journal(one))
        self.known.points += 3
        self.note()

    async def deliver(self) -> None:
        batches = await self.attempt(lambda: self.spool.lease("main", LATER, max_batches=3))
        settlements: list[Settlement] = []
        for place, batch in enumerate(batches):
            if batch.lines > 1 and not batch.half and place == 0:
                settlements.append(Split(batch))
                continue
            refused = [RefusedLine(1, "bad", "no")] if batch.lines > 1 else []
            settlements.append(Dead(batch, 400, "bad", b"no") if place == 1 else Delivered(batch, refused))
            self.known.leaving.update(ids(batch))
        self.note()
        await self.attempt(lambda: self.spool.settle("main", settlements))
        self.known.gone.update(self.known.leaving)
        self.note()


async def look(folder: Path, known: Known, sure: bool) -> list[str]:
    """What is wrong with a spool after a fault, in sentences. ``sure``: nothing in it can look like damage."""
    wrong: list[str] = []
    spool = open_spool(folder, NOW + 1_000)
    try:
        if spool.quarantined is not None:
            wrong.append("it was taken for damaged")
        books = await spool.books()
        wrong += books.balance()
        unknown = (await spool.stats())["unknown"]
        if unknown and sure:
            wrong.append(f"a loss is claimed: {unknown}")
        (points,) = books.points_out
        if points.journaled < known.points:
            wrong.append(f"{known.points} points were journaled, and {points.journaled} are known")
        waiting: set[str] = set()
        while batches := await spool.lease("main", LATER):
            for batch in batches:
                waiting |= ids(batch)
            await spool.settle("main", [Delivered(batch) for batch in batches])
        if missing := known.stored - known.leaving - waiting:
            wrong.append(f"acknowledged, and missing: {sorted(missing)}")
        if back := waiting & known.gone:
            wrong.append(f"settled, and there again: {sorted(back)}")
        if invented := waiting - known.tried:
            wrong.append(f"never stored: {sorted(invented)}")
        wrong += (await spool.books()).balance()
    finally:
        spool.close()
    return wrong


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A spool of an older layout, which gives its free space back at once."""
    monkeypatch.setattr(writer, "SPARE_PAGES", 0)
    make_layout_1(tmp_path / "before")
    for path in (tmp_path / "before").glob("spool.db-*"):
        path.unlink()
    return tmp_path


@pytest.mark.timeout(0 if STRIDE else 120)
async def test_a_power_cut_at_any_operation_loses_nothing_acknowledged_and_brings_nothing_back(prepared: Path) -> None:
    shutil.copytree(prepared / "before", prepared / "a")
    with recorded() as disk:
        life = Life(prepared / "a", disk)
        await life.run()
        disk.recording = False
    done = {step.what for step in disk.steps}
    assert done == {"write", "sync", "truncate", "delete", "mark"}, "the life goes through everything"
    places = [number for number, step in enumerate(disk.steps) if step.what != "mark"]
    wrong: dict[tuple[int, Way], list[str]] = {}
    for turn, place in enumerate(places[:: STRIDE or max(1, len(places) // CUTS)]):
        known = next((s.mark for s in reversed(disk.steps[: place + 1]) if s.what == "mark"), Known(points=9))
        for way in WAYS if STRIDE else [WAYS[turn % len(WAYS)]]:
            files = after_a_cut(disk.begin, disk.steps[: place + 1], way, seed=place)
            shutil.rmtree(prepared / "b", ignore_errors=True)
            (prepared / "b").mkdir()
            for path, content in files.items():
                if content or path.endswith("spool.db"):
                    (prepared / "b" / Path(path).name).write_bytes(content)
            # A frame of the log is two writes: its head and its page. Between them it looks damaged.
            half = disk.steps[place].what == "write" and len(disk.steps[place].data) == FRAME_HEAD
            if said := await look(prepared / "b", known, sure=way == "none" or (way == "all" and not half)):
                wrong[place, way] = said
    assert wrong == {}


@pytest.mark.timeout(0 if STRIDE else 120)
@pytest.mark.parametrize("error", [apsw.IOError, apsw.FullError])
@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for a while"])
async def test_whichever_operation_fails_the_spool_fails_in_its_own_words_and_goes_on(
    prepared: Path, error: type[apsw.Error], for_ever: bool
) -> None:
    shutil.copytree(prepared / "before", prepared / "whole")
    with recorded() as disk:
        await Life(prepared / "whole", disk).run()
        operations = disk.operations
    failed = 0
    for place in range(1, operations, STRIDE or max(1, operations // FAULTS)):
        shutil.rmtree(prepared / "a", ignore_errors=True)
        shutil.copytree(prepared / "before", prepared / "a")
        with recorded() as disk:
            disk.fail_at, disk.fail_with, disk.for_ever = place, error, for_ever
            life = Life(prepared / "a", disk)
            await life.run()
            failed += life.failures
        known = life.known
        known.tried = known.stored
        assert await look(prepared / "a", known, sure=True) == [], f"operation {place}"
    assert failed > FAULTS / 2


async def test_whichever_write_or_sync_fails_nothing_is_acknowledged_and_the_spool_goes_on(tmp_path: Path) -> None:
    with recorded() as disk:
        spool = open_spool(tmp_path / "a")
        await spool.put([_event(0)], [])
        taken, failures = 1, 0
        for ahead in range(1, 14):
            disk.fail_at = disk.operations + ahead
            for _ in range(3):
                try:
                    await spool.put([_event(taken)], [ClientState("c" * 32, upto=taken)])
                    taken += 1
                except SpoolFailed:
                    failures += 1
                books = await spool.books()
                assert books.balance() == []
                assert books.events[0].pending == taken
        disk.heal()
        assert failures == 13
        assert len(await spool.lease("main", NOW)) == taken
        spool.close()
    spool = open_spool(tmp_path / "a")
    assert (await spool.books()).events[0].pending == taken
    assert spool.clients["c" * 32].upto == taken - 1
    spool.close()


def _event(number: int) -> EventIn:
    return EventIn(b'{"id":"e%d","pad":"%s"}' % (number, b"x" * 6_000), f"e{number}", "shop")
