"""The gateway's ZeroMQ port: what customers send is stored as theirs, keys come and go, the port comes back."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING

import pytest
import zmq

from sendoff_server.gateway import keys
from sendoff_server.gateway import zmq as module
from sendoff_server.gateway.store import open_for_writing
from sendoff_server.inputs import InputError
from sendoff_server.inputs.zmq.keyfile import NAME

from .direct import Sender, all_events, total
from .zmq_clients import Port, acked, answer, make_pair, port, started, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Port]:
    async with port(tmp_path) as made:
        yield made


async def test_events_and_points_are_stored_before_they_are_acknowledged(gateway: Port) -> None:
    peer, sender = gateway.peer(), Sender()
    for frame in (sender.hello(), sender.event("order.placed"), sender.points(b"orders:2|c\norders:3|c", 2)):
        peer.send(frame)
    await acked(peer, 1, 2)
    assert [each["name"] for each in await all_events(gateway)] == ["order.placed"]
    assert (await total(gateway, "orders"))["sum"] == 5


async def test_what_was_acknowledged_is_said_again_after_a_new_hello_and_repeats_are_dropped(gateway: Port) -> None:
    sender = Sender()
    frames = [sender.event(), sender.event()]
    for _ in range(3):
        peer = gateway.peer()
        peer.send(sender.hello(1))
        for frame in frames:
            peer.send(frame)
        await acked(peer, 2)
        peer.close()
    assert len(await all_events(gateway)) == 2


async def test_each_customer_writes_into_the_project_of_its_own_key_and_nowhere_else(gateway: Port) -> None:
    other = gateway.peer(await gateway.new_key("other"))
    mine = gateway.peer()
    same_client = Sender(name="a" * 32), Sender(name="a" * 32)
    for peer, sender, name in ((mine, same_client[0], "mine"), (other, same_client[1], "theirs")):
        peer.send(sender.hello())
        peer.send(sender.event(name))
        await acked(peer, 1)
    assert [each["name"] for each in await all_events(gateway)] == ["mine"]
    gateway.project = "other"
    assert [each["name"] for each in await all_events(gateway)] == ["theirs"]


async def test_a_key_that_is_made_while_the_gateway_runs_works_within_a_second(gateway: Port) -> None:
    began = asyncio.get_running_loop().time()
    pair = await gateway.new_key("new")
    assert asyncio.get_running_loop().time() - began < 2
    peer, sender = gateway.peer(pair), Sender()
    peer.send(sender.hello())
    assert await answer(peer) == {"ack": 0, "n": 0}


@pytest.mark.parametrize("how", ["revoked", "deleted"])
async def test_a_key_that_is_taken_away_is_cut_off_from_a_live_connection_and_the_others_go_on(
    gateway: Port, how: str
) -> None:
    pair = await gateway.new_key("other")
    bad, good = gateway.peer(pair), gateway.peer()
    gone = bad.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    for peer in (bad, good):
        peer.send(Sender().hello())
        assert "ack" in await answer(peer)
    number = gateway.zmq.customers._by_key[pair.public].holder.key
    if how == "revoked":
        assert await asyncio.to_thread(keys.revoke, gateway.store, number)
    else:
        db = open_for_writing(gateway.store)
        db.execute("DELETE FROM keys WHERE id = ?", (number,))
        db.close()
    await until(lambda: gone.poll(0), 3)
    again = gateway.peer(pair)
    refused = again.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_SUCCEEDED)
    await until(lambda: refused.poll(0))
    assert int.from_bytes(refused.recv_multipart()[0][:2], "little") == zmq.EVENT_HANDSHAKE_FAILED_AUTH
    good.send(Sender().hello())
    assert not gone.closed
    assert good.poll(0) == 0


async def test_an_unknown_key_is_refused_and_logged_once(gateway: Port, caplog: pytest.LogCaptureFixture) -> None:
    stranger = make_pair()
    for _ in range(5):
        peer = gateway.peer(stranger)
        refused = peer.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        peer.send(Sender().hello())
        async with asyncio.timeout(20):
            while not refused.poll(0):
                await asyncio.sleep(0.002)
    assert gateway.zmq.input.refused_keys == 5
    assert len([each for each in caplog.records if "is not known" in each.message]) == 1


async def test_clients_find_the_gateway_again_after_a_restart_and_nothing_is_there_twice(tmp_path: Path) -> None:
    async with port(tmp_path) as gateway:
        sender = Sender()
        peer = gateway.peer()
        gone = peer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        peer.send(sender.hello())
        first = sender.event("first")
        peer.send(first)
        await acked(peer, 1)
        address = gateway.gateway.addresses["zmq"]
        await gateway.gateway.stop(2)
        await until(lambda: gone.poll(0))
        gateway.gateway = await started(tmp_path, address)
        try:
            peer = gateway.peer()
            for frame in (sender.hello(1), first, sender.event("second")):
                peer.send(frame)
            await acked(peer, 2)
            assert [each["name"] for each in await all_events(gateway)] == ["second", "first"]
        finally:
            await gateway.gateway.stop(2)


async def test_what_was_taken_is_stored_and_acknowledged_before_the_gateway_stops(gateway: Port) -> None:
    peer, sender = gateway.peer(), Sender()
    peer.send(sender.hello())
    assert await answer(peer) == {"ack": 0, "n": 0}
    for _ in range(50):
        peer.send(sender.event())
    taken = gateway.zmq.input.counts
    await until(lambda: taken.messages > 1)
    stopping = asyncio.create_task(gateway.gateway.stop(5))
    said = 0
    while not stopping.done():
        await asyncio.sleep(0.001)
        said = json.loads(peer.recv())["ack"] if peer.poll(0) else said
    assert said == taken.messages - 1


async def test_a_gateway_whose_key_file_is_damaged_says_so_and_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "gateway").mkdir()
    (tmp_path / "gateway" / NAME).write_text("nonsense")
    (tmp_path / "gateway" / NAME).chmod(0o600)
    with pytest.raises(InputError, match="holds no key"):
        await started(tmp_path)
    (tmp_path / "gateway" / NAME).unlink()
    await (await started(tmp_path)).stop(1)


async def test_an_address_that_is_taken_is_an_error_that_names_the_setting(gateway: Port, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gateway\.zmq\.listen.*another port"):
        await started(tmp_path / "second", gateway.gateway.addresses["zmq"])


async def test_a_customer_that_sends_too_much_is_told_to_come_again_and_it_is_counted(tmp_path: Path) -> None:
    async with port(tmp_path, rate=100_000, in_flight=2**20) as gateway:
        peer, sender = gateway.peer(), Sender()
        peer.send(sender.hello())
        for _ in range(100):
            peer.send(sender.event(blob="x" * 5_000))
        while "ack" in (said := await answer(peer)):
            pass
        assert 0 < said["again"] <= 300
        assert gateway.gateway._direct.project(1).allowance.refused["rate"] >= 1
        other = gateway.peer(await gateway.new_key("other"))
        other.send(Sender().hello())
        assert "ack" in await answer(other)


async def test_the_log_does_not_name_keys_that_are_refused_by_the_hundred(
    gateway: Port, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(100):
            gateway.peer(make_pair())
        await until(lambda: gateway.zmq.input.refused_keys == 100)
    assert len(caplog.records) == 10
    gateway.zmq.input._zap._minute -= 60  # type: ignore[union-attr]
    gateway.zmq.input.sweep()
    assert "90 more connections" in caplog.records[-1].message


async def test_a_client_that_comes_right_after_its_key_was_made_is_let_in(gateway: Port) -> None:
    for _ in range(5):
        pair = await asyncio.to_thread(keys.create_curve, gateway.store, "new")
        peer = gateway.peer(pair)
        refused = peer.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        peer.send(Sender().hello())
        assert await answer(peer) == {"ack": 0, "n": 0}
        assert not refused.poll(0)


async def test_keys_that_cannot_be_read_are_said_once_and_those_of_before_go_on(
    gateway: Port, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def fail(db: object) -> None:
        nonlocal looks
        looks += 1
        raise OSError("the disk is gone")

    monkeypatch.setattr(module, "REFRESH_S", 0.01)
    with monkeypatch.context() as broken:
        broken.setattr(keys, "find_curve", fail)
        await until(lambda: looks >= 5)
        peer, sender = gateway.peer(), Sender()
        peer.send(sender.hello())
        await acked(peer, 0)
    await until(lambda: "the keys can be read again" in caplog.text)
    assert caplog.text.count("the keys cannot be read") == 1
