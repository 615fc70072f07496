"""The ZeroMQ input without an agent: whose a message is, ends, bounds, hostile peers."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import uvloop
import zmq

from sendoff_server.inputs.zmq import input as module
from sendoff_server.inputs.zmq import peer as peers
from sendoff_server.wire.curve import make_pair

from .zmq_support import Scene, hello, metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
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


async def test_frames_reach_the_session_of_their_connection_in_order(scene: Scene) -> None:
    one, two = scene.peer(), scene.peer("other")
    for peer, client in ((one, "a" * 32), (two, "b" * 32)):
        peer.send(hello(client))
        for n in range(50):
            peer.send(metrics(b"%d:1|c\n" % n, n, client))
    for peer in (one, two):
        assert await scene.answer(peer) == {"ack": 0}
    await scene.until(lambda: [len(session.items) for session in scene.seen.sessions] == [51, 51])
    for session in scene.seen.sessions:
        assert session.text == b"".join(b"%d:1|c\n" % n for n in range(50))
    users = {session.user for session in scene.seen.sessions}
    assert users == ({"shop", "other"} if scene.curve else {""})


async def test_an_answer_has_an_empty_part_before_it_where_the_message_had_one(local: Scene) -> None:
    req = local.peer(kind=zmq.REQ)
    req.send(hello())
    assert await local.answer(req) == {"ack": 0}


async def test_a_first_frame_that_is_no_hello_is_told_to_come_again_and_nothing_of_it_is_taken(scene: Scene) -> None:
    peer = scene.peer()
    peer.send(metrics())
    peer.send(hello())
    assert await scene.answer(peer) == {"again": 0}
    assert await scene.silent(peer)
    assert [session.items[0].client for session in scene.seen.sessions] == ["f" * 32]  # type: ignore[union-attr]


async def test_lines_are_taken_without_a_hello_where_they_are_taken_at_all(local: Scene) -> None:
    peer = local.peer()
    peer.send(b"a:1|c\nb:2|g")
    await local.until(lambda: local.seen.sessions and local.seen.sessions[0].text == b"a:1|c\nb:2|g")
    peer.send(metrics())
    assert await local.answer(peer) == {"again": 0}


async def test_lines_are_refused_by_a_gateway(curve: Scene) -> None:
    peer = curve.peer()
    peer.send(hello())
    peer.send(b"a:1|c")
    await curve.until(lambda: curve.seen.sessions and curve.seen.sessions[0].errors == ["header_missing"])
    assert curve.input.counts.garbage == 1
    stranger = curve.peer()
    stranger.send(b"a:1|c")
    assert await curve.answer(stranger) == {"again": 0}


async def test_batches_need_no_hello_and_go_to_their_handler_whole(curve: Scene) -> None:
    peer = curve.peer()
    batch = hello(kind="batch", payload=b"\x28\xb5" * 4, batch="b1", encoding="zstd")
    peer.send(batch)
    await curve.until(lambda: curve.seen.batches == [("shop", batch)])
    assert not curve.seen.sessions


async def test_where_batches_are_not_taken_they_are_frames_of_an_unknown_kind(local: Scene) -> None:
    peer = local.peer()
    peer.send(hello())
    peer.send(hello(kind="batch", batch="b1"))
    await local.until(lambda: local.seen.sessions and local.seen.sessions[0].errors == ["kind_unknown"])


@pytest.mark.parametrize(
    "parts",
    [[b"a", b"b"], [b"", b"{}", b"{}"], [b"{}"] * 100, [b"", b"", b""]],
    ids=["two", "three", "hundred", "empty"],
)
async def test_a_message_of_many_parts_ends_its_connection(scene: Scene, parts: list[bytes]) -> None:
    peer = scene.peer()
    peer.send_multipart(parts)
    await scene.until(lambda: scene.input.counts.garbage == 1)
    assert "again" in await scene.answer(peer)
    monitor = peer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    await scene.sweep(peers.AGAIN_AFTER + 1)
    await scene.until(lambda: monitor.poll(0))


async def test_garbage_is_counted_and_the_connection_goes_on(scene: Scene) -> None:
    peer = scene.peer()
    peer.send(hello())
    peer.send(b"")
    for junk in (b"{", b"{" * 5_000, b"{}\n{}", hello()[:-1], b'{"v":9}\n'):
        peer.send(junk)
    peer.send(metrics(b"x:1|c"))
    await scene.until(lambda: scene.seen.sessions and scene.seen.sessions[0].text == b"x:1|c")
    assert len(scene.seen.sessions[0].errors) == 5
    assert scene.input.counts.garbage == 6


async def test_a_session_ends_after_its_connection_and_after_all_that_came_on_it(scene: Scene) -> None:
    peer = scene.peer()
    peer.send(hello())
    assert await scene.answer(peer) == {"ack": 0}
    scene.input.pause()
    for n in range(20):
        peer.send(metrics(b"a:1|c\n", n))
    peer.close(linger=1_000)
    await scene.until_unread(lambda: scene.input.open == 0)
    [session] = scene.seen.sessions
    assert session.kinds == ["hello"]
    assert session.ends == 0
    scene.input.resume()
    await scene.until(lambda: session.text == b"a:1|c\n" * 20)
    await scene.sweep(module.LATE_AFTER + 1)
    assert session.ends == 1
    assert not scene.input._peers


async def test_what_came_before_the_end_of_a_connection_that_nobody_had_heard_of_is_taken(scene: Scene) -> None:
    scene.input.pause()
    peer = scene.peer()
    peer.send(hello())
    peer.send(metrics(b"late:1|c"))
    peer.close(linger=1_000)
    await scene.until_unread(lambda: scene.input._watch.accepted and scene.input.open == 0)
    scene.input.resume()
    await scene.until(lambda: scene.seen.sessions and scene.seen.sessions[0].text == b"late:1|c")
    await scene.sweep(module.LATE_AFTER + 1)
    assert scene.seen.sessions[0].ends == 1


async def test_an_answer_to_a_peer_that_has_gone_is_thrown_away(scene: Scene) -> None:
    peer = scene.peer()
    peer.send(hello())
    await scene.answer(peer)
    [session] = scene.seen.sessions
    peer.close()
    for _ in range(10):
        assert session.link.reply(b"{}")
    await scene.until(lambda: scene.input.open == 0)
    assert session.link.reply(b"{}")


async def test_a_peer_that_chose_its_routing_id_is_cut_off(scene: Scene) -> None:
    for chosen in (b"me", b"\0" + b"\x7f" * 4, b"\0\0", b"\0" * 255):
        peer = scene.peer("liar", routing_id=chosen)
        peer.send(hello())
        await scene.until(lambda: scene.seen.distrusted)
        await scene.until(lambda: scene.input.open == 0)
        assert scene.seen.distrusted[0] == ("liar" if scene.curve else "", chosen != b"me")
        scene.seen.distrusted.clear()
    assert not scene.seen.sessions
    assert not scene.seen.people


async def test_nobody_gets_the_answers_of_another_by_taking_its_routing_id(curve: Scene) -> None:
    victim = curve.peer("victim")
    victim.send(hello())
    assert await curve.answer(victim) == {"ack": 0}
    [session] = curve.seen.sessions
    identity = session.link.identity  # type: ignore[attr-defined]
    thief = curve.peer("thief", routing_id=identity)
    thief.send(hello("b" * 32))
    thief.send(identity)  # what libzmq asks for next, in place of the id it did not like
    assert await curve.silent(thief)
    session.link.reply(b'{"for":"the victim"}')
    assert await curve.answer(victim) == {"for": "the victim"}
    victim.close()
    await curve.until(lambda: curve.input.open == 1)
    thief.send(identity)
    thief.send(hello("b" * 32))
    for _ in range(10):
        session.link.reply(b'{"for":"the victim"}')
    assert await curve.silent(thief)
    assert {each.user for each in curve.seen.sessions} == {"victim", "another"}


async def test_the_numbers_that_routing_ids_are_made_of_begin_at_another_place_each_time(tmp_path: Path) -> None:
    firsts = set()
    for n in range(3):
        folder = tmp_path / str(n)
        folder.mkdir()
        scene = Scene(folder, "tcp")
        firsts.add(scene.input._first_number)
        scene.close()
    assert len(firsts) == 3
    assert 0x6B8B4567 not in firsts


async def test_the_socket_file_goes_with_the_input(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "ipc")
    assert scene.path.is_socket()
    scene.close()
    assert not scene.path.exists()


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("scheme", ["ipc", "curve"])
def test_no_message_waits_for_the_next_one_on_any_loop(
    tmp_path: Path, scheme: str, factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def there_and_back() -> None:
        scene = Scene(tmp_path, scheme)
        peer = scene.peer()
        for _ in range(1_000):  # sending may take the edge that would have told of the next message
            peer.send(hello())
            peer.send(hello())
            for _ in range(2):
                assert await scene.answer(peer) == {"ack": 0}
        scene.close()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(there_and_back())


async def test_a_message_that_comes_while_an_answer_is_sent_is_read_at_once(local: Scene) -> None:
    peer = local.peer()
    peer.send(hello())
    assert await local.answer(peer) == {"ack": 0}
    [session] = local.seen.sessions
    for n in range(1, 200):
        peer.send(metrics(n=n))
        time.sleep(0.002)  # it is there, and the loop has not heard of it
        session.link.reply(b"{}")
        await local.until(lambda n=n: len(session.items) == n + 1, 2)  # type: ignore[misc]


async def test_a_message_that_comes_while_a_deaf_peer_is_tried_again_is_read_at_once(local: Scene) -> None:
    deaf, good = local.peer(rcvhwm=1), local.peer()
    deaf.send(hello())
    await local.until(lambda: local.seen.sessions)
    while local.seen.sessions[0].link.reply(b'{"x":"%s"}' % (b"x" * 500_000)):
        pass
    good.send(hello("b" * 32))
    assert await local.answer(good) == {"ack": 0}
    session = local.seen.sessions[1]
    for n in range(1, 100):
        good.send(metrics(b"a:1|c", n, "b" * 32))
        time.sleep(0.002)  # it is there, and the loop has not heard of it
        local.input._retry()
        await local.until(lambda n=n: len(session.items) == n + 1, 2)  # type: ignore[misc]


async def test_a_connection_that_is_asked_about_while_others_are_answered_waits_for_nobody(curve: Scene) -> None:
    zap = curve.input._zap
    assert zap
    zap._curve = replace(zap._curve, changes=True)
    pair = make_pair()
    late = curve.peer(user="", curve_publickey=pair.public, curve_secretkey=pair.secret)
    await curve.until(lambda: zap._waiting)
    curve.users[pair.public] = "late"
    good = curve.peer()
    time.sleep(0.3)  # its question is there, and the loop has not heard of it
    curve.input.settle(curve.clock() + 1)
    for peer in (good, late):
        peer.send(hello())
        assert await curve.answer(peer) == {"ack": 0}
