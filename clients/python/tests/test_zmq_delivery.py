"""Events and points over ZeroMQ, end to end: receivers that die, come back, refuse, are slow."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

import sendoff
from clients.python.tests.peer import until
from clients.python.tests.zmq_peer import Key, RouterPeer

SERVER, CLIENT = Key(), Key()
ROOT = Path(__file__).parents[3]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


def curve_address(port: int, client: Key = CLIENT, server: Key = SERVER, host: str = "127.0.0.1") -> str:
    return f"zmq+curve://{client.secret_text}@{host}:{port}?server={server.public_text}"


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def gateways(port: int) -> Iterator[list[RouterPeer]]:
    """Gateways one after the other on one port; none may have anything to complain about."""
    made: list[RouterPeer] = []
    yield made
    sendoff.close(0)
    for each in made:
        each.close()
        assert each.complaints == []


def gateway(port: int, *, knows: bool = True, like: RouterPeer | None = None) -> RouterPeer:
    """One that starts; `like` had stored something before."""
    made = RouterPeer(f"tcp://127.0.0.1:{port}", SERVER, (CLIENT.public,) if knows else ())
    if like is not None:
        made.upto, made.n = dict(like.upto), dict(like.n)
    return made


def test_what_was_not_acknowledged_is_sent_again_after_a_reconnect(port: int, gateways: list[RouterPeer]) -> None:
    gateways.append(gateway(port))
    sendoff.init(curve_address(port))
    sendoff.event("stored")
    assert sendoff.flush(5)
    gateways[0].acknowledging = False
    for n in range(20):
        sendoff.event("lost on the way", n=n)
        sendoff.increment("lost.on.the.way")
    until(lambda: gateways[0].points and len(gateways[0].durable) == 21, "all of it")
    gateways[0].close()
    stored = gateways[0]
    client = stored.got[0].client
    stored.upto[client], stored.n[client] = 1, 0
    gateways.append(gateway(port, like=stored))
    sendoff.event("after")
    assert sendoff.flush(10)
    assert gateways[1].names == ["lost on the way"] * 20 + ["after"]
    assert gateways[1].points == stored.points, "and so are points"
    assert sendoff.stats()["dropped"] == {}


def test_a_receiver_that_acknowledges_no_points_gets_them_once(tmp_path: Path) -> None:
    peer = RouterPeer(f"ipc://{tmp_path}/agent.zmq")
    peer.points_too = False
    sendoff.init(f"zmq+ipc://{tmp_path}/agent.zmq")
    for _ in range(50):
        sendoff.increment("count")
        sendoff.event("x")
    assert sendoff.flush(5)
    sendoff.close(2)
    until(lambda: peer.of("bye"), "the bye")
    peer.close()
    assert peer.complaints == []
    assert len(peer.durable) == 50
    assert sum(float(line.split(":")[1].split("|")[0]) for got in peer.of("metrics") for line in got.lines) == 50


def test_a_key_that_is_revoked_is_told_from_a_dead_gateway_and_the_secret_stays_one(
    port: int, gateways: list[RouterPeer]
) -> None:
    gateways.append(gateway(port, knows=False))
    sendoff.init(curve_address(port))
    sendoff.event("held")
    until(lambda: sendoff.stats()["trouble"], "the trouble")
    time.sleep(0.3)
    assert "does not know this key, or it was revoked" in str(sendoff.stats()["trouble"])
    assert CLIENT.secret_text not in str(sendoff.stats())
    assert gateways[0].refused_attempts == 1, "it is not asked again for half a minute"
    assert sendoff.stats()["held"] == 1


def test_answers_that_ask_for_later_are_heeded(port: int, gateways: list[RouterPeer]) -> None:
    gateways.append(gateway(port))
    gateways[0].answer_with = lambda got: [b'{"again": 1}']
    sendoff.init(curve_address(port))
    sendoff.event("x")
    until(lambda: gateways[0].got, "the hello")
    began = time.monotonic()
    until(lambda: sendoff.stats()["trouble"], "the trouble")
    gateways[0].answer_with = None
    until(lambda: sendoff.stats()["acked"] == 1, "the acknowledgement")
    assert time.monotonic() - began >= 0.9


def test_a_gateway_given_by_name_is_found(port: int, gateways: list[RouterPeer]) -> None:
    gateways.append(gateway(port))
    sendoff.init(curve_address(port, host="localhost"))
    sendoff.event("x")
    assert sendoff.flush(10)


def test_a_gateway_that_is_stopped_for_a_while_costs_calls_nothing_and_loses_nothing(
    port: int, gateways: list[RouterPeer]
) -> None:
    gateways.append(gateway(port))
    sendoff.init(curve_address(port))
    sendoff.event("x", n=-1)
    assert sendoff.flush(5)
    gateways[0].reading = False
    slowest = 0.0
    for n in range(3_000):
        began = time.perf_counter()
        sendoff.event("x", n=n, text="y" * 1_000)
        slowest = max(slowest, time.perf_counter() - began)
    assert slowest < 0.5
    gateways[0].reading = True
    assert sendoff.flush(20)
    assert [got.body["fields"]["n"] for got in gateways[0].durable] == list(range(-1, 3_000))
    assert sendoff.stats()["connects"] == 1


def start(port: int, file: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "clients.python.tests.zmq_peer", f"tcp://127.0.0.1:{port}", str(file)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "ready\n"
    return process


def test_a_receiver_killed_again_and_again_has_every_event_once(port: int, tmp_path: Path) -> None:
    random = Random(5)
    file = tmp_path / "stored"
    process = start(port, file)
    sendoff.init(f"zmq+tcp://127.0.0.1:{port}", linger=5)
    stop = threading.Event()
    sent: list[list[int]] = [[], []]

    def work(thread: int) -> None:
        n = 0
        while not stop.is_set():
            if sendoff.event("x", thread=thread, n=n, text="y" * 400) is not None:
                sent[thread].append(n)
            n += 1
            time.sleep(0.0005)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in (0, 1)]
    for each in threads:
        each.start()
    for _ in range(5):
        time.sleep(random.uniform(0.1, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process = start(port, file)
    stop.set()
    for each in threads:
        each.join()
    try:
        assert sendoff.flush(20), sendoff.stats()
    finally:
        process.kill()
        process.wait()
    stored = Counter((row[2]["thread"], row[2]["n"]) for row in map(json.loads, file.read_text().splitlines()))
    assert stored == Counter((thread, n) for thread in (0, 1) for n in sent[thread])
    assert sendoff.stats()["connects"] in range(6, 1_000)
