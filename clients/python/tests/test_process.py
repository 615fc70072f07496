"""What happens around the client: forks, signals, the end of the process, patched threads, no threads at all."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

import sendoff
from clients.python.tests.peer import Peer, listen, until
from sendoff import current
from sendoff.client import Client

Run = Callable[..., subprocess.CompletedProcess[str]]


def child(work: Callable[[], None]) -> int:
    """Run `work` in a forked child that ends by `os._exit`; its exit status."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_os_exit_right_after_an_event_loses_nothing(peer: Peer, run: Run) -> None:
    run("import sendoff, os; sendoff.init(); sendoff.event('last words', n=1); os._exit(0)")
    until(lambda: peer.durable, "the event")
    assert peer.durable[0].body["name"] == "last words"


def test_the_end_of_the_process_flushes_points_and_says_bye(peer: Peer, run: Run) -> None:
    run("import sendoff; sendoff.init(); sendoff.increment('a'); sendoff.event('b'); sendoff.increment('a', 2)")
    until(lambda: peer.of("bye"), "the bye")
    assert peer.points == 2
    assert peer.of("bye")[0].body == {"last_seq": 1, "last_n": 2, "dropped": {}}


def test_a_process_ends_in_time_when_acknowledgements_do_not_come(peer: Peer, run: Run) -> None:
    peer.acknowledging = False
    began = time.monotonic()
    run("import sendoff; sendoff.init(linger=0.5); sendoff.event('b')")
    assert 0.5 <= time.monotonic() - began < 5
    until(lambda: peer.of("bye"), "the bye")


@pytest.mark.parametrize("script", ["sendoff.event('x')", "sendoff.increment('x')", "pass"])
def test_a_process_without_an_agent_ends_at_once(run: Run, script: str) -> None:
    began = time.monotonic()
    run(f"import sendoff\nsendoff.init(linger=30)\n{script}")
    assert time.monotonic() - began < 5


def test_an_uncaught_exception_is_reported_and_still_printed(peer: Peer, run: Run) -> None:
    done = run("import sendoff; sendoff.init()\ndef f(): raise ValueError('ouch 7')\nf()", check=False)
    assert done.returncode == 1
    assert "ValueError: ouch 7" in done.stderr
    until(lambda: peer.durable, "the exception")
    assert peer.durable[0].body["chain"][0]["message"] == "ouch 7"


def test_an_interrupt_by_the_user_is_no_exception_to_report(peer: Peer, run: Run) -> None:
    done = run("import sendoff; sendoff.init(); sendoff.event('x')\nraise KeyboardInterrupt", check=False)
    assert "KeyboardInterrupt" in done.stderr
    until(lambda: peer.of("bye"), "the bye")
    assert [got.kind for got in peer.durable] == ["event"]


def test_an_uncaught_exception_in_a_thread_is_reported_and_still_printed(peer: Peer, run: Run) -> None:
    done = run(
        "import sendoff, threading; sendoff.init()\nt = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()"
    )
    assert "ZeroDivisionError" in done.stderr
    until(lambda: peer.durable, "the exception")
    assert peer.durable[0].body["name"] == "ZeroDivisionError"


def test_a_child_after_a_fork_is_a_client_of_its_own(peer: Peer, address: str) -> None:
    sendoff.init(address)
    sendoff.event("parent")
    sendoff.increment("parent")
    assert sendoff.flush(5)

    def work() -> None:
        sendoff.event("child")
        sendoff.increment("child")
        assert sendoff.flush(5)

    assert child(work) == 0
    sendoff.event("parent again")
    sendoff.increment("parent")
    assert sendoff.flush(5)
    until(lambda: len(peer.durable) == 3 and peer.points == 3, "three events and three points")
    by_name = {got.body["name"]: got for got in peer.durable}
    assert by_name["child"].client != by_name["parent"].client == by_name["parent again"].client
    assert by_name["child"].header["seq"] == 1
    assert by_name["parent again"].header["seq"] == 2
    assert len(peer.connections) == 2, "the parent's connection must not have been touched"
    assert not peer.of("bye")


def test_a_child_has_no_descriptor_of_its_parents_client(peer: Peer, address: str) -> None:
    def sockets() -> int:
        found = 0
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError):  # the listing's own descriptor
                found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        return found

    before = sockets()
    sendoff.init(address)
    sendoff.event("x")
    sendoff.increment("x")
    assert sendoff.flush(5)
    others = len(peer.connections)

    def work() -> None:
        assert sockets() == before + others

    assert sockets() > before + others
    assert child(work) == 0


def test_a_child_forgets_what_its_parent_had_not_sent(address: str, socket_path: Path) -> None:
    sendoff.init(address)
    sendoff.event("held by the parent")
    sendoff.increment("held.by.the.parent")

    def work() -> None:
        stats = sendoff.stats()
        assert stats["held"] == 0
        assert stats["points_waiting"] == 0
        sendoff.event("child")

    assert child(work) == 0
    peer = listen(socket_path)
    assert sendoff.flush(5)
    assert [got.body["name"] for got in peer.durable] == ["held by the parent"]
    sendoff.close(1)
    peer.close()


def test_a_fork_while_another_thread_is_inside_does_not_lock_the_child(peer: Peer, address: str) -> None:
    sendoff.init(address)
    assert isinstance(current.client, Client)

    def work() -> None:
        sendoff.event("child")
        assert sendoff.flush(5)

    statuses: list[int] = []
    assert current.client.outbox.lock.run(lambda: statuses.append(child(work)))
    assert statuses == [0]
    assert [got.body["name"] for got in peer.durable] == ["child"]


def test_bound_instruments_work_across_a_fork(peer: Peer, address: str) -> None:
    counter = sendoff.counter("bound")
    sendoff.init(address)
    counter.increment()

    def work() -> None:
        counter.increment(2)
        assert sendoff.flush(5)

    assert child(work) == 0
    assert sendoff.flush(5)
    until(lambda: sorted(peer.lines()) == ["bound:1|c", "bound:2|c"], "both points")


def test_a_signal_handler_that_sends_while_a_send_is_interrupted_leaves_no_gap(peer: Peer, address: str) -> None:
    sendoff.init(address)
    fired = 0

    def handler(number: int, frame: object) -> None:
        nonlocal fired
        fired += 1
        sendoff.event("from the handler", number=fired)
        sendoff.increment("from.the.handler")

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for number in range(1_500):
            sendoff.event("interrupted", number=number)
            sendoff.increment("interrupted")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert sendoff.flush(10)
    assert fired > 10
    assert len(peer.durable) == 1_500 + fired
    until(lambda: peer.points == 1_500 + fired, "all points")
    assert sendoff.stats()["dropped"] == {}


TIME_LIMITS = """
import sendoff, signal
sendoff.init()
class TimeIsUp(Exception):
    "As a job runner's time limit raises it."
def handler(number, frame):
    raise TimeIsUp
signal.signal(signal.SIGALRM, handler)
passed = 0
for number in range(300):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0003)
        for _ in range(100):
            sendoff.event("limited", number=number)
            sendoff.increment("limited")
        signal.setitimer(signal.ITIMER_REAL, 0)
    except TimeIsUp:
        passed += 1
print(passed, sendoff.event("afterwards") is not None, sendoff.flush(10))
stats = sendoff.stats()
print(stats["events"], stats["points"], stats["held"], stats["dropped"], stats["internal_error"])
"""


def test_an_exception_from_a_signal_handler_passes_through_and_the_client_lives_on(peer: Peer, run: Run) -> None:
    passed, *fine, events, points, held, dropped, errors = run(TIME_LIMITS).stdout.split()
    assert int(passed) > 250, "a time limit must never be swallowed"
    assert fine == ["True", "True"]
    assert (held, dropped, errors) == ("0", "{}", "0")
    until(lambda: peer.of("bye"), "the bye")
    assert max(peer.durable, key=lambda got: int(got.header["seq"])).body["name"] == "afterwards"
    assert {got.header["seq"] for got in peer.durable} == set(range(1, int(events) + 1))
    assert peer.points == int(points)
    peer.complaints = [complaint for complaint in peer.complaints if "ended inside" not in complaint]


def test_a_process_with_patched_threads_keeps_its_promises(peer: Peer, run: Run) -> None:
    done = run(
        "from gevent import monkey; monkey.patch_all()\n"
        "import gevent, sendoff, time, _thread, sys\n"
        "sendoff.init()\n"
        "def work(n):\n"
        "    with sendoff.context(greenlet=n):\n"
        "        for i in range(50):\n"
        "            sendoff.event('green', n=n, i=i); sendoff.increment('green'); gevent.sleep(0)\n"
        "gevent.joinall([gevent.spawn(work, n) for n in range(10)], raise_error=True)\n"
        "print(sendoff.flush(5), sendoff.stats()['dropped'], sendoff.stats()['internal_error'])\n"
        "sendoff.increment('later')\n"
        "end = time.monotonic() + 5\n"
        # this never yields to another greenlet, so only a real thread can send
        "while sendoff.stats()['points'] != 501 and time.monotonic() < end: pass\n"
        "print(sendoff.stats()['points'])\n"
    )
    assert done.stdout.split("\n")[:2] == ["True {} 0", "501"], done.stdout + done.stderr
    assert len(peer.durable) == 500
    assert all(got.body["tags"]["greenlet"] == str(got.body["fields"]["n"]) for got in peer.durable)


def test_without_threads_callers_send_and_the_end_of_the_process_too(peer: Peer, run: Run) -> None:
    run(
        "import _thread\n"
        'def refuse(*a): raise RuntimeError("can\'t start new thread")\n'
        "_thread.start_new_thread = refuse\n"
        "import sendoff; sendoff.init(buffer=65536)\n"
        "import time\n"
        "for i in range(2000):\n"
        "    assert sendoff.event('x', text='y' * 500) or True\n"
        "    sendoff.increment('x')\n"
        "    time.sleep(0.0002)\n"
    )
    until(lambda: peer.of("bye"), "the bye")
    dropped = peer.of("bye")[0].body["dropped"]
    assert peer.points + dropped.get("metric.buffer_full", 0) == 2_000
    assert len(peer.durable) + dropped.get("event.buffer_full", 0) == 2_000
    assert len(peer.durable) > 300, "acknowledgements must be read by callers where no thread does"


def test_a_multiprocessing_child_flushes_its_points(peer: Peer, run: Run) -> None:
    run(
        "import multiprocessing, sendoff\n"
        "sendoff.init()\n"
        "def work(): sendoff.increment('from.a.child')\n"
        "context = multiprocessing.get_context('fork')\n"
        "children = [context.Process(target=work) for _ in range(3)]\n"
        "for c in children: c.start()\n"
        "for c in children: c.join()\n"
    )
    until(lambda: peer.points == 3, "the points of three children")


def test_hooks_that_another_hook_keeps_in_place_report_nothing_once_they_are_switched_off(peer: Peer, run: Run) -> None:
    script = """
import sendoff, sys
sendoff.init(service="job")
ours = sys.excepthook
sys.excepthook = lambda *what: ours(*what)
sendoff.init(service="job", excepthooks=False)
sendoff.event("last")
raise ValueError("not for Sendoff")
"""
    assert "ValueError" in run(script, check=False).stderr
    until(lambda: bool(peer.of("bye")), "goodbye")
    assert [got.kind for got in peer.of("event", "exception")] == ["event"]
