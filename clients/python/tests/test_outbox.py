"""The seams of the outbox that only unlucky timing reaches, reached here on purpose and without a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

import sendoff
from clients.python.tests.peer import Peer, until
from sendoff import current
from sendoff.client import Client
from sendoff.metrics import series
from sendoff.sending.holder import Durable
from sendoff.sending.lock import TryLock
from sendoff.sending.outbox import MOMENTS, Outbox
from sendoff.tally import Tally


@pytest.fixture
def outbox(address: str) -> Outbox:
    """The outbox of a client whose thread is never started."""
    sendoff.init(address, buffer=65_536)
    assert isinstance(current.client, Client)
    made = current.client.outbox
    made._thread_after = float("inf")
    return made


def once_inside(outbox: Outbox, monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> None:
    """Do `work` the next time somebody is inside, as a signal handler or another thread might."""
    send = outbox.route.send
    left = [work]

    def sending(*args: object) -> None:
        send(*args)  # type: ignore[arg-type]
        if left:
            left.pop()()

    monkeypatch.setattr(outbox.route, "send", sending)


def test_what_comes_while_somebody_is_inside_is_written_before_they_leave(
    peer: Peer, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    once_inside(outbox, monkeypatch, lambda: sendoff.event("inner"))
    sendoff.event("outer")
    until(lambda: [got.body["name"] for got in peer.durable] == ["outer", "inner"], "both events", 2)


def test_an_event_that_meets_another_thread_inside_is_written_before_its_call_returns(
    peer: Peer, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sendoff.sending.outbox.MOMENTS", (0.01,) * 3_000)
    inside = threading.Event()

    def slowly() -> None:
        inside.set()
        time.sleep(0.1)

    holder = threading.Thread(target=outbox.lock.run, args=(slowly,))
    holder.start()
    assert inside.wait(10)
    assert sendoff.event("at the same time")
    assert outbox.channel.held.whole == 1
    holder.join()


def test_a_thread_that_stays_inside_holds_up_nobody_for_long(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, over = threading.Event(), threading.Event()

    def for_long() -> None:
        inside.set()
        over.wait(30)

    holder = threading.Thread(target=outbox.lock.run, args=(for_long,))
    holder.start()
    assert inside.wait(10)
    assert sendoff.event("left to the other")
    slept: list[float] = []
    with monkeypatch.context() as patch:
        patch.setattr("sendoff.sending.worker.native", lambda module, name: slept.append)
        assert sendoff.event("so is this")
    assert slept == [], "one wait for a thread that is inside, not one for each event"
    assert holder.is_alive()
    assert len(outbox.pending) == 2
    over.set()
    holder.join()
    assert sum(MOMENTS) < 0.002


def test_what_was_left_to_a_thread_that_only_looked_is_written_all_the_same(peer: Peer, address: str) -> None:
    sendoff.init(address)
    sendoff.event("first")
    assert sendoff.flush(30)
    assert isinstance(current.client, Client)
    outbox = current.client.outbox
    until(lambda: outbox._turned[0] is None and outbox._turned[1], "the thread at rest, watching the peer", 30)
    inside, over = threading.Event(), threading.Event()

    def look() -> None:  # as `stats` and `receipt.wait` do
        inside.set()
        over.wait(30)

    holder = threading.Thread(target=outbox.lock.run, args=(look,))
    holder.start()
    assert inside.wait(10)
    assert sendoff.event("second")
    over.set()
    holder.join()
    until(lambda: len(peer.durable) == 2, "both events", 30)


def test_a_signal_handler_does_not_wait_for_the_thread_that_it_interrupted(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("sendoff.sending.worker.native", lambda module, name: slept.append)
    once_inside(outbox, monkeypatch, lambda: sendoff.event("inner"))
    sendoff.event("outer")
    assert slept == []


def test_what_is_pending_is_bounded_too(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    results: list[str | None] = []
    once_inside(outbox, monkeypatch, lambda: results.extend(sendoff.event("x", t="y" * 1000) for _ in range(200)))
    sendoff.event("outer")
    assert 40 < len([result for result in results if result]) < 66
    assert sendoff.stats()["dropped"] == {"event.buffer_full": results.count(None)}


def test_the_holder_checks_the_room_again(outbox: Outbox) -> None:
    crowd = [Durable("event", "id", 0, b"x" * 1000) for _ in range(200)]
    outbox.pending.extend(crowd)  # as if many threads had passed the first check at one moment
    assert sendoff.event("last", text="y" * 3000) is None
    dropped = sum(durable.dropped for durable in crowd)
    assert 130 < dropped < 160
    assert sendoff.stats()["dropped"] == {"event.buffer_full": dropped + 1}
    assert outbox.channel.held.bytes <= 65_536


def test_a_point_that_comes_as_the_thread_falls_asleep_keeps_it_awake(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert outbox.turn()[0] is None, "nothing to do: no timeout"
    next_due = outbox.holder.due_in
    line = series("late", "c", 1, {})
    assert line is not None

    def and_then_a_point(now: float) -> float | None:
        timeout = next_due(now)
        outbox.points.queue.append((line, 1))  # by a caller who did not see the thread asleep
        return timeout

    monkeypatch.setattr(outbox.holder, "due_in", and_then_a_point)
    timeout, _ = outbox.turn()
    assert timeout is not None
    assert timeout <= 0.1
    outbox.points.queue.clear()


def test_a_lock_lets_one_in_and_is_free_after_an_exception() -> None:
    lock = TryLock()
    seen: list[object] = []
    assert lock.run(lambda: seen.append(lock.run(seen.append, "second")))
    assert seen == [False]

    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lock.run(fail)
    assert lock.run(seen.append, "third")
    assert repr(lock) == "TryLock(free)"


def test_a_tally_is_exact_between_threads() -> None:
    import threading

    tally = Tally()

    def work() -> None:
        for _ in range(20_000):
            tally.one("metric.closed")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        tally.read("metric.closed")
    for thread in threads:
        thread.join()
    tally.many("metric.closed", 5)
    assert tally.totals("metric.") == {"metric.closed": 80_005}
    assert tally.totals("event.") == {}


def test_where_no_thread_runs_callers_send_the_points(peer: Peer, outbox: Outbox) -> None:
    for _ in range(5_000):
        sendoff.increment("x")
    until(lambda: peer.points > 3_000, "the points")
    assert sendoff.stats()["dropped"] == {}


def test_a_thread_that_cannot_be_started_is_tried_again_and_again(
    peer: Peer, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(outbox: Outbox) -> None:
        raise OSError("too many open files")

    sendoff.init(address)
    assert isinstance(current.client, Client)
    made = current.client.outbox
    with monkeypatch.context() as patch:
        patch.setattr("sendoff.sending.outbox.worker.start", refuse)
        for _ in range(10):
            made._thread_after = 0.0
            sendoff.event("x")
    made._thread_after = 0.0
    sendoff.event("x")
    until(lambda: made.thread_runs, "the thread")


def test_an_event_is_held_when_no_descriptor_is_left_for_a_connection(
    peer: Peer, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("_socket.socketpair", none_left)
        patch.setattr("sendoff.sending.unix._socket.socket", none_left)
        sendoff.init(address)
        assert sendoff.event("x") is not None
        assert sendoff.stats()["dropped"] == {}
    assert sendoff.flush(5)
    assert [got.body["name"] for got in peer.durable] == ["x"]


def test_an_error_of_ours_after_an_event_was_kept_does_not_say_that_it_was_dropped(
    peer: Peer, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise KeyError("a fault of ours")

    once_inside(outbox, monkeypatch, fail)
    assert sendoff.event("x") is not None
    stats = sendoff.stats()
    assert (stats["dropped"], stats["internal_error"]) == ({}, 1)
    assert sendoff.flush(5)
    assert len(peer.durable) == 1
    outbox.tally._many["internal_error"] -= 1


def test_what_comes_too_late_is_counted_and_opens_no_connection(peer: Peer, outbox: Outbox) -> None:
    peer.acknowledging = False
    sendoff.event("in time")
    sendoff.close(0)
    outbox._closing = False  # as for a thread that had looked before the end
    assert sendoff.event("late") is None
    outbox._closing = True
    assert sendoff.flush(0.05) is False
    stats = sendoff.stats()
    assert (stats["connected"], stats["connects"], stats["dropped"]) == (False, 1, {"event.closed": 1})
