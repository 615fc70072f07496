"""A client with a spool: when an event is in the file after its call has returned, and what that costs the caller."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys

from bench.machine import Table, stage, started
from demo.parts import free_port

COUNT = int(os.environ.get("BENCH_COUNT", "2000"))
ROUNDS = 3
PRODUCER = """
import json, os, sys, time, sendoff
count, pause = int(sys.argv[1]), float(sys.argv[2])
written, returned, costs = {}, {}, []
if os.environ.get("SENDOFF_SPOOL"):
    from sendoff.sending.keep import OwnFile
    append = OwnFile.append
    def timed(self, batch):
        append(self, batch)
        now = time.perf_counter()
        written.update((number, now) for number, _ in batch)
    OwnFile.append = timed
sendoff.init(service="bench", linger=0.1)
filling = ("five or six words of an order, " * 40)[:700]
for number in range(1, count + 1):
    began = time.perf_counter()
    sendoff.event("bench.done", number=number, filling=filling)
    returned[number] = time.perf_counter()
    costs.append(returned[number] - began)
    if pause:
        time.sleep(pause)
time.sleep(1)
print(json.dumps({"costs": costs, "delays": [max(0.0, written[number] - returned[number]) for number in returned
                                               if number in written]}))
"""


def measure() -> Table:
    table = Table(
        f"Events of about 1,000 bytes over HTTP with spool=, {COUNT:,} a round, median of {ROUNDS} rounds",
        ["gateway", "events", "call, ns: median", "p99", "in the file after the call, ms: median", "p99", "largest"],
    )
    with stage() as made:
        key = made.make_key("bench")
        with started(made.gateway(), f"{made.gateway_url}/readyz"):
            alive = made.gateway_url.replace("://", f"://{key}@")
            for gateway, address in (("alive", alive), ("dead", f"http://{key}@127.0.0.1:{free_port()}")):
                for events, pause in (("500 a second", 0.002), ("as fast as they come", 0.0)):
                    for spool in (True, False):
                        rounds = [_round(address, str(made.folder / "spool") if spool else "", pause) for _ in range(3)]
                        table.add(gateway if spool else f"{gateway}, no spool=", events, *_medians(rounds))
    return table


def _round(address: str, spool: str, pause: float) -> dict[str, list[float]]:
    done = subprocess.run(
        [sys.executable, "-c", PRODUCER, str(COUNT), str(pause)],
        check=True,
        capture_output=True,
        text=True,
        env={"SENDOFF_ADDRESS": address, "SENDOFF_SPOOL": spool, "PATH": "/usr/bin:/bin"},
    )
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


def _medians(rounds: list[dict[str, list[float]]]) -> list[str]:
    def of(name: str, share: float, scale: float, digits: int) -> str:
        if not all(found[name] for found in rounds):
            return "–"
        values = [sorted(found[name])[min(int(len(found[name]) * share), len(found[name]) - 1)] for found in rounds]
        return f"{statistics.median(values) * scale:,.{digits}f}"

    delays = [of("delays", share, 1e3, 2) for share in (0.5, 0.99, 1.0)]
    return [of("costs", 0.5, 1e9, 0), of("costs", 0.99, 1e9, 0), *delays]
