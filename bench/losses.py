"""What a crash costs on each path: lost and repeated messages, at the gateway and as the app had called."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import apsw

from bench.machine import Table
from bench.ways import WAYS, Ground, Way, ground
from tests.oracle.world import leashed

RATE = int(os.environ.get("BENCH_RATE", "50"))
"""Events of 1 KB a second, and as many counters."""
CUT_S = float(os.environ.get("BENCH_CUT", "60"))
REPEATS = int(os.environ.get("BENCH_REPEATS", "3"))
PRODUCER = """
import os, struct, sys, time
import sendoff
run, rate, book = sys.argv[1], float(sys.argv[2]), os.open(sys.argv[3], os.O_RDWR | os.O_CREAT)
import signal
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
sendoff.init(service="bench")
sent = points = 0
due = time.monotonic()
while not told:
    sendoff.increment("bench." + run)
    points += 1
    if sendoff.event("bench." + run, n=sent, filling="x" * 850): sent += 1
    os.pwrite(book, struct.pack("QQQ", sent, points, 0), 0)
    due += 1 / rate
    time.sleep(max(0, due - time.monotonic()))
sendoff.flush(150)
os.pwrite(book, struct.pack("QQQ", sent, points, sendoff.stats()["resent"]), 0)
sendoff.close()
"""
NEXT = "import sendoff; sendoff.init(service='bench'); sendoff.flush(10); import time; time.sleep(%f)"
GIVE_UP_S = 20.0
"""What is not at the gateway so long after the app has ended, its flush included, is lost."""
GIVE_UP_CUT_S = 150.0
"""The same after a cut, where an agent may have to give up a connection first, and then waits up to a minute."""
ADOPT_S = float(os.environ.get("BENCH_ADOPT", "8"))
"""The next process with the same `spool=` lives so long."""


@dataclass
class Found:
    """Of one run: what the app had called, and what of it is at the gateway."""

    events: int
    points: int
    events_there: int
    times_there: int
    sum_there: float
    again: int
    """Events that the app sent again, or the agent in a batch that the gateway knew already."""


def measure() -> Table:
    table = Table(
        f"What is lost, at {RATE} events of 1 KB and {RATE} counts a second: events lost / counts lost / events stored "
        f"twice / events that came again and were recognised; the worst of {REPEATS} runs",
        [
            "path",
            "app killed",
            "agent killed and started again",
            "gateway killed and started again",
            f"network cut for {CUT_S:.0f} s",
        ],
    )
    for way in WAYS:
        cells = []
        for fault in (app_killed, agent_killed, gateway_killed, network_cut):
            if fault is agent_killed and not way.agent:
                cells.append("there is none")
                continue
            cells.append(worst([once(way, fault, n) for n in range(1 if fault is network_cut else REPEATS)]))
        table.add(way.name, *cells)
        print(f"  {way.name}: {' | '.join(cells)}", flush=True)
    return table


def worst(found: list[Found]) -> str:
    lost = max(0, *(each.events - each.events_there for each in found))
    points = max(0, *(each.points - round(each.sum_there) for each in found))
    twice = max(each.times_there - each.events_there for each in found)
    again = statistics.median(each.again for each in found)
    return f"{lost} / {points} / {twice} / {again:.0f}"


def once(way: Way, fault: Callable[[Ground, Way, subprocess.Popen[bytes]], None], number: int) -> Found:
    """One app, one fault, and the count."""
    run = f"{fault.__name__}{number}"
    with ground(agent=way.agent) as made:
        book = made.folder / "book"
        command = leashed([sys.executable, "-c", PRODUCER, run, str(RATE), str(book)])
        process = subprocess.Popen(command, env=made.env(way), stdin=subprocess.DEVNULL)
        time.sleep(3)
        fault(made, way, process)
        if process.poll() is None:
            time.sleep(2)
            process.terminate()
        process.wait(180)
        sent, points, resent = (int.from_bytes(book.read_bytes()[at : at + 8], "little") for at in (0, 8, 16))
        until = time.monotonic() + (GIVE_UP_CUT_S if fault is network_cut else GIVE_UP_S)
        while time.monotonic() < until and not all_there(stored(made, run), sent, points):
            time.sleep(0.2)
        numbers, total = stored(made, run)
        again = resent + int(made.api("counts")["duplicates"])
        return Found(sent, points, len(set(numbers)), len(numbers), total, again)


def all_there(there: tuple[list[int], float], sent: int, points: int) -> bool:
    return len(set(there[0])) >= sent and round(there[1]) >= points


def stored(made: Ground, run: str) -> tuple[list[int], float]:
    """The numbers of the events that the gateway has, and the sum of the counter."""
    db = apsw.Connection(str(made.folder / "gateway" / "gateway.sqlite3"), flags=apsw.SQLITE_OPEN_READONLY)
    db.set_busy_timeout(5_000)
    try:
        name = f"bench.{run}"
        lines = [json.loads(line) for (line,) in db.execute("SELECT line FROM events WHERE name = ?", (name,))]
        query = "SELECT line FROM windows JOIN series ON series.id = series WHERE name = ?"
        total = sum(json.loads(line)["sum"] for (line,) in db.execute(query, (name,)))
        return sorted(line["fields"]["n"] for line in lines), total
    finally:
        db.close()


def app_killed(made: Ground, way: Way, process: subprocess.Popen[bytes]) -> None:
    """And, where files keep what was not acknowledged, started again with the same folder."""
    process.kill()
    process.wait()
    if way.spool:
        subprocess.run([sys.executable, "-c", NEXT % ADOPT_S], env=made.env(way), check=True)


def agent_killed(made: Ground, way: Way, process: subprocess.Popen[bytes]) -> None:
    del way, process
    kill(made.agent.process)
    time.sleep(1)
    made.agent_up()


def gateway_killed(made: Ground, way: Way, process: subprocess.Popen[bytes]) -> None:
    del way, process
    kill(made.gateway.process)
    time.sleep(1)
    made.gateway_up()


def network_cut(made: Ground, way: Way, process: subprocess.Popen[bytes]) -> None:
    """To the gateway: nothing passes in either direction, and nobody is told."""
    del way, process
    made.cut("void")
    time.sleep(CUT_S)
    made.cut("")


def kill(process: subprocess.Popen[bytes] | None) -> None:
    assert process is not None
    process.send_signal(signal.SIGKILL)
    process.wait()
