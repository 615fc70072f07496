"""What an agent delivers to a gateway over HTTP and over ZeroMQ with CURVE: the same backlog, in turns."""

from __future__ import annotations

import os
import re
import statistics
import time

from bench.backlog import Memory, fill
from bench.machine import Table, cpu_seconds, stage, started
from demo.parts import Stage, free_port, get_json

COUNT = int(os.environ.get("BENCH_COUNT", "60000"))
ROUNDS = 3
LIMIT_S = 600


def measure() -> Table:
    table = Table(
        f"A backlog of {COUNT:,} events of about 1.7 kB delivered to a gateway that is back, {ROUNDS} rounds in turn",
        ["over", "events/s, median", "range", "CPU of the agent, µs an event", "of the gateway"],
    )
    found: dict[str, list[tuple[float, float, float]]] = {"HTTP": [], "ZeroMQ with CURVE": []}
    for _ in range(ROUNDS):
        for name, figures in found.items():
            figures.append(once(by_zmq=name != "HTTP"))
    for name, figures in found.items():
        rates = [rate for rate, _, _ in figures]
        agent, gateway = (statistics.median(each[at] for each in figures) for at in (1, 2))
        span = f"{min(rates):,.0f} – {max(rates):,.0f}"
        table.add(name, f"{statistics.median(rates):,.0f}", span, f"{agent:.0f}", f"{gateway:.0f}")
    return table


def once(*, by_zmq: bool) -> tuple[float, float, float]:
    """Events a second, and µs of CPU an event of the agent and of the gateway."""
    with stage() as made:
        if by_zmq:
            use_zmq(made)
        with started(made.agent(), f"{made.agent_url}/readyz") as agent:
            fill(made, Memory(agent), COUNT)
            before = cpu_seconds(agent)
            with started(made.gateway(), f"{made.gateway_url}/readyz") as gateway:
                first = at_least(made, 1)
                seconds = at_least(made, COUNT) - first
                return (
                    COUNT / seconds,
                    (cpu_seconds(agent) - before) / COUNT * 1e6,
                    cpu_seconds(gateway) / COUNT * 1e6,
                )


def use_zmq(made: Stage) -> None:
    """The same output, over ZeroMQ."""
    port = f"127.0.0.1:{free_port()}"
    with made.config.open("a") as file:
        file.write(f'[gateway.zmq]\nlisten = "{port}"\npublic = "{port}"\n')
    app = re.fullmatch(r"zmq\+curve://([\w-]+)@(.+)", made.make_key("bench", curve=True))
    assert app
    text = re.sub(r'url = ".*"', f'url = "zmq+curve://{app[2]}"', made.config.read_text())
    made.config.write_text(re.sub(r'key = ".*"', f'key = "{app[1]}"', text))


def at_least(made: Stage, count: int) -> float:
    """When (monotonic) the gateway has so many."""
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        if get_json(f"{made.gateway_url}/api/v1/bench/counts", 60)["events"] >= count:
            return time.monotonic()
        time.sleep(0.02)
    raise TimeoutError(f"the backlog did not drain within {LIMIT_S} s")
