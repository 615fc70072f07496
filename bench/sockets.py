"""One ZeroMQ socket for each thread against one for the process: what a call costs the thread that makes it, and what
the connections cost the receiver. The decision that rests on it is in ARCHITECTURE.md.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.machine import Table, resident_mib

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 3
CALLS = int(os.environ.get("BENCH_COUNT", "16000"))
THREADS = 16
PROCESSES = 16

ROUTER = """
import sys, zmq
context = zmq.Context()
context.set(zmq.MAX_SOCKETS, 2000)
router = context.socket(zmq.ROUTER)
if sys.argv[1]:
    router.curve_server, router.curve_secretkey = True, sys.argv[1].encode()
port = router.bind_to_random_port("tcp://127.0.0.1")
print(port, flush=True)
upto = {}
while True:
    identity, frame = router.recv_multipart()
    header = frame[:200]
    at = header.find(b'"seq":')
    if at > 0:
        upto[identity] = int(header[at + 6 : header.index(b",", at)])
    if at > 0 or b'"hello"' in header:
        router.send_multipart([identity, b'{"ack":%d,"n":0}' % upto.get(identity, 0)])
"""
"""Reads everything and acknowledges it at once, without storing anything."""

CALLER = """
import sys, threading, time
import zmq, sendoff
from base64 import urlsafe_b64encode
from zmq.utils import z85
from sendoff import current, frame
from sendoff.content import payload
from sendoff.scope import in_force
from sendoff.sending.outbox import Durable

way, port, server, calls, threads = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
public, secret = zmq.curve_keypair()
def text(key): return urlsafe_b64encode(z85.decode(key)).decode().rstrip("=")
curve = f"zmq+curve://{text(secret)}@127.0.0.1:{port}?server={text(server.encode())}"
sendoff.init(curve if server else f"zmq+tcp://127.0.0.1:{port}", service="bench", linger=10, buffer=2**28)
sendoff.event("begin")
assert sendoff.flush(10), sendoff.stats()
context = zmq.Context()
own = threading.local()

def open_own():
    own.socket = context.socket(zmq.DEALER)
    own.socket.linger, own.socket.immediate, own.seq = 10000, 1, 0
    own.held = {}
    if server:
        own.socket.curve_serverkey, own.socket.curve_publickey = server.encode(), public
        own.socket.curve_secretkey = secret
    own.socket.connect(f"tcp://127.0.0.1:{port}")
    own.socket.poll(10000, zmq.POLLOUT)
    own.socket.send(frame.hello("0" * 32, {}, 1, 1, {}))
    own.send = own.socket.send

body = payload.event("bench.done", in_force(), current.client.scrubber, {"number": 1, "text": "y" * 900})
ID = "0" * 36

def through_one(n):
    current.client.outbox.submit(Durable("event", ID, time.time_ns() // 1_000_000, body, None))

def through_own(n):
    own.seq += 1
    own.held[own.seq] = ready = frame.durable("0" * 32, "event", own.seq, ID, time.time_ns() // 1_000_000, body, {})
    own.send(ready, zmq.NOBLOCK)
    while own.socket.get(zmq.EVENTS) & zmq.POLLIN:  # the acknowledgements, which nobody else may read
        upto = frame.answer(own.socket.recv(zmq.NOBLOCK)).upto
        while own.held and (first := next(iter(own.held))) <= upto:
            del own.held[first]

taken, gate = [], threading.Barrier(threads + 1)
def work(call):
    if way == "own": open_own()
    gate.wait()
    clock, mine = time.perf_counter_ns, []
    for n in range(calls // threads):
        began = clock()
        call(n)
        mine.append(clock() - began)
        time.sleep(0.0005 * threads)
    taken.extend(mine)
    gate.wait()

call = through_own if way == "own" else through_one
workers = [threading.Thread(target=work, args=(call,), daemon=True) for _ in range(threads)]
for each in workers: each.start()
gate.wait()
gate.wait()
taken.sort()
print(taken[len(taken) // 2], taken[len(taken) * 99 // 100], flush=True)
__import__("os")._exit(0)
"""

CONNECTOR = """
import sys, time, os
import zmq
from sendoff import frame
port, server, sockets = sys.argv[1], sys.argv[2], int(sys.argv[3])
public, secret = zmq.curve_keypair()
context = zmq.Context()
made = []
for _ in range(sockets):
    socket = context.socket(zmq.DEALER)
    socket.linger, socket.immediate = 0, 1
    if server:
        socket.curve_serverkey, socket.curve_publickey, socket.curve_secretkey = server.encode(), public, secret
    socket.connect(f"tcp://127.0.0.1:{port}")
    made.append(socket)
for socket in made:
    socket.poll(30000, zmq.POLLOUT)
    socket.send(frame.hello("0" * 32, {}, 1, 1, {}))
for seq in range(1, 51):
    for socket in made:
        socket.send(frame.durable("0" * 32, "event", seq, "x" * 36, 0, b"y" * 1000, {}))
        socket.poll(30000)
        socket.recv()
print("ready", flush=True)
sys.stdin.read()
"""


def measure() -> Table:
    table = Table(
        "A socket for the process or for each thread: what a call does with an event of 1 KB once that is rendered, ns "
        f"on the calling thread, {CALLS:,} calls 0.5 ms apart, median of {ROUNDS}; {PROCESSES} processes of {THREADS} "
        "threads at one receiver",
        [
            "socket",
            "CURVE",
            "1 thread",
            "p99",
            f"{THREADS} threads",
            "p99",
            "connections",
            "receiver, MiB more",
            "KiB each",
        ],
    )
    for curve in (False, True):
        for way, each in (("one", 1), ("own", THREADS)):
            cells = []
            for threads in (1, THREADS):
                rounds = [_call(way, threads, curve=curve) for _ in range(ROUNDS)]
                cells += [f"{statistics.median(column):,.0f}" for column in zip(*rounds, strict=True)]
            more, connections = _receiver(each, curve=curve), PROCESSES * each
            name = "one for the process" if way == "one" else "one for each thread"
            cells += [str(connections), f"{more:.1f}", f"{more * 1024 / connections:.0f}"]
            table.add(name, "yes" if curve else "no", *cells)
    return table


def _call(way: str, threads: int, *, curve: bool) -> tuple[float, float]:
    with _router(curve=curve) as (_, port, server):
        done = subprocess.run(
            [sys.executable, "-c", CALLER, way, port, server, str(CALLS), str(threads)],
            check=True,
            capture_output=True,
            text=True,
        )
    median, p99 = done.stdout.split()
    return float(median), float(p99)


def _receiver(sockets: int, *, curve: bool) -> float:
    """MiB that the receiver has more with connections that have each carried 50 events."""
    with _router(curve=curve) as (pid, port, server), ExitStack() as stack:
        before = resident_mib(pid)
        for _ in range(PROCESSES):
            connector = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", CONNECTOR, port, server, str(sockets)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            stack.callback(connector.terminate)
            assert connector.stdout is not None
            assert connector.stdout.readline() == b"ready\n"
        connections = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        assert connections >= PROCESSES * sockets, "all are connected"
        return resident_mib(pid) - before


@contextmanager
def _router(*, curve: bool) -> Iterator[tuple[int, str, str]]:
    """A receiver; gives its process id, its port and its public key (empty without CURVE)."""
    import zmq

    public, secret = (key.decode() for key in zmq.curve_keypair()) if curve else ("", "")
    with subprocess.Popen([sys.executable, "-c", ROUTER, secret], stdout=subprocess.PIPE, text=True) as router:
        assert router.stdout is not None
        try:
            yield router.pid, router.stdout.readline().strip(), public
        finally:
            router.terminate()
