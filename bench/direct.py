"""Events straight from a process to the gateway, no agent: acknowledged after the commit (fsync)."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from bench.durable import stored
from bench.machine import Table, cpu_seconds, stage, started
from demo.parts import free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from demo.parts import Stage

EVENTS = int(os.environ.get("BENCH_COUNT", "20000"))
SIZE = 1_000
ROUNDS = 3
PRODUCER = """
import os, sys, time, sendoff
count, size = int(sys.argv[1]), int(sys.argv[2])
sendoff.init(service="bench")
filling = ("five or six words of an order, " * 40)[: size - 300]
for number in range(count):
    while sendoff.event("bench.done", number=number, filling=filling) is None:
        time.sleep(0.001)  # the client's buffer is full: wait for acknowledgements, as no web request would
assert sendoff.flush(120), sendoff.stats()
times = os.times()
print(times.user + times.system, wire())
"""
WIRE = """
def wire():
    # Bytes acknowledged by the peer's TCP, headers not counted (TCP_INFO, tcpi_bytes_acked), or 0 over ZeroMQ.
    import _socket, sendoff.current
    kept = getattr(sendoff.current.client.outbox.route._opener, "_kept", None)
    return kept and int.from_bytes(kept._socket.getsockopt(_socket.IPPROTO_TCP, 11, 192)[120:128], "little") or 0
"""


def measure() -> Table:
    table = Table(
        f"Durable events of about {SIZE:,} bytes from one process straight to the gateway, {EVENTS:,} a round, each "
        f"acknowledged after the commit, median of {ROUNDS}",
        ["path", "stored/s", "range", "µs CPU per event: producer", "gateway", "bytes on the wire per event"],
    )
    for path, prepare in PATHS.items():
        rates, producer, gateway, wire = [], [], [], []
        for _ in range(ROUNDS):
            took, here, there, sent = _round(prepare)
            wire.append(sent / EVENTS)
            rates.append(EVENTS / took)
            producer.append(here / EVENTS * 1e6)
            gateway.append(there / EVENTS * 1e6)
        table.add(
            path,
            f"{statistics.median(rates):,.0f}",
            f"{min(rates):,.0f} – {max(rates):,.0f}",
            *(f"{statistics.median(figures):.0f}" for figures in (producer, gateway)),
            f"{statistics.median(wire):.0f}" if any(wire) else "",
        )
    return table


def _round(prepare: Callable[[Stage], str]) -> tuple[float, float, float, int]:
    """Seconds until all are stored, CPU seconds of the producer and the gateway, and bytes sent."""
    with stage(key=False) as made:
        address = prepare(made)
        with started(made.gateway(), f"{made.gateway_url}/readyz") as pid:
            before, began = cpu_seconds(pid), time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", WIRE + PRODUCER, str(EVENTS), str(SIZE)],
                check=True,
                capture_output=True,
                text=True,
                env={**os.environ, "SENDOFF_ADDRESS": address},
            )
            wait_until("all events stored", lambda: stored(made) >= EVENTS, seconds=120)
            took, there = time.perf_counter() - began, cpu_seconds(pid) - before
            assert stored(made) == EVENTS, "more events are stored than were sent"
            cpu, sent = done.stdout.split()
            return took, float(cpu), there, int(sent)


def zmq_curve(made: Stage) -> str:
    """Let the gateway listen for ZeroMQ; the address for the application."""
    listen = f'[gateway.zmq]\nlisten = "127.0.0.1:{free_port()}"\n'
    made.config.write_text(made.config.read_text() + listen)
    return made.make_key("bench", curve=True)


def https(made: Stage) -> str:
    """Give the gateway a certificate; the address for the application."""
    made.make_secure()
    return made.gateway_url.replace("://", f"://{made.make_key('bench')}@")


PATHS: dict[str, Callable[[Stage], str]] = {"ZeroMQ with CURVE": zmq_curve, "HTTPS": https}
