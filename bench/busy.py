"""A busy application's metrics straight to the gateway: what summing up before sending leaves of them."""

from __future__ import annotations

import os
import subprocess
import sys

from bench.direct import PATHS, WIRE
from bench.machine import Table, cpu_seconds, stage, started
from demo.parts import get_json, wait_until

SECONDS = int(os.environ.get("BENCH_COUNT", "20"))
RATE = 100_000
SERIES = 20
PRODUCER = """
import os, sys, time, sendoff
seconds, rate, series = map(int, sys.argv[1:])
sendoff.init(service="bench")
counters = [sendoff.counter("orders.placed", shop="north", country=f"c{number}") for number in range(series)]
began, calls, spent = time.monotonic(), 0, 0.0
cpu = time.process_time()
while calls < seconds * rate:
    due = min(int((time.monotonic() - began) * rate), seconds * rate)
    for number in range(calls, due):
        counters[number % series].increment()
    calls = due
    time.sleep(0.005)
took = time.monotonic() - began
assert sendoff.flush(30), sendoff.stats()
stats = sendoff.stats()
print(took, time.process_time() - cpu, stats["connects"], wire(), stats["points"])
"""


def measure() -> Table:
    table = Table(
        f"{RATE:,} increments a second of {SERIES} series from one process straight to the gateway, for {SECONDS} s",
        ["path", "samples/s sent", "requests/s", "bytes/s", "% of a core: app", "gateway"],
    )
    for path, prepare in PATHS.items():
        with stage(key=False) as made:
            address = prepare(made)
            with started(made.gateway(), f"{made.gateway_url}/readyz") as pid:
                before = cpu_seconds(pid)
                done = subprocess.run(
                    [sys.executable, "-c", WIRE + PRODUCER, *map(str, (SECONDS, RATE, SERIES))],
                    check=True,
                    capture_output=True,
                    text=True,
                    env={**os.environ, "SENDOFF_ADDRESS": address},
                )
                took, cpu, connects, wire, points = map(float, done.stdout.split())
                gateway = cpu_seconds(pid) - before
                total = f"{made.gateway_url}/api/v1/bench/metrics/total?name=orders.placed&range=1h"
                wait_until("every increment counted", lambda url=total: _sum(url) == SECONDS * RATE)
        https = path == "HTTPS"
        table.add(
            path,
            f"{points / took:,.0f}",
            f"{connects / took:.1f}" if https else "",
            f"{wire / took:,.0f}" if https else "",
            f"{cpu / took * 100:.0f}",
            f"{gateway / took * 100:.1f}",
        )
    return table


def _sum(url: str) -> float:
    return float(sum(each["sum"] for each in get_json(url)["totals"]))
