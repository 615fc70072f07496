"""The way out without an agent: handing over, summing up, points that are acknowledged, waiting for a network. The
connection here is one of TCP; those of ZeroMQ and HTTP keep the same contract and have tests of their own.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sendoff
from clients.python.tests.peer import Peer, listen_tcp, until
from sendoff import current
from sendoff.client import Client
from sendoff.sending import channel, direct
from sendoff.sending.contract import Gone
from sendoff.sending.lock import TryLock
from sendoff.sending.outbox import Outbox
from sendoff.sending.stream import SocketStream, open_tcp
from sendoff.settings import Address

CURVE = f"zmq+curve://{'A' * 43}@127.0.0.1:9?server={'B' * 43}"
"""A route behind a network, with a window of a second."""
LOCAL = "zmq+tcp://127.0.0.1:9"
"""A route on this machine, with a window of 0.1 s."""


class Sockets:
    """Makes connections of TCP to a peer, whatever the address says."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reaches = "", 0
        self.ready = True
        self.opened: list[SocketStream] = []
        self.hosts: list[str] = []
        self.forgotten = False

    def prepare(self) -> None:
        pass

    def open(self, host: str, family: int) -> SocketStream:
        self.hosts.append(host)
        self.opened.append(open_tcp("127.0.0.1", self.port, 2))
        return self.opened[-1]

    def close(self, left: float) -> None:
        pass

    def forget(self) -> None:
        self.forgotten = True


@pytest.fixture
def gateway() -> Iterator[Peer]:
    """A peer that says which points it has stored, and must have nothing to complain about in the end."""
    made = listen_tcp()
    made.says_points = True
    yield made
    sendoff.close(0.5)
    made.close()
    assert made.complaints == []


@pytest.fixture
def opener(gateway: Peer, monkeypatch: pytest.MonkeyPatch) -> Sockets:
    made = Sockets(gateway.listening.getsockname()[1])

    def make_opener(address: Address, linger: float) -> Sockets:
        made.reaches = address.host, address.port
        return made

    monkeypatch.setattr(direct, "make_opener", make_opener)
    return made


def begin(address: str, **settings: Any) -> Outbox:
    sendoff.init(address, **settings)
    assert isinstance(current.client, Client)
    return current.client.outbox


def without_thread(address: str, **settings: Any) -> Outbox:
    """An outbox whose thread cannot be started, as in a uWSGI without threads."""
    outbox = begin(address, **settings)
    outbox._thread_after = float("inf")
    outbox._alone_from = 0.0
    return outbox


def calls_of(work: Callable[[], object]) -> Counter[str]:
    """What is called on this thread meanwhile, of Python and of C."""
    seen: Counter[str] = Counter()

    def look(frame: Any, event: str, arg: Any) -> None:
        if event == "call":
            seen[frame.f_code.co_qualname if sys.version_info >= (3, 11) else frame.f_code.co_name] += 1
        elif event == "c_call":
            seen[f"{getattr(arg, '__module__', None) or type(arg.__self__).__module__}.{arg.__qualname__}"] += 1

    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(None)
    return seen


SYSTEM = ("posix.", "_socket.", "select.", "_thread.", "_ssl.", "_io.", "zmq.", "fcntl.")
HARMLESS = {"posix.getpid", "posix.urandom", "posix.fspath", "_thread.get_ident"}
"""Which process this is, and random bytes for an id: calls that never wait."""


@pytest.mark.parametrize("state", ["alive", "deaf", "dead"])
def test_a_caller_takes_no_lock_and_makes_no_system_call_but_one_that_wakes_the_thread(
    gateway: Peer, opener: Sockets, state: str
) -> None:
    outbox = begin(CURVE)
    gateway.reading = state != "deaf"
    opener.port = opener.port if state != "dead" else 1
    sendoff.event("first")
    until(lambda: outbox.thread_runs, "the thread")
    line = sendoff.counter("orders")

    each: list[Callable[[], object]] = [
        lambda: sendoff.event("one more", amount=12.5, items=["a", "b"]),
        line.increment,
        lambda: sendoff.increment("by.name", plan="pro"),
    ]
    for work in (*each, *each * 50):
        calls = calls_of(work)
        assert not [name for name in calls if name.startswith(f"{TryLock.__name__}.")]
        assert calls["Waker.wake"] <= 1
        made = {name: count for name, count in calls.items() if name.startswith(SYSTEM) and name not in HARMLESS}
        assert sum(made.values()) == calls["Waker.wake"], made
        assert "time.sleep" not in calls
        time.sleep(0.001)


def test_what_a_caller_hands_over_arrives_in_order(gateway: Peer, opener: Sockets) -> None:
    begin(CURVE)
    for i in range(500):
        assert sendoff.event("order", i=i) is not None
    assert sendoff.flush(10)
    assert [got.body["fields"]["i"] for got in gateway.durable] == list(range(500))


def test_points_are_summed_up_for_a_while_before_they_are_sent(gateway: Peer, opener: Sockets) -> None:
    begin(LOCAL)
    line = sendoff.counter("orders", shop="a")
    for i in range(5_000):
        line.increment(2)
        sendoff.gauge("level", i)
        sendoff.unique("visitors", f"v{i % 3}")
        sendoff.distribution("size", i % 2)
    until(lambda: gateway.points and sendoff.stats()["points_waiting"] == 0, "the points")
    assert sendoff.flush(10)
    values: dict[str, list[str]] = {}
    for each in gateway.lines():
        name, _, rest = each.partition(":")
        values.setdefault(name, []).extend(rest.split("|")[0].split(":"))
    assert sum(map(int, values["orders"])) == 10_000
    assert values["level"][-1] == "4999"
    assert set(values["visitors"]) == {"v0", "v1", "v2"}
    assert (len(values["size"]), values["size"].count("1")) == (5_000, 2_500)
    assert gateway.points < 5_400, "of the counter, the gauge and the set next to nothing is left"
    assert sendoff.stats()["points"] == gateway.points == sendoff.stats()["points_acked"]


def test_a_window_that_holds_many_values_ends_early(gateway: Peer, opener: Sockets) -> None:
    begin(CURVE).holder.window.length = 3_600.0
    for i in range(20_000):
        sendoff.distribution("size", i)
    until(lambda: gateway.points >= 8_192, "the first of them")


def test_points_are_kept_until_they_are_stored_and_sent_again_as_they_were(
    gateway: Peer, opener: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "HELD_BACK_MS", 50)
    outbox = begin(LOCAL)
    gateway.acknowledging = False
    sendoff.increment("a", 3)
    until(lambda: gateway.points == 1, "the point")
    sendoff.increment("b", 4)
    until(lambda: gateway.points == 2, "the other point")
    assert not outbox.holder.settled()
    stats = sendoff.stats()
    assert (stats["points"], stats["points_acked"], stats["points_waiting"]) == (2, 0, 0)
    until(lambda: time.time() * 1000 - outbox.holder.waiting.sent[-1].made > 60, "their time")
    gateway.acknowledging = True
    gateway.hang_up()
    until(lambda: sendoff.stats()["points_acked"] == 2, "both of them stored")
    assert [(got.header["n"], got.lines) for got in gateway.repeats] == [(0, ["a:3|c"]), (1, ["b:4|c"])]
    assert all("t" in got.header for got in gateway.repeats), "they say when they were counted"
    assert outbox.holder.waiting.bytes == 0


def test_a_peer_that_does_not_say_which_points_it_has_gets_them_once(gateway: Peer, opener: Sockets) -> None:
    gateway.says_points = False
    outbox = begin(LOCAL)
    for i in range(3):
        sendoff.increment("a", i + 1)
        assert sendoff.flush(10), "an agent says nothing of points, so what is written is done"
    until(lambda: gateway.lines() == ["a:1|c", "a:2|c", "a:3|c"], "each of them once")
    assert not outbox.holder.waiting.sent
    assert sendoff.stats()["points_acked"] == 0


def test_flush_waits_until_points_are_stored(gateway: Peer, opener: Sockets) -> None:
    begin(CURVE)
    gateway.acknowledging = False
    sendoff.increment("a")
    assert sendoff.flush(0.2) is False
    assert gateway.lines() == ["a:1|c"], "but they are sent at once"
    gateway.acknowledging = True
    gateway.hang_up()
    assert sendoff.flush(10)


def test_a_full_buffer_drops_the_new_points_and_none_that_has_a_number(gateway: Peer, opener: Sockets) -> None:
    outbox = begin(LOCAL, buffer=65_536)
    gateway.acknowledging = False
    sendoff.increment("first")
    until(lambda: gateway.points == 1, "the first")
    for i in range(60):
        for k in range(20):
            sendoff.distribution(f"d{i}.{k}" + "x" * 100, 1)
        sendoff.flush(0)
    until(lambda: "metric.buffer_full" in str(sendoff.stats()["dropped"]), "no room")
    assert outbox.holder.waiting.bytes < 65_536 // 4 + 33_000  # beyond a quarter by one parcel at most
    gateway.acknowledging = True
    gateway.hang_up()
    assert sendoff.flush(10)
    stats = sendoff.stats()
    assert stats["dropped"] == {"metric.buffer_full": 1_201 - gateway.points}
    assert stats["points_acked"] == gateway.points


def test_points_that_were_written_and_not_acknowledged_are_not_said_to_be_dropped(
    gateway: Peer, opener: Sockets
) -> None:
    begin(CURVE)
    gateway.acknowledging = False
    sendoff.increment("a")
    sendoff.event("b")
    sendoff.close(0.3)
    until(lambda: gateway.of("bye"), "the bye")
    assert gateway.of("bye")[0].body == {"last_seq": 1, "last_n": 1, "dropped": {}}
    assert sendoff.stats()["dropped"] == {}


def test_nothing_but_a_refusal_is_held_against_an_event_behind_a_network(gateway: Peer, opener: Sockets) -> None:
    outbox = begin(CURVE)
    gateway.acknowledging, gateway.hang_up_after = False, 2
    sendoff.event("not to blame")
    until(lambda: outbox.channel.connects >= 7, "seven connections that were cut", 30)
    gateway.acknowledging, gateway.hang_up_after = True, None
    assert sendoff.flush(30)
    assert [got.body["name"] for got in gateway.durable[-1:]] == ["not to blame"]
    assert sendoff.stats()["dropped"] == {}


def test_a_peer_that_says_later_is_left_alone_for_as_long_as_it_asked(gateway: Peer, opener: Sockets) -> None:
    outbox = begin(CURVE)
    gateway.again = 0.6
    asked = time.monotonic()
    sendoff.event("patience")
    until(lambda: outbox.channel.failures == 1, "the answer")
    assert asked + 0.6 <= outbox.channel.retry_at <= time.monotonic() + 1.3
    gateway.again = None
    assert sendoff.flush(10)
    assert time.monotonic() >= asked + 0.6
    assert outbox.channel.connects == 2


def test_waits_for_a_gateway_grow_to_half_a_minute_and_one_that_asks_for_more_gets_five_at_most(
    gateway: Peer, opener: Sockets
) -> None:
    opener.port = 1  # nobody is there
    outbox = without_thread(CURVE)
    made, asked = outbox.channel, Gone("later", wait=10_000.0)
    made._rng = lambda: 1.0
    waits = []
    for i in range(14):
        made._failed(100.0 * i, Gone("no"))
        waits.append(made.retry_at - 100.0 * i)
    assert waits[:3] == pytest.approx([0.05, 0.1, 0.2])
    assert waits[-1] == 30.0
    made._failed(0.0, asked)
    assert made.retry_at == 330.0


@pytest.mark.parametrize("words", ["sendoff.event('x')", "sendoff.increment('x')"])
def test_without_a_thread_callers_send_and_a_name_is_looked_up_by_flush_alone(
    gateway: Peer, opener: Sockets, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    asked: list[str] = []

    def look_up(host: str, port: int) -> list[tuple[str, int]]:
        asked.append(host)
        return [("127.0.0.1", 2)]

    monkeypatch.setattr(direct, "look_up", look_up)
    without_thread(CURVE.replace("127.0.0.1", "gateway.example"))
    for _ in range(3_000):
        eval(words)
    assert (asked, opener.opened) == ([], [])
    assert sendoff.flush(10)
    assert asked == ["gateway.example"]
    sendoff.event("from a caller")
    until(lambda: [got for got in gateway.durable if got.body["name"] == "from a caller"], "the event")


def test_a_name_is_looked_up_by_the_clients_thread_and_its_addresses_are_tried_in_turn(
    gateway: Peer, opener: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    import _thread

    asked: list[int] = []

    def look_up(host: str, port: int) -> list[tuple[str, int]]:
        asked.append(_thread.get_ident())
        if len(asked) == 1:
            raise OSError("the resolver is ill")
        return [("127.0.0.7", 2), ("127.0.0.8", 2)]

    monkeypatch.setattr(direct, "look_up", look_up)
    begin(CURVE.replace("127.0.0.1", "gateway.example"))
    port, opener.port = opener.port, 1
    sendoff.event("x")
    until(lambda: len(set(opener.hosts)) == 2, "both addresses tried", 20)
    opener.port = port
    assert sendoff.flush(20)
    assert _thread.get_ident() not in asked


def test_a_name_that_is_not_found_is_looked_up_after_waits_that_grow(
    gateway: Peer, opener: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def look_up(host: str, port: int) -> list[tuple[str, int]]:
        asked.append(host)
        raise OSError("no such name")

    monkeypatch.setattr(direct, "look_up", look_up)
    outbox = begin(CURVE.replace("127.0.0.1", "gateway.example"), linger=0)
    sendoff.event("x")
    until(lambda: outbox.channel.failures >= 5, "five tries")
    assert len(asked) <= outbox.channel.failures + 1
    stats = sendoff.stats()
    assert (stats["connected"], stats["trouble"]) == (False, "the name gateway.example is not found: no such name")


def test_an_event_or_a_point_handed_over_while_another_thread_closes_is_counted(
    gateway: Peer, opener: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = begin(CURVE)
    sendoff.event("in time")
    assert sendoff.flush(10)

    def meanwhile(*_: object) -> float:
        sendoff.close(0.2)
        return 1e-9

    monkeypatch.setattr(outbox.holder, "has_room", meanwhile)  # who asks has seen that the client is open
    receipt = sendoff.event("late", confirm=True)
    assert (receipt.state, receipt.reason) == ("dropped", "closed")
    outbox._closing, outbox._rng = False, meanwhile
    sendoff.increment("late", rate=0.5)
    stats = sendoff.stats()
    assert (stats["dropped"], stats["points_waiting"]) == ({"event.closed": 1, "metric.closed": 1}, 0)


def test_a_child_after_a_fork_is_a_client_of_its_own_and_leaves_the_parents_connection_alone(
    gateway: Peer, opener: Sockets
) -> None:
    begin(CURVE)
    sendoff.event("parent", n=1)
    assert sendoff.flush(10)
    gateway.acknowledging = False
    sendoff.event("parent", n=2)
    sendoff.increment("parent")
    pid = os.fork()
    if pid == 0:
        try:
            gateway.listening.close()
            assert opener.forgotten
            sendoff.event("child")
            sendoff.increment("child")
            sendoff.flush(1.0)
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    until(lambda: len(gateway.durable) == 3 and gateway.points == 2, "all of both", 10)
    gateway.acknowledging = True
    gateway.hang_up()
    assert sendoff.flush(10)
    names = Counter((got.client, got.body["name"]) for got in gateway.durable)
    assert {name for _, name in names} == {"parent", "child"}
    assert len({client for client, _ in names}) == 2
    assert {got.client for got in gateway.durable if got.body["name"] == "child"} == {
        got.client for got in gateway.of("metrics") if "child:1|c" in got.lines
    }


def test_a_receipt_says_when_the_event_is_on_the_gateways_disk(gateway: Peer, opener: Sockets) -> None:
    begin(CURVE)
    receipt = sendoff.event("paid", confirm=True)
    assert receipt.wait(10)
    assert receipt.state == "spooled"
    gateway.refusals[2] = "payload_invalid"
    refused = sendoff.event("odd", confirm=True)
    assert refused.wait(10) is False
    assert (refused.state, refused.reason) == ("refused", "payload_invalid")


def test_the_secret_is_in_nothing_that_stats_say(gateway: Peer, opener: Sockets) -> None:
    opener.port = 1
    outbox = begin(CURVE)
    sendoff.event("x")
    until(lambda: sendoff.stats()["trouble"], "some trouble")
    assert "A" * 43 not in f"{sendoff.stats()} {outbox} {current.client}"
    assert sendoff.stats()["route"] == "zmq+curve"


@pytest.mark.parametrize("address", ["http://KEY@127.0.0.1:1", "zmq+tcp://127.0.0.1:1"])
def test_what_nobody_was_there_to_take_was_never_written_and_is_counted_as_dropped_at_the_end(address: str) -> None:
    outbox = begin(address, linger=0.1)
    receipts = [sendoff.event("x", confirm=True) for _ in range(10)]
    sendoff.increment("x")
    until(lambda: outbox.channel.failures >= 3, "three tries")
    sendoff.close()
    stats = sendoff.stats()
    assert stats["dropped"] == {"event.closed": 10, "metric.closed": 1}
    assert (stats["points"], stats["resent"]) == (0, 0)
    assert {(receipt.state, receipt.reason) for receipt in receipts} == {("dropped", "closed")}


def test_the_thread_outlives_a_descriptor_that_cannot_be_watched(
    gateway: Peer, opener: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = SocketStream.watch
    wrong = [((-1, False),)]
    monkeypatch.setattr(SocketStream, "watch", lambda stream: wrong.pop() if wrong else watch(stream))
    outbox = begin(CURVE)
    sendoff.event("x")
    until(lambda: gateway.durable and not wrong, "the event")
    sendoff.event("y")
    until(lambda: len(gateway.durable) == 2, "the next one")
    assert sendoff.stats()["internal_error"] == 1
    outbox.tally._many["internal_error"] -= 1
