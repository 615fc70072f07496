"""Peers that mean harm, or do it, at the gateway's ZeroMQ port: whoever else is there must not notice."""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import zmq

from sendoff_server.gateway import customers
from sendoff_server.wire.batch_frame import MAX_MESSAGE, encode_batch_frame

from .direct import Sender, all_events
from .support import batch, event
from .zmq_clients import Port, acked, answer, port, until

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from .zmq_clients import Socket


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Port]:
    async with port(tmp_path) as made:
        yield made


@pytest.fixture
def raw(gateway: Port) -> Iterator[list[socket.socket]]:
    made: list[socket.socket] = []
    yield made
    for each in made:
        each.close()


def connect(gateway: Port, made: list[socket.socket], data: bytes = b"") -> socket.socket:
    host, _, number = gateway.gateway.addresses["zmq"].rpartition(":")
    sock = socket.create_connection((host, int(number)))
    made.append(sock)
    with suppress(OSError):
        sock.sendall(data)
    return sock


async def round_trip(peer: Socket, sender: Sender) -> float:
    """Seconds until one more event is acknowledged as stored."""
    began = time.perf_counter()
    peer.send(sender.event())
    await acked(peer, sender.seq)
    return time.perf_counter() - began


async def good_peer(gateway: Port, project: str = "good") -> tuple[Socket, Sender]:
    peer, sender = gateway.peer(await gateway.new_key(project)), Sender()
    peer.send(sender.hello())
    assert "ack" in await answer(peer)
    return peer, sender


async def test_garbage_and_half_greetings_by_the_hundred_harm_nobody(gateway: Port, raw: list[socket.socket]) -> None:
    peer, sender = await good_peer(gateway)
    greeting = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01CURVE" + b"\0" * 15 + b"\0" * 32
    for n in range(400):
        data = [
            b"",
            greeting[: n % 64],
            greeting + b"\x04\xc8" + os.urandom(200),
            os.urandom(300),
            b"GET / HTTP/1.1\r\n\r\n",
        ]
        connect(gateway, raw, data[n % 5])
        if n % 50 == 0:
            assert await round_trip(peer, sender) < 2
    assert await round_trip(peer, sender) < 2
    status, _ = await gateway.ask("/healthz")
    assert status == 200
    assert len(await gateway_events(gateway, "good")) == sender.seq


async def gateway_events(gateway: Port, project: str) -> list[object]:
    gateway.project = project
    return list(await all_events(gateway))


async def test_a_key_that_works_and_then_garbage_is_counted_as_that_customers(gateway: Port) -> None:
    peer, sender = await good_peer(gateway)
    bad, liar = gateway.peer(), Sender()
    bad.send(liar.hello())
    assert "ack" in await answer(bad)
    for _ in range(500):
        bad.send(secrets.token_bytes(secrets.randbelow(3_000) + 1))
        bad.send(b"{" + secrets.token_bytes(100))
    bad.send_multipart([b"{}"] * 50)
    while "ack" in (said := await answer(bad)):
        pass
    assert "again" in said
    assert await round_trip(peer, sender) < 2
    assert gateway.zmq.input.counts.garbage > 500


async def test_a_message_that_is_too_large_ends_its_connection_before_it_is_read(gateway: Port) -> None:
    peer, sender = await good_peer(gateway)
    fat = gateway.peer()
    gone = fat.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    fat.send(Sender().hello())
    fat.send(b"{" + b"x" * (MAX_MESSAGE + 100))
    await until(lambda: gone.poll(0))
    assert await round_trip(peer, sender) < 2


async def test_a_flood_of_one_customer_leaves_the_others_their_time(tmp_path: Path) -> None:
    async with port(tmp_path, rate=2**20, in_flight=2**22) as gateway:
        peer, sender = await good_peer(gateway)
        calm = sorted([await round_trip(peer, sender) for _ in range(20)])[-2]
        flooding = True

        async def flood() -> int:
            again = 0
            while flooding:
                bad, liar = gateway.peer(sndhwm=200), Sender()
                bad.send(liar.hello())
                for _ in range(2_000):
                    try:
                        bad.send(liar.event(filling="x" * 2_000), zmq.NOBLOCK)
                    except zmq.Again:
                        await asyncio.sleep(0.002)
                    if bad.poll(0) and b"again" in bad.recv():
                        again += 1
                        break
                bad.close()
            return again

        floods = [asyncio.create_task(flood()) for _ in range(3)]
        times = sorted([await round_trip(peer, sender) for _ in range(60)])
        flooding = False
        assert sum(await asyncio.gather(*floods)) > 3
        assert times[-2] < max(1.0, 20 * calm), times
        assert refused(gateway)["rate"] + refused(gateway)["in_flight"] > 3


def refused(gateway: Port) -> Counter[str]:
    """How often the project shop was told to come later, by reason: what its ledger shows."""
    return gateway.gateway._direct.project(1).allowance.refused


async def test_batches_beyond_what_may_be_on_its_way_are_put_off(
    gateway: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(customers, "BATCHES_HELD", 1_000)
    peer = gateway.peer()
    for n in range(20):
        data = batch("events", [event() for _ in range(50)], f"b{n}", compression="identity")
        peer.send(encode_batch_frame("a" * 32, f"b{n}", "identity", data))
    said = [await answer(peer) for _ in range(20)]
    stored = [each["results"][0]["status"] for each in said if "results" in each]
    put_off = [each["problem"]["status"] for each in said if "problem" in each]
    assert set(stored) == {"stored"}
    assert set(put_off) == {429}
    assert len(stored) + len(put_off) == 20
    assert all(each["retry_after"] == 1 for each in said if "problem" in each)
    assert refused(gateway)["batches"] == len(put_off)


async def test_who_guesses_routing_ids_is_locked_out_with_its_key(
    gateway: Port, caplog: pytest.LogCaptureFixture
) -> None:
    peer, sender = await good_peer(gateway)
    await until(lambda: gateway.zmq.input.open == 1)
    guess = (gateway.zmq.input._first_number + 2**31) % 2**32
    liar = gateway.peer(routing_id=b"\0" + guess.to_bytes(4))
    liar.send(Sender().hello())
    await until(lambda: [each for each in caplog.records if "may not connect for 600 s" in each.message])
    await until(lambda: gateway.zmq.input.open == 1)
    again = gateway.peer()
    shut_out = again.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_SUCCEEDED)
    await until(lambda: shut_out.poll(0))
    assert int.from_bytes(shut_out.recv_multipart()[0][:2], "little") == zmq.EVENT_HANDSHAKE_FAILED_AUTH
    assert await round_trip(peer, sender) < 2


async def test_a_key_whose_connections_say_nothing_is_locked_out(
    gateway: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(customers, "MUTE_MOST", 5)
    for _ in range(8):
        gateway.peer()
    customer = gateway.zmq.customers._by_key[gateway.pair.public]
    await until(lambda: refused(gateway)["connections"] >= 2)
    assert customer.locked_until > time.monotonic()


async def test_a_key_can_make_so_many_connections_a_second(gateway: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    customer = gateway.zmq.customers._by_key[gateway.pair.public]
    monkeypatch.setattr(customers, "CONNECTIONS_A_S", 0.0)
    customer.tokens = 3.0
    for _ in range(5):
        gateway.peer().send(Sender().hello())
    await until(lambda: refused(gateway)["connections"] == 2 and gateway.zmq.input._watch.handshakes == 3)

    async def is_shown() -> bool:
        (agent,) = (await gateway.get("ledger"))["agents"]
        return {"memo": "later", "reasons": {"connections": 2}} in agent["memos"]

    async with asyncio.timeout(20):
        while not await is_shown():
            await asyncio.sleep(0.05)


async def test_five_hundred_customers_send_at_once(gateway: Port) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8_192)), hard))
    try:
        pairs = [await gateway.new_key("p1") for _ in range(5)]
        peers = [(gateway.peer(pairs[n % 5]), Sender()) for n in range(500)]
        for peer, sender in peers:
            peer.send(sender.hello())
            peer.send(sender.event())
        for peer, sender in peers:
            await acked(peer, sender.seq)
        assert gateway.zmq.input.open == 500
        assert len(gateway.zmq.input._peers) == 500
        assert len(await gateway_events(gateway, "p1")) == 500
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
