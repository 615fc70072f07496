"""Events and points over a real socket: nothing blocks, nothing is lost silently, numbers have no gaps."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

import sendoff
from clients.python.tests.peer import Peer, listen, until
from sendoff import current
from sendoff.client import Client
from sendoff.frame import Ack
from sendoff.sending.contract import Gone
from sendoff.sending.stream import SocketStream


def client() -> Client:
    assert isinstance(current.client, Client)
    return current.client


def test_an_event_is_written_before_the_call_returns(peer: Peer, address: str) -> None:
    sendoff.init(address, service="shop", env="test", release="7")
    event_id = sendoff.event("order.placed", order=17, total=49.5)
    assert client().outbox.channel.held.written_upto == 1
    until(lambda: peer.durable, "the event")
    got = peer.durable[0]
    assert got.header["id"] == event_id
    assert got.header["seq"] == 1
    assert got.body == {"name": "order.placed", "fields": {"order": 17, "total": 49.5}}


def test_the_first_frame_of_a_connection_says_who_the_client_is(peer: Peer, address: str) -> None:
    sendoff.init(address, service="shop", env="test", release="7")
    sendoff.event("x")
    until(lambda: peer.got, "the hello")
    hello = peer.got[0]
    assert hello.kind == "hello"
    assert len(hello.client) == 32
    body = hello.body
    assert (body["service"], body["env"], body["release"], body["resume_from"]) == ("shop", "test", "7", 1)
    assert body["lib"].startswith("sendoff-python/")
    assert isinstance(body["pid"], int)


def test_flush_waits_for_acknowledgements(peer: Peer, address: str) -> None:
    peer.acknowledging = False
    sendoff.init(address)
    sendoff.event("x")
    assert sendoff.flush(0.1) is False
    peer.acknowledge(peer.connections[0], peer.durable[0].client)
    assert sendoff.flush(5) is True
    assert sendoff.stats()["acked"] == 1


def test_points_come_packed_and_counted(peer: Peer, address: str) -> None:
    sendoff.init(address)
    for _ in range(3):
        sendoff.increment("orders", country="PL", app="shop")
    sendoff.gauge("level", 3)
    sendoff.gauge("level", 2.5)
    sendoff.distribution("size", 1e-7, rate=1)
    sendoff.timing("took", 12)
    sendoff.unique("users", "u|1")
    assert sendoff.flush(5)
    until(lambda: peer.points == 8, "the points: they are written, but nobody acknowledges them")
    assert sorted(peer.lines()) == [
        "level:2.5|g",
        "level:3|g",
        "orders:1:1:1|c|#app:shop,country:PL",
        "size:1e-07|d",
        "took:12|ms",
        "users:u_1|s",
    ]


def test_points_arrive_without_a_flush(peer: Peer, address: str) -> None:
    sendoff.init(address)
    sendoff.increment("a")
    until(lambda: peer.points == 1, "the point")
    sendoff.increment("a")
    until(lambda: peer.points == 2, "the point after the thread had gone to sleep")


def test_threads_that_race_leave_no_gap_and_lose_no_point(peer: Peer, address: str) -> None:
    sendoff.init(address)

    def work(number: int) -> None:
        for index in range(300):
            sendoff.event("raced", thread=number, index=index)
            for _ in range(10):
                sendoff.increment("raced", thread=number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sendoff.flush(20)
    until(lambda: peer.points >= 24_000, "all points")
    assert peer.points == 24_000
    seen = {(got.body["fields"]["thread"], got.body["fields"]["index"]) for got in peer.durable}
    assert len(seen) == len(peer.durable) == 2_400
    assert sendoff.stats()["dropped"] == {}


def test_an_agent_that_starts_later_gets_what_was_held(socket_path: Path, address: str) -> None:
    sendoff.init(address)
    ids = [sendoff.event("early", number=number) for number in range(3)]
    sendoff.increment("early")
    peer = listen(socket_path)
    until(lambda: len(peer.durable) == 3, "the held events")
    assert [got.header["id"] for got in peer.durable] == ids
    until(lambda: peer.points == 1, "the held point")
    sendoff.close(2)
    peer.close()


def test_what_was_not_acknowledged_is_sent_again_to_the_next_agent(socket_path: Path, address: str) -> None:
    first = listen(socket_path)
    first.acknowledging = False
    sendoff.init(address)
    ids = [sendoff.event("twice", number=number) for number in range(5)]
    until(lambda: len(first.durable) == 5, "the events, the first time")
    first.close()
    second = listen(socket_path)
    until(lambda: len(second.durable) == 5, "the events, the second time")
    assert [got.header["id"] for got in second.durable] == ids
    assert [got.header["seq"] for got in second.durable] == [1, 2, 3, 4, 5]
    assert second.of("hello")[0].body["resume_from"] == 1
    assert sendoff.flush(5)
    stats = sendoff.stats()
    assert stats["acked"] == 5
    assert stats["resent"] == 5
    sendoff.close(1)
    second.close()
    assert second.complaints == []


def test_an_event_right_after_the_agent_was_restarted_is_written_at_once(socket_path: Path, address: str) -> None:
    first = listen(socket_path)
    sendoff.init(address)
    sendoff.event("before")
    assert sendoff.flush(5)
    first.close()
    second = listen(socket_path)
    sendoff.event("after")
    until(lambda: second.durable, "the event")
    assert second.durable[0].header["seq"] == 2
    second.close()


def test_a_frame_that_ends_every_connection_is_given_up_and_the_next_goes_through(
    socket_path: Path, address: str
) -> None:
    peer = listen(socket_path)
    peer.acknowledging = False
    peer.hang_up_after = 2  # the hello, and then the frame after it
    sendoff.init(address)
    sendoff.event("poison")
    until(lambda: sendoff.stats()["dropped"] == {"event.unacceptable": 1}, "the poison given up", 20)
    sent = [got.header["seq"] for got in peer.durable]
    assert sent == [1, 1, 1, 1], "once, and three times again"
    peer.hang_up_after = None
    peer.acknowledging = True
    sendoff.event("good")
    assert sendoff.flush(10)
    assert peer.of("hello")[-1].body["resume_from"] == 2
    assert peer.durable[-1].header["seq"] == 2
    peer.close()


def test_refused_frames_are_let_go_and_counted_apart(peer: Peer, address: str) -> None:
    peer.refusals = {2: "payload_invalid"}
    sendoff.init(address)
    for _ in range(3):
        sendoff.event("x")
    assert sendoff.flush(5)
    stats = sendoff.stats()
    assert stats["refused"] == {"payload_invalid": 1}
    assert stats["acked"] == 2
    assert stats["dropped"] == {}


def test_a_full_buffer_drops_the_new_event_before_it_gets_a_number(socket_path: Path, address: str) -> None:
    sendoff.init(address, buffer=65_536)
    taken = 0
    while sendoff.event("filling", text="x" * 1000) is not None:
        taken += 1
    assert 40 < taken < 66
    assert sendoff.event("one more", text="x" * 1000) is None
    peer = listen(socket_path)
    assert sendoff.flush(10)
    assert [got.header["seq"] for got in peer.durable] == list(range(1, taken + 1))
    assert sendoff.event("again") is not None
    assert sendoff.flush(5)
    assert peer.durable[-1].header["seq"] == taken + 1
    assert peer.durable[-1].header["dropped"] == {"event.buffer_full": 2}
    sendoff.close(1)
    peer.close()
    assert peer.complaints == []


def test_drops_are_reported_even_when_nothing_else_is_sent(peer: Peer, address: str) -> None:
    sendoff.init(address)
    sendoff.increment("good")
    assert sendoff.flush(5)
    sendoff.increment("bad", float("nan"))
    until(lambda: any(got.header.get("dropped") == {"metric.invalid": 1} for got in peer.of("metrics")), "the report")


def test_writes_that_are_cut_short_are_finished_before_anything_else(
    peer: Peer, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sendoff.sending import stream, unix

    def small(path: str | None) -> stream.SocketStream:
        made = unix.open_unix(path)
        made._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
        return made

    monkeypatch.setattr("sendoff.sending.routes.open_unix", small)
    sendoff.init(address)
    peer.reading = False
    began = time.monotonic()
    for number in range(40):
        assert sendoff.event("large", number=number, text="y" * 20_000) is not None
        sendoff.increment("between")
    assert time.monotonic() - began < 2, "no call may wait for a peer that does not read"
    assert client().outbox.channel.busy, "the test must have cut a write short"
    peer.reading = True
    assert sendoff.flush(20)
    assert [got.body["fields"]["number"] for got in peer.durable] == list(range(40))
    until(lambda: peer.points == 40, "the points")


def test_a_connection_that_breaks_inside_a_unit_loses_no_event_and_no_point(
    socket_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sendoff.sending import stream, unix

    def small(path: str | None) -> stream.SocketStream:
        made = unix.open_unix(path)
        made._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
        return made

    monkeypatch.setattr("sendoff.sending.routes.open_unix", small)
    first = listen(socket_path)
    first.reading = False
    sendoff.init(address)
    for number in range(300):
        sendoff.unique("users", f"{number:0300}")
    until(lambda: client().outbox.channel.busy, "a metrics frame cut short")
    sendoff.event("x", text="y" * 50_000)
    before = len(first.of("metrics"))
    first.close()
    second = listen(socket_path)
    assert sendoff.flush(10)
    # what the first read whole when it was closed counts as well, but nothing may be missing or twice
    until(lambda: first.points + second.points == 300, f"300 points, {before} frames read early")
    assert [got.kind for got in second.durable] == ["event"]
    sendoff.close(1)
    second.close()
    assert second.complaints == []


def test_metrics_that_waited_say_when_they_were_counted(socket_path: Path, address: str) -> None:
    sendoff.init(address)
    sendoff.increment("late")
    began = time.time_ns() // 1_000_000
    until(lambda: time.time_ns() // 1_000_000 - began > 3_200, "more than two seconds after packing")
    peer = listen(socket_path)
    until(lambda: peer.points == 1, "the point")
    assert abs(peer.of("metrics")[0].header["t"] - began) <= 1_200
    sendoff.increment("now")
    until(lambda: peer.points == 2, "the next point")
    assert "t" not in peer.of("metrics")[-1].header
    sendoff.close(1)
    peer.close()


def test_bye_says_what_was_written_and_what_was_dropped(peer: Peer, address: str) -> None:
    sendoff.init(address)
    sendoff.event("x")
    sendoff.increment("a")
    sendoff.increment("b")
    sendoff.unique("c", "")
    sendoff.close()
    until(lambda: peer.of("bye"), "the bye")
    assert peer.of("bye")[0].body == {"last_seq": 1, "last_n": 2, "dropped": {"metric.invalid": 1}}
    assert sendoff.event("too late") is None
    sendoff.increment("too.late")
    assert sendoff.stats()["dropped"] == {"event.closed": 1, "metric.closed": 1, "metric.invalid": 1}


def test_an_answer_that_is_no_acknowledgement_ends_the_connection_and_not_the_client(peer: Peer, address: str) -> None:
    peer.acknowledging = False
    sendoff.init(address)
    sendoff.event("x")
    until(lambda: peer.durable, "the event")
    peer.connections[0].sendall(b"\x05\x00\x00\x00{nope")
    peer.acknowledging = True
    assert sendoff.flush(5)
    assert len(peer.connections) == 2


def test_a_second_init_replaces_the_first_client(peer: Peer, address: str, tmp_path: Path) -> None:
    sendoff.init(address, service="first")
    sendoff.event("x")
    first = client()
    sendoff.init(address, service="second")
    sendoff.event("y")
    until(lambda: len(peer.durable) == 2, "both events")
    assert [hello.body["service"] for hello in peer.of("hello")] == ["first", "second"]
    until(lambda: peer.of("bye"), "the goodbye of the first")
    assert first.outbox.ended
    assert peer.durable[0].client != peer.durable[1].client


def test_metrics_never_take_the_room_of_events(address: str) -> None:
    sendoff.init(address, buffer=65_536)
    for number in range(2_000):
        sendoff.unique("users", f"{number:0200}")
    assert sendoff.flush(0.05) is False
    dropped = sendoff.stats()["dropped"]
    assert isinstance(dropped, dict)
    assert dropped["metric.buffer_full"] > 1_000
    assert sendoff.event("still room", text="x" * 10_000) is not None


def test_an_acknowledgement_of_what_was_never_written_lets_go_of_nothing(peer: Peer, address: str) -> None:
    peer.acknowledging = False
    sendoff.init(address)
    sendoff.event("first")
    until(lambda: peer.durable, "the event")
    held = client().outbox.channel.held
    held.add(b"not written yet")
    held.settle(Ack(1_000_000))
    assert [frame for _, frame, _ in held.to_write] == [b"not written yet"]
    assert not held.sent
    held.to_write.clear()


def test_a_peer_that_always_hangs_up_is_not_asked_without_a_pause(peer: Peer, address: str) -> None:
    peer.hang_up_after = 1
    sendoff.init(address)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        sendoff.event("x")
        time.sleep(0.001)
    assert len(peer.connections) < 60


def test_metrics_that_wait_keep_within_what_events_have_left(address: str) -> None:
    sendoff.init(address, buffer=65_536)
    for _ in range(3):
        assert sendoff.event("held", text="x" * 20_000) is not None
    for number in range(200):
        sendoff.unique("users", f"{number:0200}")
    assert sendoff.flush(0.05) is False
    outbox = client().outbox
    assert outbox.channel.held.bytes + outbox.holder.waiting.bytes <= 65_536
    assert sendoff.stats()["dropped"] == {"metric.buffer_full": 200}


def test_what_was_never_written_is_counted_as_dropped_at_the_end(address: str) -> None:
    sendoff.init(address)
    sendoff.event("x")
    for number in range(3):
        sendoff.increment("x", number)
    sendoff.close(0)
    assert sendoff.stats()["dropped"] == {"event.closed": 1, "metric.closed": 3}


def test_a_second_init_waits_but_shortly_for_what_the_first_client_holds(peer: Peer, address: str) -> None:
    peer.acknowledging = False
    sendoff.init(address, linger=30)
    sendoff.event("x")
    began = time.monotonic()
    sendoff.init(address, linger=30)
    assert time.monotonic() - began < 5
    peer.acknowledging = True
    sendoff.init(enabled=False)


def test_an_acknowledgement_right_before_the_end_of_a_connection_counts() -> None:
    here, there = socket.socketpair()
    stream = SocketStream(here)
    here.setblocking(False)
    body = b'{"ack": 7}'
    there.sendall(len(body).to_bytes(4, "little") + body)
    there.close()
    assert [ack.upto for ack in stream.read()] == [7]
    with pytest.raises(Gone, match="closed by the agent"):
        stream.read()
    stream.close()
