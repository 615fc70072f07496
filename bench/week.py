"""Seven days without a destination at 1,000 series, on a manual clock: what waits on the disk, and what is left of it.

Each second's snapshot comes from the real core and goes through the real spool; only time is made up. All series get
points once every EVERY_S seconds: at each second it would be the same windows in the end and ten times the computing.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.machine import Table
from sendoff_server.aggregate import Limits, Rotation, make_core
from sendoff_server.spool import Delivered, OutputSpec, Spool, SpoolLimits
from sendoff_server.wire.batch import decode_body

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SERIES = 1_000
DAYS = float(os.environ.get("BENCH_DAYS", "7"))
EVERY_S = int(os.environ.get("BENCH_EVERY", "10"))
TEMPLATES = 20
START = 1_700_006_400_000  # a whole day
FOREVER_MS = 10**12


@dataclass(slots=True)
class Clock:
    """Running seconds that go on when they are told to."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(slots=True)
class Outage:
    """What there was after an outage, and what came out of it. Sizes in bytes."""

    seconds: int = 0
    rows: int = 0
    metrics_bytes: int = 0
    most_bytes: int = 0
    file_bytes: int = 0
    lines: int = 0
    """Windows of a series that were delivered in the end."""
    after_bytes: int = 0
    balance: list[str] = field(default_factory=list)
    lost: int = 0
    wrong: list[str] = field(default_factory=list)
    """Series whose totals are not what went in."""
    took_s: float = 0.0


def measure() -> Table:
    table = Table(
        f"An outage of {DAYS:g} days, {SERIES:,} series with points every {EVERY_S} s, default limits",
        [
            "disk at its end",
            "most",
            "rows",
            "windows of a series delivered",
            "points lost",
            "series changed",
            "file after",
            "took",
        ],
    )
    with tempfile.TemporaryDirectory(prefix="sendoff-week-") as folder:
        found = asyncio.run(live_through(Path(folder), SERIES, round(DAYS * 86_400), EVERY_S))
    mib = [f"{size / 2**20:,.1f} MiB" for size in (found.file_bytes, found.most_bytes, found.after_bytes)]
    assert not found.balance, found.balance
    table.add(
        mib[0],
        mib[1],
        f"{found.rows:,}",
        f"{found.lines:,}",
        f"{found.lost:,}",
        str(len(found.wrong)),
        mib[2],
        f"{found.took_s:,.0f} s",
    )
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    table.add("", "", "", "", "", "", "", f"{memory:,.0f} MiB of memory at most")
    return table


async def live_through(
    folder: Path, series: int, seconds: int, every_s: int, limits: SpoolLimits | None = None
) -> Outage:
    """An outage of so many seconds, then the destination is back."""
    began = time.perf_counter()
    found = Outage(seconds=seconds)
    running = Clock()
    spool = Spool.open(
        folder / "agent",
        [OutputSpec("main", 10_000)],
        merge=make_core(Limits()).merge,
        host="bench",
        now_ms=START,
        limits=limits or SpoolLimits(),
        running=running,
    )
    merge = make_core(Limits()).merge
    templates = make_templates(series)
    times = [0] * len(templates)
    rotations = _rotations(templates, times, spool.epoch, seconds, every_s)
    group = max(1, 60 // every_s)
    left = seconds // every_s
    while left > 0:
        # What one minute brings shares a commit: the disk is not what is measured here.
        batch = [next(rotations) for _ in range(min(group, left))]
        await asyncio.gather(*(spool.journal(one) for one in batch))
        left -= len(batch)
        running.now += len(batch) * every_s
        await spool.lease("main", START + round(running.now * 1000), max_batches=1)  # the destination is tried
        while await spool.merge_backlog(merge, 4):
            pass
        found.most_bytes = max(found.most_bytes, (folder / "agent" / "spool.db").stat().st_size)
    stats = await spool.stats()
    found.rows = sum(each["items"] for each in stats["waiting"])
    found.metrics_bytes, found.file_bytes = stats["metrics_bytes"], stats["used_bytes"]
    lines, found.lines = await _drain(spool, START + seconds * 1000 + FOREVER_MS // 100, merge)
    books = await spool.books()
    found.balance = [str(each) for each in books.balance()]
    losses = [book.lost for book in books.points_in] + [book.lost for book in books.points_out]
    found.lost = sum(sum(lost.values()) for lost in losses)
    totals = {_name(line): line for line in map(json.loads, lines)}
    found.wrong = [name for name, one in _expected(templates, times).items() if not _same(one, totals.get(name))]
    for _ in range(2_000):  # free pages go back while nobody waits
        if (folder / "agent" / "spool.db").stat().st_size < 4 * 2**20:
            break
        await asyncio.sleep(0.05)
    spool.close()
    found.after_bytes = (folder / "agent" / "spool.db").stat().st_size
    found.took_s = time.perf_counter() - began
    return found


def make_templates(series: int) -> list[list[bytes]]:
    """Seconds of all series as the core hands them over: mostly counters, some gauges, distributions and sets."""
    rng = random.Random(7)
    core = make_core(Limits(), (), (1, 1))
    found = []
    for number in range(TEMPLATES):
        lines = []
        for one in range(series):
            tags = f"|#region:eu-{one % 7},shop:{one % 113}"
            match one % 20:
                case 0 | 1:
                    lines += [f"load.{one}:{rng.random() * 100:.3f}|g{tags}"]
                case 2 | 3 | 4:
                    lines += [f"latency.{one}:{rng.lognormvariate(3, 1):.2f}|ms{tags}" for _ in range(5)]
                case 5:
                    lines += [f"visitors.{one}:{rng.randrange(3000)}|s{tags}"]
                case _:
                    lines += [f"orders.{one}:{rng.randrange(1, 50)}|c{tags}"]
        now_ms = number * 1000 + 500
        core.feed("\n".join(lines).encode(), "bench", (), now_ms)
        found.append(core.rotate(now_ms + 500).lines)
    return found


def _rotations(
    templates: list[list[bytes]], times: list[int], epoch: int, seconds: int, every_s: int
) -> Iterator[Rotation]:
    """The templates in turn, each moved to its second. ``times``: how often each was used."""
    joined = [b"\n".join(lines) for lines in templates]
    points = [sum(json.loads(line)["n"] for line in lines) for lines in templates]
    for number in range(seconds // every_s):
        which = number % len(templates)
        begin = START + number * every_s * 1000
        old = which * 1000
        text = joined[which].replace(
            b'"w":[%d,1000],"ord":[1,%d]' % (old, which + 1),
            b'"w":[%d,1000],"ord":[%d,%d]' % (begin, epoch, number + 1),
        )
        text = text.replace(b'"at":%d,' % (old + 500), b'"at":%d,' % (begin + 500))
        times[which] += 1
        yield Rotation((epoch, number + 1), begin + 1000, text.split(b"\n"), {"bench": points[which]})


async def _drain(spool: Spool, now_ms: int, merge: Callable[..., list[bytes]]) -> tuple[list[bytes], int]:
    """Deliver all of it; the totals, a line a series, and how many lines there were."""
    totals: list[bytes] = []
    number = 0
    while batches := await spool.lease("main", now_ms):
        for batch in batches:
            lines = decode_body(batch.blob, "zstd")[0].lines
            number += len(lines)
            totals = merge([totals, lines], FOREVER_MS)
        await spool.settle("main", [Delivered(batch) for batch in batches])
    return totals, number


def _name(line: dict[str, Any]) -> str:
    return f"{line['name']} {line['type']}"


def _expected(templates: list[list[bytes]], times: list[int]) -> dict[str, dict[str, Any]]:
    """What all that went in adds up to, without the core's merging."""
    found: dict[str, dict[str, Any]] = {}
    for lines, n in zip(templates, times, strict=True):
        for line in map(json.loads, lines if n else []):
            one = found.setdefault(_name(line), {"n": 0, "sum": 0.0, "weight": 0.0, "pos": {}, "hashes": set()})
            one["n"] += line["n"] * n
            for key in ("sum", "weight"):
                one[key] += line.get(key, 0) * n
            for index, weight in line.get("pos", ()):
                one["pos"][index] = one["pos"].get(index, 0) + weight * n
            one["hashes"] |= set(line.get("hashes", ()))
    return found


def _same(one: dict[str, Any], other: dict[str, Any] | None) -> bool:
    if other is None or other["n"] != one["n"]:
        return False
    sums = all(abs(one[key] - other.get(key, 0)) <= 1e-9 * abs(one[key]) for key in ("sum", "weight"))
    return (
        sums and one["pos"] == dict(map(tuple, other.get("pos", ()))) and one["hashes"] == set(other.get("hashes", ()))
    )
