"""One ZeroMQ port for all customers: what a flood costs the gateway, and what another customer notices of it."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import zmq

from bench.machine import Table, cpu_seconds, resident_mib, stage, started
from sendoff_server.gateway import keys
from sendoff_server.inputs.zmq.keyfile import server_pair
from sendoff_server.wire.curve import make_pair

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from demo.parts import Stage
    from sendoff_server.wire.curve import Pair

    Socket = zmq.Socket[bytes]

SECONDS = 10.0
FLOODS = {
    "nothing": "",
    "one customer beyond its rate": "frames",
    "keys that nobody knows": "unknown",
    "half greetings": "half",
}


def measure() -> Table:
    table = Table(
        f"An event of one customer every 20 ms, until it is acknowledged as stored, beside a flood, {SECONDS:g} s each",
        ["flood of", "median ms", "99 % ms", "attempts/s", "gateway: µs CPU per attempt", "MiB more"],
    )
    for name, flood in FLOODS.items():
        with stage() as made, _gateway(made) as (pid, port):
            store = made.folder / "gateway"
            mine, theirs = keys.create_curve(store, "mine"), keys.create_curve(store, "theirs")
            server = server_pair(store).public
            _times(port, server, mine, 1.0)
            calm_cpu, memory = cpu_seconds(pid), resident_mib(pid)
            _times(port, server, mine, SECONDS / 2)
            calm = (cpu_seconds(pid) - calm_cpu) * 2
            with _flood(flood, port, server, theirs) as attempts:
                before = cpu_seconds(pid)
                times = _times(port, server, mine, SECONDS)
                spent = cpu_seconds(pid) - before - calm
            made_in = attempts()
            table.add(
                name,
                f"{times[len(times) // 2] * 1e3:.1f}",
                f"{times[int(len(times) * 0.99)] * 1e3:.1f}",
                f"{made_in / SECONDS:,.0f}",
                f"{max(0.0, spent) / made_in * 1e6:.0f}" if made_in else "",
                f"{resident_mib(pid) - memory:.0f}",
            )
    return table


@contextmanager
def _gateway(made: Stage) -> Iterator[tuple[int, int]]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    part = made.gateway()
    part.env["SENDOFF_GATEWAY_ZMQ_LISTEN"] = f"127.0.0.1:{port}"
    part.env["SENDOFF_GATEWAY_DIRECT_RATE"] = "1 MiB"
    with started(part, f"{made.gateway_url}/readyz") as pid:
        yield pid, port


def _times(port: int, server: bytes, pair: Pair, seconds: float) -> list[float]:
    """Seconds from sending an event to its acknowledgement, in order of length."""
    context: zmq.Context[Socket] = zmq.Context()
    peer, client, seq = _peer(context, port, server, pair), secrets.token_hex(16), 0
    peer.send(_frame(client, "hello", {"service": "mine"}))
    peer.recv()
    times = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        seq += 1
        began = time.perf_counter()
        peer.send(_event(client, seq, 500))
        while json.loads(peer.recv())["ack"] < seq:
            pass
        times.append(time.perf_counter() - began)
        time.sleep(0.02)
    context.destroy(0)
    return sorted(times)


@contextmanager
def _flood(kind: str, port: int, server: bytes, pair: Pair) -> Iterator[Callable[[], int]]:
    """A process that floods meanwhile. Gives what says afterwards how many attempts it made in SECONDS."""
    if not kind:
        yield lambda: 0
        return
    given = json.dumps([kind, port, server.hex(), pair.public.hex(), pair.secret.hex()])
    process = subprocess.Popen([sys.executable, "-m", "bench.port", given], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    began = time.monotonic()
    ended: list[float] = []

    def attempts() -> int:
        said, _ = process.communicate(timeout=30)
        return int(int(said) * SECONDS / (ended[0] - began))

    try:
        yield attempts
    finally:
        ended.append(time.monotonic())
        process.send_signal(signal.SIGTERM)


class _Flood:
    """In a process of its own: attempts until it is told to end, then their number."""

    def __init__(self, kind: str, port: int, server: bytes, pair: Pair) -> None:
        self._port, self._server, self._pair = port, server, pair
        self._attempt = {"frames": self._frames, "unknown": self._unknown, "half": self._half}[kind]
        self._context: zmq.Context[Socket] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, 2_000)
        self._open: list[socket.socket] = []

    def run(self) -> int:
        going = [True]
        signal.signal(signal.SIGTERM, lambda *_: going.clear())
        print("ready", flush=True)
        made = 0
        while going:
            made += self._attempt()
        self._context.destroy(0)
        return made

    def _frames(self) -> int:
        peer, client = _peer(self._context, self._port, self._server, self._pair), secrets.token_hex(16)
        peer.send(_frame(client, "hello", {"service": "theirs"}))
        sent = 0
        for seq in range(1, 5_000):
            with suppress(zmq.Again):
                peer.send(_event(client, seq, 2_000), zmq.NOBLOCK)
                sent += 1
            if peer.poll(0) and b"again" in peer.recv():
                break
        peer.close(0)
        return sent

    def _unknown(self) -> int:
        peers = [_peer(self._context, self._port, self._server, make_pair()) for _ in range(50)]
        monitors = [each.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH) for each in peers]
        refused = sum(bool(each.poll(2_000)) for each in monitors)
        for each in peers:
            each.disable_monitor()
            each.close(0)
        return refused

    def _half(self) -> int:
        sock = socket.create_connection(("127.0.0.1", self._port))
        with suppress(OSError):
            sock.sendall(b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01CURVE" + b"\0" * 47)
        self._open.append(sock)
        if len(self._open) > 500:
            self._open.pop(0).close()
        time.sleep(0.001)
        return 1


def _peer(context: zmq.Context[Socket], port: int, server: bytes, pair: Pair) -> Socket:
    made = context.socket(zmq.DEALER)
    made.linger, made.reconnect_ivl, made.sndhwm = 0, -1, 200
    made.curve_serverkey, made.curve_publickey, made.curve_secretkey = server, pair.public, pair.secret
    made.connect(f"tcp://127.0.0.1:{port}")
    return made


def _frame(client: str, kind: str, payload: dict[str, object], **header: object) -> bytes:
    head = {"v": 1, "client": client, "kind": kind, **header}
    return json.dumps(head).encode() + b"\n" + json.dumps(payload).encode()


def _event(client: str, seq: int, size: int) -> bytes:
    made = os.urandom(10).hex()
    name = f"{time.time_ns() // 1_000_000:012x}"
    event = f"{name[:8]}-{name[8:]}-7{made[:3]}-8{made[3:6]}-{made[6:18]}"
    payload: dict[str, object] = {"name": "tick", "fields": {"filling": "x" * size}}
    return _frame(client, "event", payload, seq=seq, id=event, t=time.time_ns() // 1_000_000)


if __name__ == "__main__":
    what, number, key, public, secret = json.loads(sys.argv[1])
    print(
        _Flood(what, number, bytes.fromhex(key), type(make_pair())(bytes.fromhex(public), bytes.fromhex(secret))).run()
    )
