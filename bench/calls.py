"""What one call costs the thread that makes it, with an agent listening; other clients in the same run."""

from __future__ import annotations

import os
import subprocess
import sys

from bench.machine import Table, stage, started

SCRIPT = """
import os, sys, time, statistics
import sendoff, statsd
from datadog.dogstatsd.base import DogStatsd
port = int(sys.argv[1])
sendoff.init(service="bench")
bound = sendoff.counter("bench.bound", country="PL", kind="web")
dd = DogStatsd(host="127.0.0.1", port=port, disable_telemetry=True)
dda = DogStatsd(host="127.0.0.1", port=port, disable_telemetry=True, disable_buffering=False)
sd = statsd.StatsClient("127.0.0.1", port)
def nothing(): pass
def boom(depth, a=1, b="text", c=(1, 2), d=None):
    if depth: return boom(depth - 1)
    raise KeyError("samovar")
def raised():
    try: boom(30)
    except KeyError: sendoff.capture_exception()
CALLS = [
    ("an empty function", nothing, 200000),
    ("sendoff: bound counter, two tags", bound.increment, 100000),
    ("sendoff.increment, two tags", lambda: sendoff.increment("bench.named", country="PL", kind="web"), 50000),
    ("sendoff.gauge", lambda: sendoff.gauge("bench.level", 3.5), 50000),
    ("sendoff.distribution", lambda: sendoff.distribution("bench.size", 812), 50000),
    ("sendoff.timing", lambda: sendoff.timing("bench.took", 12.5), 50000),
    ("sendoff.unique", lambda: sendoff.unique("bench.users", "u17"), 50000),
    ("sendoff.event, three fields", lambda: sendoff.event("bench.placed", order=17, total=49.0, country="PL"), 3000),
    ("sendoff.capture_exception, 30 frames", raised, 300),
    ("statsd: incr", lambda: sd.incr("bench.named"), 20000),
    ("datadog: increment, two tags", lambda: dd.increment("bench.named", tags=["country:PL", "kind:web"]), 20000),
    ("datadog: the same, buffered", lambda: dda.increment("bench.named", tags=["country:PL", "kind:web"]), 20000),
]
for name, call, count in CALLS:
    rounds, cpus = [], []
    for _ in range(5):
        cpu = time.process_time()
        began = time.perf_counter()
        for _ in range(count): call()
        rounds.append((time.perf_counter() - began) / count * 1e9)
        sendoff.flush(30)
        cpus.append((time.process_time() - cpu) / count * 1e9)
    print(name, statistics.median(rounds), min(rounds), statistics.median(cpus), sep="\\t", flush=True)
dropped = sendoff.stats()["dropped"]
print("dropped", dropped, sep="\\t", flush=True)
"""


def measure() -> Table:
    table = Table(
        "One call, median of five rounds (best round; whole process's CPU, sending included)",
        ["call", "ns", "best", "CPU ns"],
    )
    with stage() as made, started(made.agent(), f"{made.agent_url}/readyz"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(made.statsd_port)],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "SENDOFF_SOCKET": f"{made.folder}/agent.sock"},
        )
    for line in done.stdout.splitlines():
        name, *figures = line.split("\t")
        if name == "dropped":
            table.add(f"dropped meanwhile: {figures[0]}", "", "", "")
        else:
            table.add(name, *(f"{float(figure):,.0f}" for figure in figures))
    return table
