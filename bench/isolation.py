"""What a dead output costs a healthy one beside it: durable events to a real gateway, with and without the dead one."""

from __future__ import annotations

import contextlib
import socket
import statistics
import threading
import time
from typing import TYPE_CHECKING

from bench.durable import SIZE, produce, stored
from bench.machine import Table, cpu_seconds, stage, started
from demo.parts import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EVENTS = 20_000
ROUNDS = 5
ANSWER = b"HTTP/1.1 500 Broken\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def measure() -> Table:
    table = Table(
        f"A dead output beside a healthy one: {EVENTS:,} durable events of about {SIZE:,} bytes a run, "
        f"{ROUNDS} rounds, each with a run without it before and after",
        ["the dead one", "healthy: events/s", "of the runs without it", "range", "agent: µs CPU per event"],
    )
    rates: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        before = _run(None, rates, cpu, "none")
        for name, dead in DEAD.items():
            rate = _run(dead, rates, cpu, name)
            after = _run(None, rates, cpu, "none")
            ratios.setdefault(name, []).append(rate / ((before + after) / 2))
            before = after
    for name, found in rates.items():
        ratio = ratios.get(name)
        table.add(
            name,
            f"{statistics.median(found):,.0f}",
            f"{statistics.median(ratio):.3f}" if ratio else "1",
            f"{min(ratio):.2f} – {max(ratio):.2f}" if ratio else "",
            f"{statistics.median(cpu[name]):.0f}",
        )
    return table


def _run(
    dead: Callable[[], contextlib.AbstractContextManager[int]] | None,
    rates: dict[str, list[float]],
    cpu: dict[str, list[float]],
    name: str,
) -> float:
    """One run; events per second until the healthy destination had all of them."""
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(stage())
        if dead is not None:
            port = stack.enter_context(dead())
            with made.config.open("a") as config:
                config.write(f'[outputs.dead]\ntype = "http"\nurl = "http://127.0.0.1:{port}/in"\ntimeout = "5 s"\n')
        stack.enter_context(started(made.gateway(), f"{made.gateway_url}/readyz"))
        agent = stack.enter_context(started(made.agent(), f"{made.agent_url}/readyz"))
        before, began = cpu_seconds(agent), time.perf_counter()
        produce(made, EVENTS)
        wait_until("all events stored", lambda: stored(made) >= EVENTS, seconds=120)
        took = time.perf_counter() - began
        rates.setdefault(name, []).append(EVENTS / took)
        cpu.setdefault(name, []).append((cpu_seconds(agent) - before) / EVENTS * 1e6)
    return EVENTS / took


@contextlib.contextmanager
def refusing() -> Iterator[int]:
    """A port at which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@contextlib.contextmanager
def hanging() -> Iterator[int]:
    """A port that takes connections and never reads."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield listening.getsockname()[1]


@contextlib.contextmanager
def failing() -> Iterator[int]:
    """A port that answers 500."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(5)
                    while b"\r\n\r\n" not in connection.recv(65_536):
                        pass
                    connection.sendall(ANSWER)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65_536):
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(10)


DEAD: dict[str, Callable[[], contextlib.AbstractContextManager[int]]] = {
    "refuses connections": refusing,
    "hangs": hanging,
    "answers 500": failing,
}
