"""ZeroMQ in a process that is not ours: forks, ends, patched threads, no pyzmq. All through the client."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import sendoff
from clients.python.tests.peer import until
from clients.python.tests.test_process import child
from clients.python.tests.zmq_peer import Key, RouterPeer
from sendoff import current
from sendoff.client import Client

Run = Callable[..., subprocess.CompletedProcess[str]]
SERVER, CLIENT = Key(), Key()


@pytest.fixture
def peer() -> Iterator[RouterPeer]:
    """A gateway's side that must have nothing to complain about in the end."""
    made = RouterPeer("tcp://127.0.0.1:*", SERVER, (CLIENT.public,))
    yield made
    sendoff.close(0.5)
    made.close()
    assert made.complaints == []


@pytest.fixture
def address(peer: RouterPeer) -> str:
    port = peer.endpoint.rsplit(":", 1)[1]
    return f"zmq+curve://{CLIENT.secret_text}@127.0.0.1:{port}?server={SERVER.public_text}"


def sockets() -> set[str]:
    """The TCP and Unix sockets that this process has open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the listing's own descriptor
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return {name for name in found if name.startswith("socket:")}


def test_a_forked_child_is_a_client_of_its_own_and_the_parents_connection_lives_on(
    peer: RouterPeer, address: str
) -> None:
    sendoff.init(address)
    sendoff.event("parent")
    assert sendoff.flush(5)

    def work() -> None:
        sendoff.event("child")
        assert sendoff.flush(5)
        sendoff.close(1)

    assert child(work) == 0
    sendoff.event("parent again")
    assert sendoff.flush(5)
    by_name = {got.body["name"]: got for got in peer.durable}
    assert by_name["child"].client != by_name["parent"].client == by_name["parent again"].client
    assert by_name["parent again"].connection == by_name["parent"].connection, "its connection was not disturbed"
    assert [got.client for got in peer.of("bye")] == [by_name["child"].client]


def test_a_child_closes_the_connection_it_inherited_and_nothing_of_the_apps(peer: RouterPeer, address: str) -> None:
    before = sockets()
    sendoff.init(address)
    sendoff.event("x")
    assert sendoff.flush(5)
    with socket.socket() as own, open(os.devnull) as file:
        ours = sockets() - before
        kept = before | {f"socket:[{os.fstat(own.fileno()).st_ino}]"}
        assert ours

        def work() -> None:
            inherited = sockets() - kept
            assert not [name for name in inherited if name in connections], inherited
            os.fstat(file.fileno())

        connections = tcp_to(address) & ours
        assert len(connections) == 1
        assert child(work) == 0


def tcp_to(address: str) -> set[str]:
    """The connections of this process to the port of an address, from the client's side."""
    port = int(address.split("?")[0].rsplit(":", 1)[1])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {f"socket:[{row[9]}]" for row in rows if int(row[2].split(":")[1], 16) == port}


def test_a_parents_connection_ends_with_the_parent_though_its_child_lives(peer: RouterPeer, address: str) -> None:
    script = (
        "import os, sys, time, sendoff\n"
        f"sendoff.init({address!r})\n"
        "sendoff.event('x'); assert sendoff.flush(5)\n"
        "if os.fork() == 0: time.sleep(60); os._exit(0)\n"
        "time.sleep(0.2); os._exit(0)\n"  # the child has its hooks run before it sleeps
    )
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    try:
        process.wait(20)
        assert len(peer.durable) == 1
        until(lambda: not established(address), "the connection has ended")
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def established(address: str) -> list[str]:
    port = int(address.split("?")[0].rsplit(":", 1)[1])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row[9] for row in rows if row[3] == "01" and int(row[2].split(":")[1], 16) == port]


def test_a_child_that_sends_nothing_collects_garbage_and_ends_at_once(peer: RouterPeer, address: str) -> None:
    script = (
        "import gc, os, sys, time, sendoff\n"
        f"sendoff.init({address!r})\n"
        "sendoff.event('x'); assert sendoff.flush(5)\n"
        "statuses = []\n"
        "for way in range(4):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        if way == 0: gc.collect(); sys.exit(0)\n"
        "        if way == 1: sendoff.close(); sys.exit(0)\n"
        "        if way == 2:\n"
        "            import zmq; zmq.Context.instance().socket(zmq.PUSH).close(); sys.exit(0)\n"
        "        os._exit(0)\n"
        "    statuses.append(os.waitpid(pid, 0)[1])\n"
        "print(statuses, sendoff.event('y') is not None, sendoff.flush(5))\n"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    assert (done.stdout, done.stderr) == ("[0, 0, 0, 0] True True\n", "")
    assert time.monotonic() - began < 5
    assert peer.names == ["x", "y"]


@pytest.mark.parametrize("way", ["children of children", "multiprocessing", "while threads send", "daemon"])
def test_every_process_of_a_family_delivers_what_it_was_told_it_would(peer: RouterPeer, address: str, way: str) -> None:
    ways = {
        "children of children": (
            "for depth in range(3):\n"
            "    if os.fork():\n"
            "        sendoff.event('x', depth=depth); assert sendoff.flush(5); os.wait(); os._exit(0)\n"
            "sendoff.event('x', depth=3); assert sendoff.flush(5)\n"
        ),
        "multiprocessing": (
            "import multiprocessing\n"
            "def work(n): sendoff.event('x', n=n)\n"
            "family = [multiprocessing.get_context('fork').Process(target=work, args=(n,)) for n in range(3)]\n"
            "[one.start() for one in family]; [one.join() for one in family]\n"
        ),
        "while threads send": (
            "import threading\n"
            "stop = []\n"
            "def work():\n"
            "    while not stop: sendoff.event('thread'); time.sleep(0.0005)\n"
            "threads = [threading.Thread(target=work) for _ in range(3)]\n"
            "[one.start() for one in threads]\n"
            "for n in range(4):\n"
            "    pid = os.fork()\n"
            "    if pid == 0: sendoff.event('x', n=n); os._exit(not sendoff.flush(5))\n"
            "    assert os.waitpid(pid, 0)[1] == 0\n"
            "stop.append(1); [one.join() for one in threads]; assert sendoff.flush(5)\n"
        ),
        "daemon": (
            "if os.fork(): os._exit(0)\n"
            "os.setsid()\n"
            "if os.fork(): os._exit(0)\n"
            "for n in range(4): sendoff.event('x', n=n)\n"
            "sendoff.close(5)\n"
        ),
    }
    done = subprocess.run(
        [sys.executable, "-c", f"import os, time, sendoff\nsendoff.init({address!r})\n" + ways[way]],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    expected = 3 if way == "multiprocessing" else 4
    until(lambda: peer.names.count("x") == expected, "an event of each")


def test_a_fork_while_another_thread_is_inside_does_not_lock_the_child(peer: RouterPeer, address: str) -> None:
    sendoff.init(address)
    sendoff.event("parent")
    assert sendoff.flush(5)
    assert isinstance(current.client, Client)

    def work() -> None:
        sendoff.event("child")
        assert sendoff.flush(5)

    statuses: list[int] = []
    lock = current.client.outbox.lock
    until(lambda: lock.run(lambda: statuses.append(child(work))), "the lock")
    assert statuses == [0]
    assert peer.names == ["parent", "child"]


def test_threads_that_end_leave_nothing_behind(peer: RouterPeer, address: str) -> None:
    import threading

    sendoff.init(address)

    def many() -> int:
        threads = [threading.Thread(target=lambda: sendoff.event("x")) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sendoff.flush(5)
        return len(os.listdir("/proc/self/fd"))

    assert many() == many()
    assert peer.connections == 1, "the threads of a process share its connection"
    assert len(peer.durable) == 100


def test_a_process_with_patched_threads_keeps_its_promises(peer: RouterPeer, address: str) -> None:
    script = (
        "from gevent import monkey; monkey.patch_all()\n"
        "import gevent, sendoff, sys, time\n"
        f"sendoff.init({address!r})\n"
        "def work(n):\n"
        "    for i in range(50):\n"
        "        sendoff.event('green', n=n, i=i); sendoff.increment('green'); gevent.sleep(0)\n"
        "gevent.joinall([gevent.spawn(work, n) for n in range(10)], raise_error=True)\n"
        "print(sendoff.flush(5), sendoff.stats()['dropped'], sendoff.stats()['internal_error'])\n"
        "assert 'zmq.green' not in sys.modules\n"
        "sendoff.event('later')\n"
        "end = time.monotonic() + 5\n"
        # this never yields to another greenlet, so only a real thread can send
        "while sendoff.stats()['acked'] != 501 and time.monotonic() < end: pass\n"
        "print(sendoff.stats()['acked'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n")[:2] == ["True {} 0", "501"], done.stdout + done.stderr
    assert len(peer.durable) == 501
    until(lambda: peer.of("bye"), "the bye")
    assert sum(int(line.split(":")[1].split("|")[0]) for got in peer.of("metrics") for line in got.lines) == 500


ENDS = {
    "in order": "sendoff.event('x')",
    "closed by hand": "sendoff.event('x'); sendoff.close()",
    "by os._exit after a flush": "sendoff.event('x'); sendoff.flush(5); import os; os._exit(0)",
    "with the app's own pyzmq": (
        "import zmq; own = zmq.Context.instance().socket(zmq.PUSH); own.linger = 0\n"
        "own.connect('tcp://127.0.0.1:9'); sendoff.event('x'); import atexit; atexit.register(own.close)"
    ),
    "with the app's context terminated": (
        "import zmq; own = zmq.Context(); s = own.socket(zmq.PUSH); s.close(); own.term(); sendoff.event('x')"
    ),
    "from a daemon thread": (
        "import threading, time\n"
        "def work():\n"
        "    while True: sendoff.event('x'); time.sleep(0.001)\n"
        "threading.Thread(target=work, daemon=True).start(); time.sleep(0.3)"
    ),
    "by an exception": "sendoff.event('x'); raise SystemExit(0)",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_process_ends_at_once_and_has_delivered(peer: RouterPeer, address: str, end: str) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sendoff\nsendoff.init({address!r})\n{ENDS[end]}"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - began < 3
    until(lambda: "x" in peer.names, "the event")


@pytest.mark.parametrize("state", ["dead", "paused", "never answers", "swallows"])
@pytest.mark.parametrize("close", [True, False], ids=["closed", "not closed"])
def test_a_process_ends_in_time_whatever_its_peer_does(peer: RouterPeer, address: str, state: str, close: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        if state == "paused":
            peer.reading = False
        elif state == "never answers":
            peer.acknowledging = False
        elif state == "swallows":
            address = address.replace(peer.endpoint.rsplit(":", 1)[1], str(silent.getsockname()[1]))
        elif state == "dead":
            peer.close()
        script = (
            f"import sendoff, time\nsendoff.init({address!r}, linger=0.3)\n"
            "for _ in range(2_000): sendoff.event('x', text='y' * 500)\n"
            "time.sleep(0.1)\n"
        )
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", script + ("sendoff.close()\n" if close else "")],
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert time.monotonic() - began < 4


def test_without_pyzmq_it_is_said_what_to_install_and_other_addresses_work(tmp_path: Path) -> None:
    (tmp_path / "zmq.py").write_text("raise ImportError('there is none')")
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import sendoff\n"
        "sendoff.init('unix:///nowhere'); assert 'zmq' not in sys.modules\n"
        "try: sendoff.init(sys.argv[1])\n"
        "except sendoff.SettingError as error: print(error)\n"
        "print(sendoff.event('still there') is not None)\n"
    )
    curve = f"zmq+curve://{CLIENT.secret_text}@gateway:8129?server={SERVER.public_text}"
    done = subprocess.run([sys.executable, "-c", script, curve], capture_output=True, text=True, timeout=30, check=True)
    message, still = done.stdout.splitlines()
    assert message.endswith("Install it: pip install 'sendoff[zmq]'")
    assert CLIENT.secret_text not in done.stdout + done.stderr
    assert still == "True"


def test_a_pyzmq_that_cannot_encrypt_is_no_good_for_curve_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import zmq

    monkeypatch.setattr(zmq, "has", lambda what: False)
    with pytest.raises(sendoff.SettingError, match=r"cannot encrypt\. Install the wheel: pip install 'sendoff\[zmq\]'"):
        sendoff.init(f"zmq+curve://{CLIENT.secret_text}@gateway:8129?server={SERVER.public_text}")
    sendoff.init("zmq+tcp://127.0.0.1:9")
    sendoff.close(0)


def test_libzmq_is_loaded_for_its_own_addresses_only_and_no_thread_of_it_starts_with_init(address: str) -> None:
    script = (
        "import sys, os, sendoff\n"
        "sendoff.init('udp://127.0.0.1:9'); print('zmq' in sys.modules)\n"
        "sendoff.init(sys.argv[1]); print(len(os.listdir('/proc/self/task')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, address], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.split() == ["False", "1"]
