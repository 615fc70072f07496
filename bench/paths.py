"""What each path costs: a call on the caller's thread, with a peer that lives and with dead ones; memory in the app.

What a crash costs on each is `bench.losses`, which `python -m bench paths` runs as well.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
from typing import TYPE_CHECKING

from bench import losses
from bench.machine import Table
from bench.ways import WAYS, Ground, Way, app, ask, ground

if TYPE_CHECKING:
    import subprocess

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "15"))
PACED, LOOP = 300, 2_000
"""Calls of a round: one a millisecond, as a busy web application makes them, and as fast as they go."""
LOOPS = 3
"""Loops in a round: each takes a twentieth of a second, in which the client's thread runs beside the calls or does not,
and that alone makes a quarter of the median.
"""
STATES = ("alive", "again", "gone", "stopped")
"""Of the peer: it lives; it lives, for a second app that is measured in the same way and shows what is noise; there is
none; it is stopped.
"""
CALLER = """
import json, os, sys, time
import sendoff
sendoff.init(service="bench", buffer=536870912)
bound = sendoff.counter("bench.bound", country="PL", kind="web")
filling = "x" * 850
clock = time.perf_counter_ns
def event(): sendoff.event("bench.done", order=17, filling=filling)
def run(call, count, pause):
    times = []
    for _ in range(count):
        began = clock()
        call()
        times.append(clock() - began)
        if pause: time.sleep(pause)
    return times
for line in sys.stdin:
    what, mode, flush = line.split()
    call = event if what == "event" else bound.increment
    times = run(call, int(sys.argv[1]), 0.001) if mode == "paced" else run(call, int(sys.argv[2]), 0)
    if flush == "flush": sendoff.flush(20)
    print(json.dumps(times), flush=True)
"""
MEMORY = """
import json, os, sys, time
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
import socket, ssl, json, threading, collections  # what a web application has loaded anyway
without = resident()
import sendoff
sendoff.init(service="bench")
sendoff.event("bench.done"); sendoff.increment("bench.counted")
sendoff.flush(5)
idle = resident()
if len(sys.argv) > 1:
    number = 0
    while not sendoff.stats()["dropped"].get("event.buffer_full") and number < 100000:
        for _ in range(100):
            number += 1
            sendoff.event("bench.done", number=number, filling=("x%d" % number) * 120)
    sendoff.flush(1)
print(json.dumps([without, idle, resident()]), flush=True)
os._exit(0)
"""
Times = dict[tuple[str, str, str], list[list[int]]]
"""Nanoseconds of calls, a list a round, by what was called, how, and the state of the peer."""


def measure() -> list[Table]:
    calls = Table(
        f"One call on the caller's thread, ns: {ROUNDS} rounds of {PACED} (in a loop {LOOPS} × {LOOP:,}), in turn with "
        "a peer that lives, with the same again (noise), with none, and with one that is stopped; × is the median of "
        "ratios to the first, over rounds",
        [
            *("path", "call", "median", "p99", "noise: median", "noise: p99", "peer gone: median", "its p99"),
            *("peer stopped: median", "its p99"),
        ],
    )
    memory = Table("Memory in the app, MiB over not using Sendoff", ["path", "idle", "buffer full (8 MiB)"])
    for way in WAYS:
        with ground(agent=way.agent) as made:
            times = rounds(made, way)
            for what in ("event", "counter"):
                for mode in ("paced", "loop"):
                    add(calls, way, what, mode, times)
            without, idle, _ = run_memory(made, way, alive=True)
            _, _, full = run_memory(made, way, alive=False)
            memory.add(way.name, f"{idle - without:.1f}", f"{full - without:.1f}")
    return [calls, memory, losses.measure()]


def rounds(made: Ground, way: Way) -> Times:
    """The same calls by three apps in turn."""
    found: Times = {}
    with contextlib.ExitStack() as stack:
        apps = {
            state: stack.enter_context(app(CALLER, made.env(way, alive=state != "gone"), str(PACED), str(LOOP)))
            for state in STATES
        }
        for process in apps.values():
            ask(process, "event loop flush" if process is not apps["gone"] else "event loop -")
        server = made.agent if way.agent else made.gateway
        for number in range(ROUNDS):
            turn = number % len(STATES)  # so that none is always the first
            for what in ("event", "counter"):
                for mode in ("paced", *("loop",) * LOOPS):
                    for state in STATES[turn:] + STATES[:turn]:
                        times = one(apps[state], state, f"{what} {mode}", server.process)
                        found.setdefault((what, mode, state), []).append(times)
    return found


def one(process: subprocess.Popen[str], state: str, what: str, server: subprocess.Popen[bytes] | None) -> list[int]:
    assert server is not None
    if state != "stopped":
        times: list[int] = ask(process, f"{what} {'-' if state == 'gone' else 'flush'}")
        return times
    server.send_signal(signal.SIGSTOP)
    try:
        times = ask(process, f"{what} -")
    finally:
        server.send_signal(signal.SIGCONT)
    ask(process, "event loop flush")  # what it holds must not disturb the next
    return times


def p99(times: list[int]) -> float:
    return statistics.quantiles(times, n=100, method="inclusive")[98]


def add(table: Table, way: Way, what: str, mode: str, times: Times) -> None:
    alive = times[what, mode, "alive"]
    row = [way.name, f"{what}, {'one a millisecond' if mode == 'paced' else 'in a loop'}"]
    whole = [each for one_round in alive for each in one_round]
    row += [f"{statistics.median(whole):,.0f}", f"{p99(whole):,.0f}"]
    for state in STATES[1:]:
        dead = times[what, mode, state]
        pairs = list(zip(dead, alive, strict=True))
        median = statistics.median(statistics.median(a) / statistics.median(b) for a, b in pairs)
        far = statistics.median(p99(a) / p99(b) for a, b in pairs)
        row += [f"× {median:.2f}", f"× {far:.2f}"]
    table.add(*row)


def run_memory(made: Ground, way: Way, *, alive: bool) -> list[float]:
    """Resident MiB without Sendoff, with it, and in the end."""
    arguments = [] if alive else ["full"]
    with app(MEMORY, made.env(way, alive=alive), *arguments) as process:
        return [float(figure) for figure in ask(process, "go")]
