"""Processes that fork, in every way that applications do: each event whose call returned an id is stored once, nobody
speaks for somebody else, nobody hangs, and points add up where they are promised.

Every script writes the ids that it was given into a file, so what it was told and what the gateway has are compared.
"""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from demo.accounts import Api
from demo.parts import Part, Stage, free_port, get_json, wait_until
from tests.process.conftest import PROJECT, running

NOTED = """
import os, sendoff
CASE = os.environ["CASE"]
BOOK = os.open(os.environ["BOOK"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def send(**fields):
    event_id = sendoff.event(CASE, pid=os.getpid(), **fields)
    assert event_id
    os.write(BOOK, event_id.encode() + b"\\n")

def count(n=1):
    sendoff.increment(CASE, n)

sendoff.init(service=CASE)
"""

WEB = (
    NOTED
    + """
send(at="boot")
count()

def app(environ, start_response):
    path = environ["PATH_INFO"]
    send(at="begin", path=path)
    count()
    if path == "/exit":
        sendoff.flush(20)
        send(at="last words")
        os._exit(1)
    if path == "/pid":
        start_response("200 OK", [])
        return [b"%d %d" % (os.getpid(), os.getppid())]
    send(at="end", path=path)
    start_response("200 OK", [])
    return [b"fine"]
"""
)

MULTIPROCESSING = (
    NOTED.replace("sendoff.init(service=CASE)\n", "")
    + """
import multiprocessing, sys, threading

def work(number):
    if multiprocessing.get_start_method() != "fork":
        sendoff.init(service=CASE)
    for index in range(20):
        send(number=number, index=index)
        count()

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    sendoff.init(service=CASE)
    over = threading.Event()
    def meanwhile():
        while not over.is_set():
            send(at="meanwhile")
            count()
            over.wait(0.001)
    thread = threading.Thread(target=meanwhile)
    thread.start()
    children = [multiprocessing.Process(target=work, args=(number,)) for number in range(6)]
    for child in children: child.start()
    for child in children: child.join()
    over.set()
    thread.join()
    assert [child.exitcode for child in children] == [0] * 6
"""
)

FORKS = (
    NOTED
    + """
import sys, threading

over = threading.Event()
def meanwhile():
    while not over.is_set():
        send(at="meanwhile")
        count()
threads = [threading.Thread(target=meanwhile) for _ in range(4)]
for thread in threads: thread.start()
children = []
for number in range(30):
    pid = os.fork()
    if pid == 0:
        send(at="child", number=number)
        if number % 2:
            sendoff.close(20)
        os._exit(0)
    children.append(pid)
statuses = [os.waitpid(pid, 0)[1] for pid in children]
over.set()
for thread in threads: thread.join()
assert statuses == [0] * 30, statuses
print(os.getpid(), flush=True)
sys.stdin.readline()
"""
)

EXITS = (
    NOTED
    + """
import threading, time
begin = threading.Barrier(5)
def work(number):
    begin.wait()
    while True:
        send(at="thread", number=number)
        time.sleep(0.001)  # what the kernel has no room for is in memory, and so not promised
for number in range(4):
    threading.Thread(target=work, args=(number,), daemon=True).start()
begin.wait()
for index in range(50):
    send(at="main", index=index)
    time.sleep(0.001)
send(at="last words")
os._exit(0)
"""
)

SIGNALS = (
    NOTED
    + """
import signal, threading
fired = [0]
def handler(number, frame):
    fired[0] += 1
    send(at="handler", number=fired[0])
    count()
def meanwhile():
    for index in range(400):
        send(at="thread", index=index)
        count()
signal.signal(signal.SIGALRM, handler)
thread = threading.Thread(target=meanwhile)
thread.start()
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0007)
for index in range(1_500):
    send(at="main", index=index)
    count()
signal.setitimer(signal.ITIMER_REAL, 0)
thread.join()
assert fired[0] > 10
print(fired[0] + 1_500 + 400)
"""
)


class Case:
    """One case of the matrix: its name is service, event and counter, so that cases share an agent and a gateway."""

    def __init__(self, stage: Stage, folder: Path, name: str) -> None:
        self.stage = stage
        self.name = name
        self.book = folder / "ids"
        self.env = {
            **os.environ,
            "CASE": name,
            "BOOK": str(self.book),
            "SENDOFF_SOCKET": f"{stage.folder}/agent.sock",
            "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]),
        }

    def told(self) -> Counter[str]:
        """The ids that calls returned."""
        return Counter(self.book.read_text().split())

    def stored(self) -> Counter[str]:
        pages = Api(self.stage, PROJECT).pages(f"events?name={self.name}", "events")
        return Counter(event["id"] for event in pages)

    def points(self) -> int:
        books = get_json(f"{self.stage.agent_url}/status.json")["books"]["points_in"]
        return sum(book["received"] for book in books if book["source"] == self.name)

    def clients(self) -> dict[int, str]:
        """State by process id."""
        found: list[dict[str, Any]] = get_json(f"{self.stage.agent_url}/status.json")["clients"]
        return {memo["pid"]: memo["state"] for memo in found if memo["service"] == self.name}

    def holds(self) -> None:
        """What was told is stored: all of it, once, and nothing else."""
        wait_until("every event stored", lambda: not self.told() - self.stored(), seconds=60)
        assert self.stored() == self.told()
        assert set(self.told().values()) == {1}

    def run(self, script: str, *args: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", script, *args],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=self.env,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A gateway and an agent for all cases."""
    made = Stage(tmp_path_factory.mktemp("world"))
    made.write_config(key=None)
    made.write_config(key=made.make_key(PROJECT))
    for _ in running(made.gateway(), f"{made.gateway_url}/readyz"):
        for _ in running(made.agent(), f"{made.agent_url}/readyz"):
            yield made


@pytest.fixture
def case(world: Stage, tmp_path: Path, request: pytest.FixtureRequest) -> Case:
    return Case(world, tmp_path, "".join(c if c.isalnum() else "." for c in request.node.name)[-60:])


@contextmanager
def gunicorn(case: Case, folder: Path, *options: str) -> Iterator[tuple[Part, int]]:
    (folder / "web.py").write_text(WEB)
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "web:app", "-w", "2", "-b", f"127.0.0.1:{port}", *options]
    command += ["--graceful-timeout", "2"]
    part = Part("gunicorn", command, folder / "gunicorn.log", case.env, folder)
    part.start(f"http://127.0.0.1:{port}/ready")
    try:
        yield part, port
    finally:
        part.stop()


def get(port: int, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return str(answer.read().decode())
    except (OSError, urllib.error.HTTPError):
        return "gone"


@pytest.mark.parametrize("preload", [True, False], ids=["preload", "fresh"])
@pytest.mark.parametrize("worker", ["sync", "gthread", "gevent"])
def test_workers_of_a_web_server_lose_no_event_also_when_one_ends_in_mid_request(
    case: Case, tmp_path: Path, worker: str, preload: bool
) -> None:
    pytest.importorskip("gunicorn")
    options = ["-k", worker, *(["--preload"] if preload else []), *(["--threads", "4"] if worker == "gthread" else [])]
    with gunicorn(case, tmp_path, *options) as (part, port), ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda number: get(port, f"/{number}"), range(24))) == {"fine"}
        assert get(port, "/exit") == "gone"
        wait_until("another worker", lambda: get(port, "/pid") != "gone")
        assert set(pool.map(lambda number: get(port, f"/again/{number}"), range(24))) == {"fine"}
        assert part.process is not None
        if preload:  # its children closed what they inherited without a word
            wait_until("the master known", lambda: case.clients().get(part.process.pid) == "live")
    case.holds()
    if preload:
        wait_until("the master's own goodbye", lambda: case.clients()[part.process.pid] == "ended")
    sent = begun(case)
    wait_until("every point", lambda: case.points() == sent)


def begun(case: Case) -> int:
    """Boots and requests: each counts one."""
    pages = Api(case.stage, PROJECT).pages(f"events?name={case.name}", "events")
    return sum(event["fields"]["at"] in ("boot", "begin") for event in pages)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_multiprocessing_lose_neither_events_nor_points(case: Case, tmp_path: Path, method: str) -> None:
    script = tmp_path / "many.py"
    script.write_text(MULTIPROCESSING)
    done = subprocess.run(
        [sys.executable, str(script), method], capture_output=True, text=True, timeout=120, check=False, env=case.env
    )
    assert (done.returncode, done.stderr) == (0, "")
    case.holds()
    wait_until("every point", lambda: case.points() == sum(case.told().values()))


def test_forks_while_threads_send_neither_lose_nor_double_an_event_and_say_no_bye_for_the_parent(case: Case) -> None:
    app = subprocess.Popen(
        [sys.executable, "-c", FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=case.env
    )
    try:
        assert app.stdin is not None
        assert app.stdout is not None
        parent = int(app.stdout.readline())
        wait_until("31 clients", lambda: len(case.clients()) == 31)
        assert case.clients()[parent] == "live"
        app.stdin.write("\n")
        app.stdin.flush()
        assert app.wait(60) == 0
    finally:
        app.kill()
        app.communicate(timeout=20)
    case.holds()
    wait_until("the parent's own goodbye", lambda: case.clients()[parent] == "ended")
    states = Counter(case.clients().values())
    assert states == {"ended": 16, "tail unknown": 15}
    children = 30
    wait_until("every point", lambda: case.points() == sum(case.told().values()) - children)


@pytest.mark.parametrize("turn", range(5))
def test_a_process_that_ends_by_os_exit_while_its_threads_send_loses_no_event_that_it_was_told_of(
    case: Case, turn: int
) -> None:
    case.run(EXITS)
    told = case.told()
    assert len(told) >= 50
    wait_until("every event stored", lambda: not told - case.stored(), seconds=60)
    assert set(case.stored().values()) == {1}
    # A thread may be ended between the return of its call and its note.
    assert sum((case.stored() - told).values()) <= 4


def test_events_from_a_signal_handler_are_stored_once_like_all_others(case: Case) -> None:
    expected = int(case.run(SIGNALS))
    assert sum(case.told().values()) == expected
    case.holds()
    wait_until("every point", lambda: case.points() == expected)
