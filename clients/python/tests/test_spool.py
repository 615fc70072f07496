"""The client with a spool, in processes of their own, towards a peer that speaks HTTP, and CURVE where that matters:
what is in the file when a process dies arrives once after the next has started.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import sendoff
from clients.python.tests.http_peer import HttpPeer
from clients.python.tests.peer import until
from clients.python.tests.test_direct_process import dead_address
from clients.python.tests.test_kept import left
from clients.python.tests.zmq_peer import Key, RouterPeer
from sendoff.sending.folder import OURS
from sendoff.spool import main as spool_command

Run = Callable[..., subprocess.CompletedProcess[str]]

SENDER = """
import sys, sendoff
sendoff.init(service="shop")
for number in range(10**6):
    sendoff.event("order", number=number)
    print(number, flush=True)
"""
HEIR = """
import os, sendoff, time
sendoff.init(service="shop", release="next")
sendoff.event("began")
def files():
    spool = os.environ["SENDOFF_SPOOL"]
    return [name for name in os.listdir(spool) if name.endswith(".sendoff")] if os.path.isdir(spool) else ["none"]
while set(files()) - {sendoff.stats()["client"] + ".sendoff"}:
    time.sleep(0.005)
sendoff.close(10)
assert not files(), files()
"""


class Gateway:
    """A peer that keeps its port when it is away, and what it knows when it comes back."""

    def __init__(self) -> None:
        self.peer = HttpPeer()
        self.address = self.peer.address

    def numbers(self) -> list[int]:
        return [got.body["fields"]["number"] for got in self.peer.durable if got.body["name"] == "order"]


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    made = Gateway()
    yield made
    sendoff.close(0.5)
    made.peer.close()
    assert made.peer.complaints == []


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@contextmanager
def sending(script: str, address: str, spool: Path) -> Iterator[subprocess.Popen[str]]:
    env = {**os.environ, "SENDOFF_ADDRESS": address, "SENDOFF_SPOOL": str(spool)}
    with subprocess.Popen([sys.executable, "-c", script], env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
            assert process.stdout is not None
            process.stdout.read()


def orders_in(spool: Path) -> list[int]:
    """The numbers of the events in all files that are not settled."""
    found = []
    for path in spool.glob("*" + OURS):
        _, frames = left(path.read_bytes())
        bodies = [json.loads(frame.partition(b"\n")[2]) for _, frame in frames]
        found += [body["fields"]["number"] for body in bodies if body["name"] == "order"]
    return found


def last_printed(process: subprocess.Popen[str], at_least: int) -> int:
    assert process.stdout is not None
    number = -1
    while number < at_least:
        number = int(process.stdout.readline())
    return number


@pytest.mark.parametrize("seed", range(6))
def test_what_is_in_the_file_when_a_process_is_killed_arrives_once_from_the_next(
    gateway: Gateway, spool: Path, run: Run, seed: int
) -> None:
    rng = random.Random(seed)
    for life in range(2):
        gateway.peer.status = rng.choice((200, 200, 503))
        with sending(SENDER, gateway.address, spool) as process:
            last_printed(process, rng.choice((0, 1, 7, 100, 700)))
            time.sleep(rng.random() * 0.05)
            process.send_signal(signal.SIGKILL)
            process.wait()
        known = {*gateway.numbers(), *orders_in(spool)}
        assert known == set(range(len(known))), "what is kept or stored has no hole in it"
        gateway.peer.status = 200
        run(HEIR, SENDOFF_ADDRESS=gateway.address, SENDOFF_SPOOL=str(spool))
        assert sorted(gateway.numbers()) == sorted(known), f"in life {life}"
        gateway.peer.got.clear()


def test_with_a_dead_gateway_every_event_is_in_the_file_soon_after_its_call(spool: Path) -> None:
    with sending(SENDER, dead_address("http"), spool) as process:
        number = last_printed(process, 500)
        until(lambda: number in orders_in(spool), "the file has it")
        process.kill()
        process.wait()
    assert orders_in(spool)[: number + 1] == list(range(number + 1))


def test_a_process_whose_gateway_is_dead_ends_at_once_as_the_file_has_its_events(
    gateway: Gateway, spool: Path, run: Run
) -> None:
    began = time.monotonic()
    script = "import sendoff\nsendoff.init(linger=20)\nfor i in range(50): sendoff.event('order', number=i)"
    run(script, SENDOFF_ADDRESS=dead_address("http"), SENDOFF_SPOOL=str(spool))
    assert time.monotonic() - began < 5
    assert orders_in(spool) == list(range(50))
    run(HEIR, SENDOFF_ADDRESS=gateway.address, SENDOFF_SPOOL=str(spool))
    assert gateway.numbers() == list(range(50))
    dead = {got.client for got in gateway.peer.durable if got.body["name"] == "order"}
    assert len(dead) == 1
    assert dead.isdisjoint(got.client for got in gateway.peer.of("bye")), "nobody says bye for the dead"


def test_a_script_whose_gateway_is_there_leaves_nothing_behind(gateway: Gateway, spool: Path, run: Run) -> None:
    script = "import sendoff\nsendoff.init()\nfor i in range(50): sendoff.event('order', number=i)"
    run(script, SENDOFF_ADDRESS=gateway.address, SENDOFF_SPOOL=str(spool))
    assert gateway.numbers() == list(range(50))
    assert list(spool.iterdir()) == []
    assert len(gateway.peer.of("bye")) == 1


FORKS = """
import os, signal, sendoff, time
sendoff.init(service="shop")
if {before}:
    sendoff.event("order", number=9000)
    while not os.path.isdir(os.environ["SENDOFF_SPOOL"]) or not os.listdir(os.environ["SENDOFF_SPOOL"]):
        time.sleep(0.001)
for worker in range(4):
    if os.fork() == 0:
        for number in range(100):
            sendoff.event("order", number=worker * 100 + number)
        while not sendoff.stats()["spool"]["kept"] == 100:
            time.sleep(0.001)
        print(worker, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
if {before}:
    while not sendoff.stats()["spool"]["kept"] == 1:
        time.sleep(0.001)
for _ in range(4):
    os.wait()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("before", [False, True], ids=["forked first", "sent first"])
def test_each_process_of_a_fork_has_a_file_of_its_own(gateway: Gateway, spool: Path, run: Run, before: bool) -> None:
    script = FORKS.format(before=before)
    run(script, check=False, SENDOFF_ADDRESS=dead_address("http"), SENDOFF_SPOOL=str(spool))
    wanted = sorted([*range(400), *([9000] if before else [])])
    assert sorted(orders_in(spool)) == wanted
    assert len(list(spool.glob("*" + OURS))) == 4 + before
    run(HEIR, SENDOFF_ADDRESS=gateway.address, SENDOFF_SPOOL=str(spool))
    assert sorted(gateway.numbers()) == wanted


def test_a_worker_that_lives_sends_what_its_dead_sibling_left(
    gateway: Gateway, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sendoff.sending.keep.LOOK_EVERY", 0.1)
    sendoff.init(gateway.address, spool=str(spool))
    sendoff.event("alive")
    until(lambda: gateway.peer.durable, "the living one has sent")
    with sending(SENDER, dead_address("http"), spool) as process:
        # the key is that of the living one, but the port leads nowhere
        until(lambda: len(orders_in(spool)) > 200, "the dead one has written")
        process.kill()
        process.wait()
    kept = orders_in(spool)
    until(lambda: sorted(gateway.numbers()) == sorted(kept), "it is sent")
    until(lambda: sendoff.stats()["spool"]["adopted_files"] == 1, "and counted")  # type: ignore[index]
    assert sendoff.flush(5)


def test_another_projects_key_gets_nothing_until_it_is_handed_over(
    gateway: Gateway, spool: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    script = (
        "import sendoff\nsendoff.init(linger=1, service='shop')\nfor i in range(5): sendoff.event('order', number=i)"
    )
    run(script, SENDOFF_ADDRESS=dead_address("http").replace("KEY", "OLD"), SENDOFF_SPOOL=str(spool))
    sendoff.init(gateway.address, spool=str(spool))
    sendoff.event("order", number=100)
    until(lambda: "another key" in str(sendoff.stats()["trouble"]), "the trouble says what waits")
    sendoff.close(2)
    assert gateway.numbers() == [100]
    assert b"OLD" not in next(spool.glob("*" + OURS)).read_bytes()
    assert spool_command([str(spool)]) == 0
    assert "5 events of shop" in capsys.readouterr().out
    assert spool_command([str(spool), "--hand-over"]) == 0
    assert "handed over" in capsys.readouterr().out
    run(HEIR, SENDOFF_ADDRESS=gateway.address, SENDOFF_SPOOL=str(spool))
    assert gateway.numbers() == [100, *range(5)]


def test_over_curve_it_is_the_same(spool: Path, run: Run) -> None:
    server, app = Key(), Key()
    peer = RouterPeer("tcp://127.0.0.1:*", server, (app.public,))
    try:
        port = peer.endpoint.rpartition(":")[2]
        address = f"zmq+curve://{app.secret_text}@127.0.0.1:{port}?server={server.public_text}"
        peer.acknowledging = False
        with sending(SENDER, address, spool) as process:
            until(lambda: len(orders_in(spool)) > 100, "some are in the file")
            process.kill()
            process.wait()
        kept = orders_in(spool)
        peer.acknowledging = True
        run(HEIR, SENDOFF_ADDRESS=address, SENDOFF_SPOOL=str(spool))
        stored = [got.body["fields"]["number"] for got in peer.of("event") if got.body["name"] == "order"]
        assert set(kept) <= set(stored), "and what was on its way before it was in the file"
    finally:
        peer.close()


def test_a_spool_that_cannot_be_used_costs_no_event_and_is_said(gateway: Gateway, spool: Path) -> None:
    spool.mkdir()
    spool.chmod(0o777)
    sendoff.init(gateway.address, spool=str(spool))
    for number in range(100):
        sendoff.event("order", number=number)
    assert sendoff.flush(5)
    assert gateway.numbers() == list(range(100))
    sendoff.event("order", number=100)
    until(lambda: "writable by nobody else" in str(sendoff.stats()["trouble"]), "it is said")


@contextmanager
def mounted(place: Path, *words: str) -> Iterator[None]:
    place.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    done = subprocess.run(["mount", *words, str(place)], check=False, capture_output=True)
    if done.returncode:
        pytest.skip(f"this cannot be mounted here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        sendoff.close(1)
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_costs_no_event_and_is_used_again_when_there_is_room(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sendoff.sending.keep.RETRY", 0.05)
    place = tmp_path / "small"
    with mounted(place, "-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs"):
        ballast = place / "ballast"
        ballast.write_bytes(b"x" * 200_000)
        gateway.peer.status = 503
        sendoff.init(gateway.address, spool=str(place), linger=0.2)
        for number in range(200):
            sendoff.event("order", number=number, text="x" * 500)
        until(lambda: "No space left" in str(sendoff.stats()["trouble"]) or sendoff.stats()["spool"]["waiting"], "full")  # type: ignore[index]
        gateway.peer.status = 200
        assert sendoff.flush(20), "sending does not wait for the disk"
        assert gateway.numbers() == list(range(200))
        ballast.unlink()
        gateway.peer.status = 503
        sendoff.event("order", number=200)
        until(lambda: orders_in(place) == [200], "there is room again, and only what is not settled is written")


def test_a_disk_that_hangs_holds_up_neither_callers_nor_sending(gateway: Gateway, tmp_path: Path) -> None:
    image, place = tmp_path / "image", tmp_path / "disk"
    image.write_bytes(b"\0" * 8_388_608)
    if subprocess.run(["mkfs.ext4", "-q", str(image)], check=False, capture_output=True).returncode:
        pytest.skip("no ext4 can be made here")
    with mounted(place, "-o", "loop", str(image)):
        spool = place / "spool"
        sendoff.init(gateway.address, spool=str(spool))
        sendoff.event("order", number=0)
        assert sendoff.flush(5)
        until(lambda: not orders_in(spool), "the disk works")
        if subprocess.run(["fsfreeze", "-f", str(place)], check=False, capture_output=True).returncode:
            pytest.skip("no file system can be frozen here")
        try:
            longest = 0.0
            for number in range(1, 500):
                began = time.monotonic()
                sendoff.event("order", number=number)
                longest = max(longest, time.monotonic() - began)
            assert longest < 0.5
            assert sendoff.flush(10), "sending does not wait for the disk"
            assert gateway.numbers() == list(range(500))
            until(lambda: "has not answered for" in str(sendoff.stats()["trouble"]), "the trouble says so")
            began = time.monotonic()
            sendoff.close(0.5)
            assert time.monotonic() - began < 2
        finally:
            subprocess.run(["fsfreeze", "-u", str(place)], check=True)
