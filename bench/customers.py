"""Many customers on one port: each with a project, a CURVE key, a client and a connection of its own, all sending."""

from __future__ import annotations

import json
import os
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import apsw

from bench.machine import Table, cpu_seconds, resident_mib
from bench.ways import Ground, app, ask, ground
from demo.parts import wait_until

CUSTOMERS = int(os.environ.get("BENCH_CUSTOMERS", "500"))
PROCESSES = 5
EVENTS = 100
"""Of 1 KB, from each."""
SENDER = """
import json, sys, time
from sendoff.client import Client
from sendoff.settings import Settings
clients = []
for line in sys.stdin:
    word, *rest = line.split(None, 1)
    if word == "connect":
        for address in json.loads(rest[0]):
            clients.append(Client(Settings({"address": address, "service": "bench"}, {})))
        for client in clients: client.event("bench.first", {"filling": "x" * 850})
        good = [client.flush(120) for client in clients]
        print(json.dumps(sum(good)), flush=True)
    elif word == "send":
        for number in range(int(rest[0])):
            for client in clients: client.event("bench.done", {"n": number, "filling": "x" * 850})
        good = [client.flush(120) for client in clients]
        print(json.dumps(sum(good)), flush=True)
    else:
        dropped = [client.stats()["dropped"] for client in clients]
        print(json.dumps(sum(sum(each.values()) for each in dropped)), flush=True)
"""


def measure() -> Table:
    table = Table(
        f"{CUSTOMERS} customers on one port, each with a project, a CURVE key and a connection, each sending {EVENTS} "
        "events of 1 KB",
        [
            *("gateway's memory: idle", "all connected", "a connection", "after sending", "connected within"),
            *("stored/s", "µs CPU of the gateway per event", "events lost", "stored twice"),
        ],
    )
    with ground(agent=False) as made, ExitStack() as stack:
        addresses = keys(made)
        assert made.gateway.process is not None
        pid = made.gateway.process.pid
        time.sleep(3)
        idle = resident_mib(pid)
        environment = {**os.environ, "SENDOFF_EXCEPTHOOKS": "off"}
        apps = [stack.enter_context(app(SENDER, environment)) for _ in range(PROCESSES)]
        began = time.perf_counter()
        together(apps, [f"connect {json.dumps(addresses[at::PROCESSES])}" for at in range(PROCESSES)])
        connecting = time.perf_counter() - began
        time.sleep(2)
        connected = resident_mib(pid)
        cpu, began = cpu_seconds(pid), time.perf_counter()
        together(apps, [f"send {EVENTS}"] * PROCESSES)
        took = time.perf_counter() - began
        cpu = (cpu_seconds(pid) - cpu) / (CUSTOMERS * EVENTS) * 1e6
        dropped = sum(ask(process, "dropped") for process in apps)
        expected = CUSTOMERS * (EVENTS + 1)
        wait_until("all stored", lambda: stored(made)[0] >= expected - dropped, seconds=60)
        lines, ids, fewest, most = stored(made)
        table.add(
            *(f"{idle:.0f} MiB", f"{connected:.0f} MiB", f"{(connected - idle) / CUSTOMERS * 1024:.0f} KiB"),
            *(f"{resident_mib(pid):.0f} MiB", f"{connecting:.1f} s", f"{CUSTOMERS * EVENTS / took:,.0f}", f"{cpu:.0f}"),
            *(str(expected - ids), str(lines - ids)),
        )
        assert fewest == most == EVENTS + 1 or dropped, f"customers have between {fewest} and {most} events"
    return table


def keys(made: Ground) -> list[str]:
    """An address for each customer. The command that makes one is run once, its function for all others: to start
    Python five hundred times is not what is measured.
    """
    from sendoff_server.gateway import keys as store
    from sendoff_server.wire.curve import to_text

    before, _, _ = made.curve.removeprefix("zmq+curve://").partition("@")
    found = []
    for number in range(CUSTOMERS):
        secret = to_text(store.create_curve(Path(made.folder) / "gateway", f"customer-{number}").secret)
        found.append(made.curve.replace(before, secret).replace(f":{made.wired_zmq}", f":{made.zmq_port}"))
    return found


def together(apps: list[subprocess.Popen[str]], words: list[str]) -> None:
    """Say a word to each at once, and wait for all."""
    for process, word in zip(apps, words, strict=True):
        assert process.stdin is not None
        process.stdin.write(word + "\n")
        process.stdin.flush()
    good = 0
    for process in apps:
        assert process.stdout is not None
        good += json.loads(process.stdout.readline())
    assert good == CUSTOMERS, f"{CUSTOMERS - good} customers could not send within two minutes"


def stored(made: Ground) -> tuple[int, int, int, int]:
    """Rows, different ids, and the fewest and most of one project."""
    db = apsw.Connection(str(made.folder / "gateway" / "gateway.sqlite3"), flags=apsw.SQLITE_OPEN_READONLY)
    db.set_busy_timeout(5_000)
    try:
        counts = [n for (n,) in db.execute("SELECT count(*) FROM events GROUP BY project")]
        lines, ids = next(iter(db.execute("SELECT count(*), count(DISTINCT id) FROM events")))
        return lines, ids, min(counts, default=0), max(counts, default=0)
    finally:
        db.close()
