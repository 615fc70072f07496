"""What the shop's customers notice: request latency without Sendoff, and with it while the gateway is dead."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from bench.machine import Table, stage, started
from demo import traffic

if TYPE_CHECKING:
    from demo.parts import Stage

ROUNDS = 5
SECONDS = 8.0
PER_SECOND = 60.0


def measure() -> Table:
    """Rounds in turn, each: without, with (gateway dead), without again. The two runs without give the noise."""
    kinds = {"without Sendoff": False, "with Sendoff, gateway dead": True, "without Sendoff, again": False}
    p50: dict[str, list[float]] = {kind: [] for kind in kinds}
    p99: dict[str, list[float]] = {kind: [] for kind in kinds}
    with stage() as made, started(made.agent(), f"{made.agent_url}/readyz"):
        for number in range(ROUNDS):
            for kind, on in kinds.items():
                seen = _one(made, on, seed=number)
                p50[kind].append(seen.quantile(0.5))
                p99[kind].append(seen.quantile(0.99))
    table = Table(
        f"Request latency of the shop, {PER_SECOND:.0f} requests/s, {ROUNDS} rounds of {SECONDS:.0f} s",
        ["run", "p50, median of rounds", "p99, median of rounds", "p99, range", "p99 to the first line"],
    )
    base = statistics.median(p99["without Sendoff"])
    for kind in kinds:
        middle = statistics.median(p99[kind])
        extent = f"{min(p99[kind]):.1f} – {max(p99[kind]):.1f} ms"
        table.add(kind, f"{statistics.median(p50[kind]):.2f} ms", f"{middle:.2f} ms", extent, f"{middle / base:.2f}")
    return table


def _one(made: Stage, on: bool, seed: int) -> traffic.Latency:
    with started(made.shop(release="bench", sendoff=on), f"http://127.0.0.1:{made.shop_port}/"):
        return traffic.run(made.shop_port, traffic.Book(), seconds=SECONDS, per_second=PER_SECOND, seed=seed)
