"""What happens around the client on a direct route, over real ZeroMQ and real HTTP: the end of the process with a
gateway that is there, dead, hung or slow; forks, signals, patched threads, no threads at all.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

import sendoff
from clients.python.tests.http_peer import HttpPeer
from clients.python.tests.peer import until
from clients.python.tests.zmq_peer import RouterPeer

Run = Callable[..., subprocess.CompletedProcess[str]]
PATHS = ("zmq", "http")


class Way:
    """A peer and the address by which it is reached."""

    def __init__(self, path: str) -> None:
        self.peer: RouterPeer | HttpPeer = RouterPeer("tcp://127.0.0.1:*") if path == "zmq" else HttpPeer()
        self.address = (
            self.peer.endpoint.replace("tcp://", "zmq+tcp://")
            if isinstance(self.peer, RouterPeer)
            else self.peer.address
        )

    def hang(self) -> None:
        """Nothing is answered any more."""
        if isinstance(self.peer, HttpPeer):
            self.peer.answering.clear()
        else:
            self.peer.acknowledging = False

    def sums(self) -> dict[str, float]:
        """What counters add up to."""
        found: dict[str, float] = {}
        for got in self.peer.of("metrics"):
            for line in got.lines:
                name, _, rest = line.partition(":")
                found[name] = found.get(name, 0) + sum(float(value) for value in rest.split("|")[0].split(":"))
        return found


@pytest.fixture(params=PATHS)
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    made = Way(request.param)
    yield made
    sendoff.close(0.5)
    made.peer.close()
    assert made.peer.complaints == []


def dead_address(path: str) -> str:
    """Where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    return f"zmq+tcp://127.0.0.1:{port}" if path == "zmq" else f"http://KEY@127.0.0.1:{port}"


def test_a_script_that_ends_sends_everything_and_says_bye(way: Way, run: Run) -> None:
    run(
        "import sendoff; sendoff.init()\n"
        "for i in range(200): sendoff.event('order', i=i); sendoff.increment('orders', 2)\n",
        SENDOFF_ADDRESS=way.address,
    )
    assert [got.body["fields"]["i"] for got in way.peer.durable] == list(range(200))
    assert way.sums() == {"orders": 400}
    until(lambda: way.peer.of("bye"), "the bye")
    assert way.peer.of("bye")[0].body == {"last_seq": 200, "last_n": way.peer.points, "dropped": {}}


@pytest.mark.parametrize("words", ["sendoff.event('x')", "sendoff.increment('x')"])
@pytest.mark.parametrize("path", PATHS)
def test_a_script_ends_within_its_linger_though_nobody_is_there(path: str, words: str, run: Run) -> None:
    began = time.monotonic()
    run(f"import sendoff\nsendoff.init(linger=1)\n{words}", SENDOFF_ADDRESS=dead_address(path))
    assert time.monotonic() - began < 4


def test_a_script_ends_within_its_linger_though_nothing_is_answered(way: Way, run: Run) -> None:
    way.hang()
    began = time.monotonic()
    run(
        "import sendoff\nsendoff.init(linger=1)\nsendoff.event('x'); sendoff.increment('y')",
        SENDOFF_ADDRESS=way.address,
    )
    assert 1 <= time.monotonic() - began < 5
    assert way.peer.durable, "it was sent all the same"


@pytest.mark.parametrize("path", PATHS)
def test_a_script_ends_within_its_linger_though_the_peer_takes_a_connection_and_says_nothing(
    path: str, run: Run
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        port = silent.getsockname()[1]
        began = time.monotonic()
        run(
            "import sendoff\nsendoff.init(linger=1)\nsendoff.event('x')",
            SENDOFF_ADDRESS=f"zmq+tcp://127.0.0.1:{port}" if path == "zmq" else f"http://KEY@127.0.0.1:{port}",
        )
        assert 1 <= time.monotonic() - began < 5


def test_a_gateway_that_comes_later_gets_what_was_held(run: Run) -> None:
    address = dead_address("zmq")
    sendoff.init(address)
    sendoff.event("early")
    sendoff.increment("early")
    until(lambda: sendoff.stats()["trouble"], "some trouble")
    peer = RouterPeer(address.removeprefix("zmq+"))
    assert sendoff.flush(20)
    assert peer.durable[0].body["name"] == "early"
    assert peer.points == 1
    sendoff.close(1)
    peer.close()
    assert peer.complaints == []


def test_a_child_after_a_fork_speaks_for_itself(way: Way, run: Run) -> None:
    run(
        "import sendoff, os; sendoff.init()\n"
        "for i in range(50): sendoff.event('parent', i=i); sendoff.increment('parent')\n"
        "children = []\n"
        "for c in range(3):\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        for i in range(20): sendoff.event('child', c=c, i=i); sendoff.increment('child')\n"
        "        sendoff.close(10); os._exit(0)\n"
        "    children.append(pid)\n"
        "for pid in children: assert os.waitpid(pid, 0)[1] == 0\n"
        "sendoff.event('after'); assert sendoff.flush(10)\n",
        SENDOFF_ADDRESS=way.address,
    )
    names = [got.body["name"] for got in way.peer.durable]
    assert (names.count("parent"), names.count("child"), names.count("after")) == (50, 60, 1)
    assert way.sums() == {"parent": 50, "child": 60}
    clients = {
        got.body["name"]: {each.client for each in way.peer.durable if each.body["name"] == got.body["name"]}
        for got in way.peer.durable
    }
    assert (len(clients["parent"]), len(clients["child"])) == (1, 3)
    until(lambda: len(way.peer.of("bye")) == 4, "a bye of each")


def test_a_signal_handler_sends_too_and_may_raise_through_any_call(way: Way, run: Run) -> None:
    done = run(
        "import sendoff, signal, time\n"
        "class Over(BaseException): pass\n"
        "n = 0\n"
        "def handler(*a):\n"
        "    global n; n += 1\n"
        "    sendoff.event('from a handler', n=n); sendoff.increment('handler')\n"
        "    if n % 2: raise Over\n"
        "sendoff.init()\n"
        "signal.signal(signal.SIGALRM, handler)\n"
        "calls = 0\n"
        "for i in range(300):\n"
        "    try:\n"
        "        signal.setitimer(signal.ITIMER_REAL, 0.0005 + i % 7 * 0.0003)\n"
        "        while True:\n"
        "            sendoff.event('x'); sendoff.increment('x'); calls += 1\n"
        "            if i % 5 == 0: sendoff.flush(0.001)\n"
        "            if calls % 50 == 0: time.sleep(0.0003); \n"
        "            if n > i: break\n"
        "    except Over: pass\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "print(n, sendoff.flush(20))\n"
        "s = sendoff.stats()\n"
        "print(s['events'], s['points'] == s['points_acked'], s['dropped'], s['internal_error'])\n",
        SENDOFF_ADDRESS=way.address,
    )
    first, second = done.stdout.splitlines()
    count, flushed = first.split()
    events, points, dropped, errors = second.split(" ", 3)
    assert (int(count) > 250, flushed, points, errors) == (True, "True", "True", "0")
    dropped_events = 0 if dropped == "{}" else int(dropped.split(":")[1].strip(" }"))
    handled = [got for got in way.peer.durable if got.body["name"] == "from a handler"]
    assert len({got.body["fields"]["n"] for got in handled}) + dropped_events >= int(count)
    assert len({got.header["seq"] for got in way.peer.durable}) == int(events)
    assert way.sums()["handler"] >= int(count)


def test_a_process_with_patched_threads_keeps_its_promises(way: Way, run: Run) -> None:
    done = run(
        "from gevent import monkey; monkey.patch_all()\n"
        "import gevent, sendoff, time\n"
        "sendoff.init()\n"
        "def work(n):\n"
        "    with sendoff.context(greenlet=n):\n"
        "        for i in range(50):\n"
        "            sendoff.event('green', n=n, i=i); sendoff.increment('green'); gevent.sleep(0)\n"
        "gevent.joinall([gevent.spawn(work, n) for n in range(10)], raise_error=True)\n"
        "print(sendoff.flush(10), sendoff.stats()['dropped'], sendoff.stats()['internal_error'])\n"
        "sendoff.event('later')\n"
        "end = time.monotonic() + 10\n"
        # this never yields to another greenlet, so only a real thread can send
        "while sendoff.stats()['acked'] != 501 and time.monotonic() < end: pass\n"
        "print(sendoff.stats()['acked'])\n",
        SENDOFF_ADDRESS=way.address,
    )
    assert done.stdout.split("\n")[:2] == ["True {} 0", "501"], done.stdout + done.stderr
    assert way.sums() == {"green": 500}
    assert len(way.peer.durable) == 501


def test_without_a_thread_callers_send_and_the_end_of_the_process_too(way: Way, run: Run) -> None:
    run(
        "import _thread\n"
        "start = _thread.start_new_thread\n"
        "def refuse(work, *rest):\n"
        "    if work.__module__ == 'sendoff.sending.worker': raise RuntimeError('no thread for you')\n"
        "    return start(work, *rest)\n"
        "_thread.start_new_thread = refuse\n"
        "import sendoff; sendoff.init()\n"
        "import time\n"
        "for i in range(1000):\n"
        "    assert sendoff.event('x', text='y' * 500)\n"
        "    sendoff.increment('x')\n"
        "    time.sleep(0.0005)\n"
        "assert sendoff.stats()['acked'] > 50, 'acknowledgements are read by callers where no thread does'\n",
        SENDOFF_ADDRESS=way.address,
    )
    until(lambda: way.peer.of("bye"), "the bye")
    assert (len(way.peer.durable), way.sums()) == (1_000, {"x": 1_000})


def test_threads_of_an_application_that_ends_lose_nothing_that_was_called_before(way: Way, run: Run) -> None:
    run(
        "import sendoff, threading; sendoff.init()\n"
        "def work(n):\n"
        "    for i in range(100): sendoff.event('x', n=n, i=i); sendoff.increment('x')\n"
        "threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]\n"
        "for t in threads: t.start()\n"
        "for t in threads: t.join()\n",
        SENDOFF_ADDRESS=way.address,
    )
    by_thread: dict[int, list[int]] = {}
    for got in way.peer.durable:
        by_thread.setdefault(got.body["fields"]["n"], []).append(got.body["fields"]["i"])
    assert by_thread == {n: list(range(100)) for n in range(8)}, "in the order of their calls"
    assert way.sums() == {"x": 800}
