"""An hour of a dead destination: what 500 events a second come to, pushed faster, and the agent's memory."""

from __future__ import annotations

import os
import socket
import time

from bench.backlog import Memory, fill, raise_limit, spool_mib
from bench.machine import Table, resident_mib, stage, started

COUNT = int(os.environ.get("BENCH_COUNT", "1800000"))
"""3,600 s of 500 events."""
STEPS = 6
AFTER_S = 90
"""Longer than the longest wait between two tries."""


def measure() -> Table:
    table = Table(
        f"A destination that takes connections and never answers, {COUNT:,} events meanwhile (an hour at 500 a second)",
        ["events waiting", "agent's memory now", "peak", "rise of the peak over idle", "spool"],
    )
    with stage() as made, socket.create_server(("127.0.0.1", made.gateway_port), backlog=1024):
        raise_limit(made)
        with started(made.agent(), f"{made.agent_url}/readyz") as agent:
            memory = Memory(agent)
            time.sleep(3)
            memory.look()
            memory.idle = memory.peak = resident_mib(agent)
            add(table, "none", memory, spool_mib(made.folder))
            for step in range(1, STEPS + 1):
                waiting = COUNT * step // STEPS
                fill(made, memory, waiting - COUNT * (step - 1) // STEPS, already=COUNT * (step - 1) // STEPS)
                add(table, f"{waiting:,}", memory, spool_mib(made.folder))
            end = time.monotonic() + AFTER_S
            while time.monotonic() < end:
                memory.look()
                time.sleep(0.2)
            add(table, f"{COUNT:,}, {AFTER_S} s later", memory, spool_mib(made.folder))
    return table


def add(table: Table, waiting: str, memory: Memory, spool: float) -> None:
    table.add(
        *(waiting, f"{memory.seen[-1]:.0f} MiB", f"{memory.peak:.0f} MiB", f"{memory.rise():.0f} MiB"),
        f"{spool:,.0f} MiB",
    )
    print(f"  {waiting} waiting: {memory.seen[-1]:.0f} MiB", flush=True)
