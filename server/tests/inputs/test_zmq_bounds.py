"""The ZeroMQ input without an agent: what a peer may cost, and that none is left behind."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import zmq

from sendoff_server.inputs.zmq import input as module
from sendoff_server.inputs.zmq import peer as peers
from sendoff_server.inputs.zmq import unread
from sendoff_server.inputs.zmq.monitor import Connection
from sendoff_server.wire.frame import encode_unit

from .zmq_support import GREETING, READY, Scene, descriptors, hello, metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(params=["ipc", "tcp", "curve"])
async def scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    made = Scene(tmp_path, request.param)
    yield made
    made.close()


@pytest.fixture
async def curve(tmp_path: Path) -> AsyncIterator[Scene]:
    made = Scene(tmp_path, "curve")
    yield made
    made.close()


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Scene]:
    made = Scene(tmp_path, "ipc")
    yield made
    made.close()


async def test_a_peer_that_reads_no_answers_makes_nobody_wait_and_is_cut_off(scene: Scene) -> None:
    deaf, good = scene.peer(rcvhwm=1), scene.peer("good")
    deaf.send(hello())
    good.send(hello("b" * 32))
    assert await scene.answer(good) == {"ack": 0}
    await scene.until(lambda: len(scene.seen.sessions) == 2)
    session = next(each for each in scene.seen.sessions if each.items[0].client == "a" * 32)  # type: ignore[union-attr]
    session.holds = True
    big = b'{"x":"%s"}' % (b"x" * 500_000)
    for _ in range(1_000):
        if not session.link.reply(big):
            break
    else:
        pytest.fail("it never became too much")
    good.send(metrics(b"good:1|c", 0, "b" * 32))
    await scene.until(lambda: any(each.text == b"good:1|c" for each in scene.seen.sessions))
    assert not session.drained
    scene.clock.now += peers.UNREAD_AFTER + 1
    scene.input.sweep()
    await scene.until(lambda: scene.input.open == 1)
    await scene.sweep(module.LATE_AFTER + 1)
    assert (session.ends, session.drained) == (1, 1)
    assert scene.input.counts.stalled == 1


async def test_an_answer_that_had_to_wait_is_sent_when_the_peer_reads_again(local: Scene) -> None:
    slow = local.peer(rcvhwm=1)
    slow.send(hello())
    await local.until(lambda: local.seen.sessions)
    [session] = local.seen.sessions
    big = b'{"x":"%s"}' % (b"x" * 500_000)
    sent = 0
    while session.link.reply(big):
        sent += 1
    got = 0
    while got < sent + 1:
        await local.until(lambda: slow.poll(0))
        got += bool(slow.recv())
    await local.until(lambda: session.drained == 1)
    assert session.link.reply(b"{}")


async def test_a_message_beyond_the_limit_ends_its_connection_and_no_other(curve: Scene) -> None:
    fat, good = curve.peer(), curve.peer("good")
    good.send(hello("b" * 32))
    assert await curve.answer(good) == {"ack": 0}
    fat.send(hello() + b"x" * 1_100_000)
    await curve.until(lambda: curve.input._watch.handshakes == 2 and curve.input.open == 1)
    good.send(metrics(b"ok:1|c", 0, "b" * 32))
    await curve.until(lambda: curve.seen.sessions[0].text == b"ok:1|c")


async def test_a_peer_that_is_told_to_come_again_and_floods_is_cut_off_at_once(local: Scene) -> None:
    local.seen.wait = 7.0
    peer = local.peer()
    peer.send(hello())
    assert await local.answer(peer) == {"again": 7.0}
    for _ in range(20):
        peer.send(hello() + b"x" * 500_000)
    await local.until(lambda: local.input.open == 0)
    assert not local.seen.sessions


async def test_a_peer_that_goes_when_told_so_can_come_again(curve: Scene) -> None:
    curve.seen.wait = 1.0
    peer = curve.peer()
    peer.send(hello())
    assert await curve.answer(peer) == {"again": 1.0}
    peer.close()
    curve.seen.wait = 0.0
    peer = curve.peer()
    peer.send(hello())
    assert await curve.answer(peer) == {"ack": 0}


async def test_silent_and_unfinished_connections_are_ended_and_make_no_difference_to_others(curve: Scene) -> None:
    scene = curve
    for n in range(200):
        raw = scene.tcp()
        raw.send([b"", b"\xff\0\0\0\0\0\0\0\x01\x7f", b"GET / HTTP/1.1\r\n\r\n", encode_unit(hello())][n % 4])
    quiet = scene.peer("quiet")
    await scene.until(lambda: scene.input._watch.handshakes == 1)
    good = scene.peer()
    good.send(hello())
    assert await scene.answer(good) == {"ack": 0}
    await scene.sweep(unread.HELLO_AFTER + 2)
    await scene.until(lambda: scene.input.open == 1)
    good.send(metrics(b"still:1|c"))
    await scene.until(lambda: scene.seen.sessions[0].text == b"still:1|c")
    assert not quiet.poll(0)


async def test_the_number_of_connections_has_a_limit(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "curve", {"in_all": 10, "of_one": 4})
    good = scene.peer()
    good.send(hello())
    assert await scene.answer(good) == {"ack": 0}
    for _ in range(60):
        scene.tcp()
    await scene.until(lambda: scene.input.counts.refused >= 50)
    await scene.until(lambda: scene.input.open <= 11)
    good.send(metrics(b"still:1|c"))
    await scene.until(lambda: scene.seen.sessions[0].text == b"still:1|c")
    scene.close()


async def test_one_customer_has_a_limit_of_its_own(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "curve", {"in_all": 100, "of_one": 4})
    many = [scene.peer("greedy") for _ in range(6)]
    for n, peer in enumerate(many):
        peer.send(hello(f"{n:032x}"))
    said = [await scene.answer(peer) for peer in many]
    assert sum("ack" in each for each in said) == 4
    assert sum(each == {"again": module.CROWDED} for each in said) == 2
    other = scene.peer("modest")
    other.send(hello())
    assert await scene.answer(other) == {"ack": 0}
    scene.close()


async def test_an_endless_message_of_many_parts_is_ended_before_it_takes_the_memory(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "curve")
    scene.input._max_unread = 4_000_000
    peer = scene.peer(sndhwm=1_000)
    part = b"x" * 100_000
    await scene.until(lambda: scene.input._watch.handshakes == 1)
    for _ in range(100):
        peer.send(part, zmq.SNDMORE)
    peer.send(b"end")
    scene.input.pause()
    watch = scene.input._watch
    await scene.until_unread(lambda: [watch.received(each) > 5_000_000 for each in watch.live.values()] == [True])
    scene.input.sweep()
    await scene.until(lambda: scene.input.open == 0)
    assert scene.input.counts.stalled == 1
    scene.close()


async def test_everything_is_closed_at_the_end_however_many_are_connected(tmp_path: Path) -> None:
    before = descriptors()
    scene = Scene(tmp_path, "curve")
    for n in range(20):
        peer = scene.peer()
        peer.send(hello(f"{n:032x}"))
        scene.tcp()
    await scene.until(lambda: len(scene.seen.sessions) == 20)
    scene.close()
    assert all(session.ends == 1 for session in scene.seen.sessions)
    assert descriptors() == before


async def test_closing_does_not_hang_although_nobody_heard_of_thousands_of_connections(curve: Scene) -> None:
    good = curve.peer()
    good.send(hello())
    assert await curve.answer(good) == {"ack": 0}
    for _ in range(2_500):  # more than libzmq would keep of its monitor's events by itself
        socket.create_connection(("127.0.0.1", curve.port)).close()
    began = time.monotonic()
    curve.input.close()
    assert time.monotonic() - began < 5


async def test_a_first_message_that_takes_long_is_waited_for_while_it_comes(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "tcp")
    slow, stuck = scene.tcp(), scene.tcp()
    data = b"slow:1|c\n" * 100_000
    for raw in (slow, stuck):
        raw.setblocking(True)
        raw.sendall(GREETING + READY + b"\x02" + len(data).to_bytes(8))
    await scene.until(lambda: scene.input._watch.handshakes == 2)
    sent, watch = 0, scene.input._watch
    for end in (*range(200_000, 900_000, 200_000), len(data)):
        slow.sendall(data[sent:end])
        sent = end
        await scene.until(lambda end=end: max(map(watch.received, watch.live.values())) > end)  # type: ignore[misc]
        await scene.sweep(15)
    await scene.until(lambda: scene.seen.sessions and scene.seen.sessions[0].text == data)
    assert scene.input.counts.stalled == 1
    assert scene.input.open == 1
    scene.close()


def test_who_opens_many_connections_gets_nobody_elses_ended() -> None:
    stranger, *greedy, honest = (unread.Held(Connection(fd, 0.0), 0, "") for fd in range(102))
    stranger = replace(stranger, received=7)
    greedy = [replace(each, received=8, user="greedy") for each in greedy]
    honest = replace(honest, received=60, user="honest")
    for each in (*greedy, honest):
        each.connection.let_in = True
    everybody = [honest, *greedy, stranger]
    assert list(unread.beyond(everybody, 867)) == []
    assert list(unread.beyond(everybody, 866)) == [stranger.connection]
    ended = list(unread.beyond(everybody, 100))
    assert len(ended) == 96
    assert honest.connection not in ended
