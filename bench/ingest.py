"""StatsD lines over UDP: how much CPU the agent takes for a line, beside a loop that receives and throws away."""

from __future__ import annotations

import multiprocessing
import random
import socket
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from bench.machine import Table, cpu_seconds, stage, started
from demo.parts import get_json

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

ROUNDS = 3
SERIES = 1_000
SECONDS = 4.0
SETTLED = 2.5
"""Seconds after the last datagram in which its window is over and journaled: windows are of one second."""
SHAPES = {"30 lines a datagram": (30, 1_500), "one line a datagram": (1, 15_000)}
"""Lines in a datagram, datagrams per second: rates at which nothing is lost on a slow machine."""


def lines(count: int, seed: int) -> list[bytes]:
    """Lines over exactly `SERIES` series: half counters, a third timers, the rest gauges and sets; up to three tags."""
    rng = random.Random(seed)
    series = [
        (f"web.request.part{number}", _tags(rng), rng.choices(list(VALUES), [50, 35, 10, 5])[0])
        for number in range(SERIES)
    ]
    made = []
    for _ in range(count):
        name, tags, kind = rng.choice(series)
        made.append(f"{name}:{VALUES[kind](rng)}|{kind}{tags}".encode())
    return made


VALUES: dict[str, Callable[[random.Random], str]] = {
    "c": lambda rng: "1",
    "ms": lambda rng: str(rng.randrange(1, 900)),
    "g": lambda rng: f"{rng.random():.3f}",
    "s": lambda rng: f"u{rng.randrange(500)}",
}


def _tags(rng: random.Random) -> str:
    tags = ",".join(f"{key}:{rng.randrange(4)}" for key in ("zone", "kind", "env")[: rng.randrange(4)])
    return f"|#{tags}" if tags else ""


def blast(port: int, per_datagram: int, per_second: int, seconds: float) -> tuple[int, int]:
    """Send in bursts of 16 at a steady rate; gives (datagrams, lines) sent."""
    pool = lines(per_datagram * 500, seed=1)
    datagrams = [b"\n".join(pool[at : at + per_datagram]) for at in range(0, len(pool), per_datagram)]
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.connect(("127.0.0.1", port))
        began = time.perf_counter()
        while (now := time.perf_counter() - began) < seconds:
            if sent > now * per_second:
                time.sleep(0.0005)
                continue
            for _ in range(16):
                out.send(datagrams[sent % len(datagrams)])
                sent += 1
    return sent, sent * per_datagram


def _bare(pipe: Connection) -> None:
    """Receive and throw away until an empty datagram comes; then report the CPU seconds."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inbox:
        inbox.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        inbox.bind(("127.0.0.1", 0))
        pipe.send(inbox.getsockname()[1])
        began = time.process_time()
        while inbox.recv(65_535):
            pass
        pipe.send(time.process_time() - began)


def bare_loop(per_datagram: int, per_second: int) -> float:
    """CPU microseconds per datagram of the loop that does nothing with it."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_bare, args=(theirs,))
    process.start()
    port = ours.recv()
    sent, _ = blast(port, per_datagram, per_second, SECONDS)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.sendto(b"", ("127.0.0.1", port))
    cpu: float = ours.recv()
    process.join()
    return cpu / sent * 1e6


def agent(per_datagram: int, per_second: int) -> tuple[float, float, int]:
    """(CPU µs per line, lines per second, lines lost) of a whole agent: spool, windows and status running."""
    with stage() as made, started(made.agent(), f"{made.agent_url}/readyz") as pid:
        before, began = cpu_seconds(pid), time.perf_counter()
        _, sent = blast(made.statsd_port, per_datagram, per_second, SECONDS)
        took = time.perf_counter() - began
        time.sleep(SETTLED)
        cpu = cpu_seconds(pid) - before  # read before anybody asks for the status, which costs CPU too
        taken = _received(made.agent_url)
        return cpu / taken * 1e6, sent / took, sent - taken


def _received(agent_url: str) -> int:
    books = get_json(f"{agent_url}/status.json")["books"]
    return sum(book["received"] for book in books["lines"])


def measure() -> Table:
    table = Table(
        f"Ingest over UDP, {SERIES:,} series, bursts of 16, {SECONDS:.0f} s, median of {ROUNDS} rounds",
        ["traffic", "lines/s sent", "lost", "agent: µs CPU per line", "per datagram", "bare loop: µs per datagram"],
    )
    for shape, (per_datagram, per_second) in SHAPES.items():
        bare = statistics.median(bare_loop(per_datagram, per_second) for _ in range(ROUNDS))
        runs = [agent(per_datagram, per_second) for _ in range(ROUNDS)]
        per_line = statistics.median(run[0] for run in runs)
        table.add(
            shape,
            f"{statistics.median(run[1] for run in runs):,.0f}",
            str(sum(run[2] for run in runs)),
            f"{per_line:.2f}",
            f"{per_line * per_datagram:.1f}",
            f"{bare:.2f}",
        )
    return table
