"""Start-up and memory: importing the client, the agent until it is ready, the agent idle."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from bench.machine import Table, resident_mib, stage
from demo.parts import answers

IMPORT = "import time; began = time.perf_counter(); import sendoff; print(time.perf_counter() - began)"


def measure() -> Table:
    table = Table("Start-up and memory", ["what", "median", "range", "limit"])
    imports = [float(subprocess.check_output([sys.executable, "-c", IMPORT])) * 1000 for _ in range(21)]
    table.add("`import sendoff`", f"{statistics.median(imports):.1f} ms", spread(imports, "ms"), "20 ms")
    ready, idle = [], []
    with stage() as made:
        for _ in range(5):
            agent = made.agent()
            began = time.perf_counter()
            log = agent.log.open("ab")
            agent.process = subprocess.Popen(agent.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            while not answers(f"{made.agent_url}/readyz"):
                time.sleep(0.005)
            ready.append(time.perf_counter() - began)
            time.sleep(3)
            idle.append(resident_mib(agent.process.pid))
            agent.stop()
            log.close()
    table.add(
        "agent, from its start until `/readyz` answers",
        f"{statistics.median(ready):.2f} s",
        spread(ready, "s"),
        "0.7 s",
    )
    table.add(
        "agent's resident memory 3 s later, idle", f"{statistics.median(idle):.0f} MiB", spread(idle, "MiB"), "90 MB"
    )
    return table


def spread(values: list[float], unit: str) -> str:
    return f"{min(values):.3g} – {max(values):.3g} {unit}"
