"""Durable events end to end: process → agent (fsync before it acknowledges) → gateway (fsync before it answers)."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from bench.machine import Table, cpu_seconds, stage, started
from demo.parts import Stage, get_json, wait_until

EVENTS = 20_000
SIZE = 2_000
ROUNDS = 3
PRODUCER = """
import sys, time, sendoff
count, size = int(sys.argv[1]), int(sys.argv[2])
sendoff.init(service="bench")
filling = "x" * (size - 300)
for number in range(count):
    while sendoff.event("bench.done", number=number, filling=filling) is None:
        time.sleep(0.001)  # the client's buffer is full: wait for acknowledgements, as no web request would
sendoff.flush(60)
times = __import__("os").times()
print(times.user + times.system)
"""


def measure() -> Table:
    table = Table(
        f"Durable events of about {SIZE:,} bytes, {EVENTS:,} a round, process to gateway's store, median of {ROUNDS}",
        ["events/s", "range", "µs CPU per event: producer", "agent", "gateway"],
    )
    rates, producer, agent, gateway = [], [], [], []
    for _ in range(ROUNDS):
        with (
            stage() as made,
            started(made.gateway(), f"{made.gateway_url}/readyz") as gateway_pid,
            started(made.agent(), f"{made.agent_url}/readyz") as agent_pid,
        ):
            before = cpu_seconds(agent_pid), cpu_seconds(gateway_pid)
            began = time.perf_counter()
            cpu = produce(made, EVENTS)
            wait_until("all events stored", lambda made=made: stored(made) >= EVENTS, seconds=120)
            took = time.perf_counter() - began
            assert stored(made) == EVENTS, "more events are stored than were sent"
            rates.append(EVENTS / took)
            producer.append(cpu / EVENTS * 1e6)
            agent.append((cpu_seconds(agent_pid) - before[0]) / EVENTS * 1e6)
            gateway.append((cpu_seconds(gateway_pid) - before[1]) / EVENTS * 1e6)
    table.add(
        f"{statistics.median(rates):,.0f}",
        f"{min(rates):,.0f} – {max(rates):,.0f}",
        *(f"{statistics.median(figures):.0f}" for figures in (producer, agent, gateway)),
    )
    return table


def produce(made: Stage, events: int) -> float:
    """Run the producer to its end; its CPU seconds."""
    made_by = subprocess.run(
        [sys.executable, "-c", PRODUCER, str(events), str(SIZE)],
        check=True,
        capture_output=True,
        text=True,
        env={"SENDOFF_SOCKET": f"{made.folder}/agent.sock", "PATH": "/usr/bin:/bin"},
    )
    return float(made_by.stdout)


def stored(made: Stage) -> int:
    count: int = get_json(f"{made.gateway_url}/api/v1/bench/counts")["events"]
    return count
