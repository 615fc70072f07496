"""A backlog: how much memory an agent takes while events pile up on its disk, and while they drain to the gateway."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.machine import Table, resident_mib, stage, started
from demo.parts import Stage, get_json

COUNT = int(os.environ.get("BENCH_COUNT", "1000000"))
PRODUCERS = 2
LIMIT_S = 3_600
PRODUCER = """
import random, sys, time, sendoff
count, seed = int(sys.argv[1]), int(sys.argv[2])
sendoff.init(service="bench")
draw = random.Random(seed)
letters = "etaoinshrdlucmfwypvbgkjqxz"
words = ["".join(draw.choices(letters, k=draw.randint(3, 10))) for _ in range(5_000)]
texts = [" ".join(draw.choices(words, k=230)) for _ in range(2_000)]
for number in range(count):
    made = dict(number=number, amount=draw.randrange(100_000), text=draw.choice(texts), mail=draw.choice(words))
    while sendoff.event("bench.order", **made) is None:
        time.sleep(0.001)  # the client's buffer is full: wait for acknowledgements, as no web request would
sendoff.flush(600)
"""


@dataclass
class Memory:
    """Resident memory of a process, looked at from time to time, in MiB."""

    pid: int
    idle: float = 0.0
    peak: float = 0.0
    seen: list[float] = field(default_factory=list)

    def look(self) -> None:
        now = resident_mib(self.pid)
        self.peak = max(self.peak, now)
        self.seen.append(now)

    def rise(self) -> float:
        return self.peak - self.idle


def measure() -> Table:
    table = Table(
        f"A backlog of {COUNT:,} events of about 1.7 kB, gateway dead, then back",
        ["phase", "events/s", "agent's memory: idle", "peak", "rise over idle", "limit"],
    )
    with stage() as made:
        raise_limit(made)
        with started(made.agent(), f"{made.agent_url}/readyz") as agent:
            memory = Memory(agent)
            time.sleep(3)
            memory.idle = resident_mib(agent)
            took = fill(made, memory, COUNT)
            row(table, "filling", COUNT / took, memory)
            print(f"  spool: {spool_mib(made.folder):,.0f} MiB for {COUNT:,} events", flush=True)
            memory.peak = 0.0
            with started(made.gateway(), f"{made.gateway_url}/readyz"):
                took = drain(made, memory)
            row(table, "draining", COUNT / took, memory)
    return table


def row(table: Table, phase: str, rate: float, memory: Memory) -> None:
    table.add(
        phase, f"{rate:,.0f}", f"{memory.idle:.0f} MiB", f"{memory.peak:.0f} MiB", f"{memory.rise():.0f} MiB", "50 MB"
    )


def raise_limit(made: Stage) -> None:
    """More than the default limit of events may wait: here the backlog is what is wanted."""
    made.config.write_text(made.config.read_text() + '[spool.events]\nlimit = "16 GiB"\n')


def fill(made: Stage, memory: Memory, count: int, already: int = 0) -> float:
    """Send `count` events by several processes, more than those there `already`; seconds until all are on the disk."""
    began = time.monotonic()
    env = {"SENDOFF_SOCKET": f"{made.folder}/agent.sock", "PATH": "/usr/bin:/bin"}
    each = [count // PRODUCERS + (seed < count % PRODUCERS) for seed in range(PRODUCERS)]
    apps = [
        subprocess.Popen([sys.executable, "-c", PRODUCER, str(share), str(seed)], env=env)
        for seed, share in enumerate(each)
    ]
    try:
        while any(app.poll() is None for app in apps):
            memory.look()
            time.sleep(0.1)
    finally:
        for app in apps:
            app.kill()
    took = time.monotonic() - began
    held = sum(book["pending"] for book in get_json(f"{made.agent_url}/status.json", 60)["books"]["events"])
    assert held == already + count, f"{held:,} of {already + count:,} events are in the spool"
    return took


def drain(made: Stage, memory: Memory) -> float:
    """Seconds until the gateway has stored all."""
    began = time.monotonic()
    look_again = 0.0
    while time.monotonic() - began < LIMIT_S:
        memory.look()
        if time.monotonic() > look_again:
            stored = get_json(f"{made.gateway_url}/api/v1/bench/counts", 60)["events"]
            if stored >= COUNT:
                assert stored == COUNT, "more events are stored than were sent"
                return time.monotonic() - began
            look_again = time.monotonic() + 1
        time.sleep(0.1)
    raise TimeoutError(f"the backlog did not drain within {LIMIT_S} s")


def spool_mib(folder: Path) -> float:
    """What the agent's spool takes on the disk, in MiB."""
    return sum(file.stat().st_size for file in (folder / "agent").iterdir() if file.is_file()) / 2**20
