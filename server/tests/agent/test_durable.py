"""Durable frames through a real agent: acknowledged once stored, refused by name, never twice, over restarts."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from sendoff_server.inputs import StreamInput
from sendoff_server.spool import SpoolFailed, SpoolFull
from sendoff_server.wire.frame import encode_unit

from .support import EVENTS, FrameClient, address, connect, frame, running, settings, status, stored, until

if TYPE_CHECKING:
    from pathlib import Path

A, B = "a" * 32, "b" * 32
EVENT = {"name": "order.placed", "fields": {"total": 1}}


@pytest.mark.parametrize("name", ["unix", "tcp"])
async def test_events_are_acknowledged_and_then_stand_in_the_spool(tmp_path: Path, name: str) -> None:
    async with running(tmp_path) as agent:
        client = FrameClient(agent, A, name)
        assert await client.hello() == {"ack": 0}
        for seq in range(1, 11):
            await client.send("event", EVENT, seq=seq)
        assert await client.acknowledged(10) == []
        client.close()
    found = stored(tmp_path, EVENTS)
    assert [line["seq"] for line in found] == list(range(1, 11))
    assert {(line["service"], line["env"], line["client"], line["name"]) for line in found} == {
        ("shop", "test", A, "order.placed")
    }


async def test_nothing_is_acknowledged_before_the_spool_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as agent:
        gate = asyncio.Event()
        put = agent._spool.put  # type: ignore[union-attr]

        async def slow(*given: Any) -> None:
            await gate.wait()
            await put(*given)

        monkeypatch.setattr(agent._spool, "put", slow)
        client = FrameClient(agent, A)
        await client.hello()
        await client.send("event", EVENT, seq=1)
        await until("the event is in", lambda: agent.committer.waiting == 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await client.ack()
        gate.set()
        await client.acknowledged(1)
        client.close()


async def test_bad_frames_are_refused_by_name_and_the_good_ones_around_them_are_stored(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        await client.send("event", EVENT, seq=1)
        await client.send("event", {"fields": {}}, seq=2)
        await client.send("event", EVENT, seq=3, v=9)
        await client.send("event", '{"name": "x", "fields": {"n": NaN}}', seq=4)
        await client.send("event", EVENT, seq=7)
        refused = await client.acknowledged(7)
        assert {each["seq"]: each["reason"] for each in refused} == {
            2: "payload_invalid", 3: "version_unknown", 4: "payload_not_json", 5: "missing", 6: "missing",
        }  # fmt: skip
        found = await status(agent)
        [unix] = [each for each in found["inputs"] if each["name"] == "unix"]
        assert unix["refused_frames"] == {"payload_invalid": 1, "version_unknown": 1, "payload_not_json": 1}
        client.close()
    assert [line["seq"] for line in stored(tmp_path, EVENTS)] == [1, 7]


async def test_repeats_are_dropped_without_a_word(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        for _ in range(3):
            client = FrameClient(agent, A)
            await client.hello()
            await client.send("event", EVENT, seq=1)
            await client.send("event", EVENT, seq=2)
            await client.send("event", EVENT, seq=1)
            await until("stored", lambda: agent.committer.waiting == 0)
            client.close()
        assert (await status(agent))["books"]["events"][0]["received"] == 2
    assert [line["seq"] for line in stored(tmp_path, EVENTS)] == [1, 2]


async def test_a_restart_keeps_what_was_acknowledged_and_what_was_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        await client.send("event", EVENT, seq=1)
        await client.send("event", {}, seq=2)
        await client.send("event", EVENT, seq=3)
        await client.acknowledged(3)
        client.close()
    async with running(tmp_path) as agent:
        client = FrameClient(agent, A)
        assert await client.hello(resume_from=2) == {"ack": 3, "refused": [{"seq": 2, "reason": "payload_invalid"}]}
        await client.send("event", EVENT, seq=3)
        await client.send("event", EVENT, seq=4)
        assert await client.acknowledged(4) == []
        client.close()
    assert [line["seq"] for line in stored(tmp_path, EVENTS)] == [1, 3, 4]


async def test_an_unknown_client_may_resume_anywhere(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        client = FrameClient(agent, A)
        assert await client.hello(resume_from=41) == {"ack": 0}
        assert await client.acknowledged(40) == []
        await client.send("event", EVENT, seq=41)
        assert await client.acknowledged(41) == []
        client.close()


async def test_what_a_client_wrote_before_it_died_is_read_to_the_end(tmp_path: Path) -> None:
    """It never read an answer, so its socket is reset when it closes, and every write to it fails."""
    async with running(tmp_path) as agent:
        agent._on_pressure(True)  # nothing is read until it is dead
        await asyncio.sleep(0)
        made = await asyncio.to_thread(_die_with_bytes, address(agent, "unix"), 300)
        agent._on_pressure(False)
        await until("all stored", lambda: agent.intake.frames["unix"] >= made + 1 and agent.committer.waiting == 0)
    assert [line["seq"] for line in stored(tmp_path, EVENTS)] == list(range(1, made + 1))


def _die_with_bytes(path: str, most: int) -> int:
    """Write hello and as many events as the kernel takes at once, then close without reading."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.setblocking(False)
        sock.sendall(encode_unit(frame(A, "hello", {"service": "shop"})))
        for seq in range(1, most + 1):
            try:
                sock.sendall(encode_unit(frame(A, "event", EVENT, seq=seq)))
            except BlockingIOError:
                return seq - 1
    return most


async def test_a_client_that_died_while_its_events_were_acknowledged_loses_none(tmp_path: Path) -> None:
    """Answers were on their way when it closed: the agent's writes fail, and it reads on."""
    async with running(tmp_path) as agent:
        client = FrameClient(agent, A, "tcp")
        await client.hello()
        for seq in range(1, 501):
            await client.send("event", EVENT, seq=seq)
            if seq == 250:
                await client.ack()
        client.close()
        await until("all stored", lambda: agent.intake.frames["tcp"] == 501 and agent.committer.waiting == 0)
    assert len(stored(tmp_path, EVENTS)) == 500


async def test_a_client_that_finishes_writing_still_gets_its_acknowledgement(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        await client.send("event", EVENT, seq=1)
        client.sock.shutdown(socket.SHUT_WR)
        assert await client.acknowledged(1) == []
        async with asyncio.timeout(5):
            assert await asyncio.get_running_loop().sock_recv(client.sock, 10) == b""
        client.close()


async def test_a_connection_belongs_to_one_client(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        client.client = B
        await client.send("event", EVENT, seq=1)
        client.client = A
        await client.send("event", EVENT, seq=1)
        await client.acknowledged(1)
        found = await status(agent)
        [unix] = [each for each in found["inputs"] if each["name"] == "unix"]
        assert unix["refused_frames"] == {"client_mismatch": 1}
        client.close()
    assert [line["client"] for line in stored(tmp_path, EVENTS)] == [A]


async def test_a_client_that_never_reads_its_answers_hurts_nobody(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        deaf, good = FrameClient(agent, A), FrameClient(agent, B)
        for n in range(3_000):
            await deaf.send("hello", {"resume_from": 1})
            if n % 100 == 0:
                await deaf.send("event", EVENT, seq=n // 100 + 1)
        await good.hello()
        await good.send("event", EVENT, seq=1)
        await good.acknowledged(1)
        await until("the deaf one is read", lambda: agent.intake.frames["unix"] >= 3_032)
        deaf.close()
        good.close()
    assert len([line for line in stored(tmp_path, EVENTS) if line["client"] == A]) == 30


async def test_a_connection_that_is_let_go_while_an_answer_waits_is_forgotten(tmp_path: Path) -> None:
    late = 0.0

    def running_s() -> float:
        return time.monotonic() + late

    async with running(tmp_path, running=running_s) as agent:
        deaf = FrameClient(agent, A)
        for _ in range(600):
            await deaf.send("hello", {"service": "shop"})
        deaf.sock.shutdown(socket.SHUT_WR)
        [client] = agent.clients
        [unix] = [each for each in agent._inputs if each.name == "unix"]
        await until("read to its end", lambda: all(each.ended_at is not None for each in unix._connections))  # type: ignore[union-attr]
        assert client.sessions, "answers still wait for a reader"
        late = 3_600.0
        await until("let go", lambda: unix.open == 0)  # type: ignore[union-attr]
        assert not client.sessions
        assert client.state.state == "tail unknown"
        deaf.close()


async def test_a_client_for_which_there_is_no_room_is_acknowledged_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sendoff_server.intake.clients.MAX_LEAVING", 5)
    async with running(tmp_path) as agent:
        agent.clients._most = 10
        udp = connect(agent, "udp", socket.SOCK_DGRAM)
        for n in range(40):
            udp.send(frame(f"{n:032x}", "metrics", "a:1|c", n=0))
        await until("a flood of names is in", lambda: agent.intake.frames["udp"] == 40)
        client = FrameClient(agent, A)
        await client.hello()
        for seq in (1, 2, 3):
            await client.send("event", EVENT, seq=seq)
        assert await client.acknowledged(3) == []
        client.close()
        udp.close()
    assert [line["seq"] for line in stored(tmp_path, EVENTS)] == [1, 2, 3]


async def test_bye_ends_a_client_and_a_close_without_it_leaves_its_tail_unknown(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        polite, sudden = FrameClient(agent, A), FrameClient(agent, B)
        for client in (polite, sudden):
            await client.hello()
            await client.send("event", EVENT, seq=1)
        await polite.send("bye", {"last_seq": 3, "last_n": 0, "dropped": {"event.buffer_full": 2}})
        assert await polite.acknowledged(3) == [{"seq": 2, "reason": "missing"}, {"seq": 3, "reason": "missing"}]
        await sudden.acknowledged(1)
        polite.close()
        sudden.close()

        async def ended() -> bool:
            clients = {each["client"]: each for each in (await status(agent))["clients"]}
            assert clients[A]["state"] == "ended"
            assert clients[A]["dropped"] == {"event.buffer_full": 2}
            return bool(clients[B]["state"] == "tail unknown")

        await until("both ended", ended)


@pytest.mark.parametrize(
    ("error", "reason"), [(SpoolFull("limit reached"), "spool_full"), (SpoolFailed("disk is ill"), "disk_failed")]
)
async def test_while_the_spool_refuses_nothing_is_acknowledged_and_afterwards_everything_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    async with running(tmp_path) as agent:
        put = agent._spool.put  # type: ignore[union-attr]

        async def refuse(*given: Any) -> None:
            if given[0]:
                raise error
            await put(*given)

        monkeypatch.setattr(agent._spool, "put", refuse)
        client = FrameClient(agent, A)
        await client.hello()
        for seq in range(1, 6):
            await client.send("event", EVENT, seq=seq)
        await until("blocked", lambda: agent.committer.blocked)
        found = await status(agent)
        assert not found["ready"]
        assert found["spool"]["blocked"] == str(error)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await client.ack()
        monkeypatch.setattr(agent._spool, "put", put)
        assert await client.acknowledged(5) == []
        assert (await status(agent))["ready"]
        client.close()
    assert [line["seq"] for line in stored(tmp_path, EVENTS)] == [1, 2, 3, 4, 5]


async def test_while_the_spool_is_full_clients_are_held_back_and_metrics_and_pages_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as agent:
        put = agent._spool.put  # type: ignore[union-attr]

        async def refuse(*given: Any) -> None:
            if given[0]:
                raise SpoolFull("limit reached")
            await put(*given)

        monkeypatch.setattr(agent._spool, "put", refuse)
        client = FrameClient(agent, A)
        await client.hello()
        big = {"name": "big", "fields": {"text": "x" * 200_000}}
        sent = await _send_until_held_back(client, big, most=200)
        assert agent.committer.pressed
        assert sent < 60
        udp = connect(agent, "udp", socket.SOCK_DGRAM)
        udp.send(b"still.counted:1|c\n_e{1,1}:x|y")
        udp.close()

        async def counted() -> bool:
            books = (await status(agent))["books"]
            lost = [book["lost"] for book in books["events"] if book["source"] == "statsd/udp"]
            return lost == [{"spool_full": 1}] and any(book["source"] == "statsd/udp" for book in books["points_in"])

        await until("the point and the loss are in the books", counted)
        monkeypatch.setattr(agent._spool, "put", put)
        await until("reading again", lambda: not agent.committer.pressed and agent.committer.waiting == 0)
        client.close()
    kept = {line["seq"] for line in stored(tmp_path, EVENTS)}
    assert kept >= set(range(1, sent + 1))


async def _send_until_held_back(client: FrameClient, body: dict[str, Any], most: int) -> int:
    """How many events went out whole before the agent stopped reading."""
    for sent in range(most):
        try:
            async with asyncio.timeout(1):
                await client.send("event", body, seq=sent + 1)
        except TimeoutError:
            return sent
    return most


async def test_an_exception_arrives_whole_and_scrubbed(tmp_path: Path) -> None:
    body = {
        "name": "ValueError",
        "fingerprint": "0" * 32,
        "chain": [
            {"type": "ValueError", "message": "no", "frames": [{"file": "a.py", "line": 3, "vars": {"token": "t"}}]}
        ],
        "request": {"method": "GET", "headers": {"Cookie": "c"}},
    }
    async with running(tmp_path) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        await client.send("exception", body, seq=1)
        await client.acknowledged(1)
        client.close()
    [line] = stored(tmp_path, EVENTS)
    assert line["kind"] == "exception"
    assert line["chain"][0]["frames"][0]["vars"] == {"token": "[scrubbed]"}
    assert line["request"]["headers"] == {"Cookie": "[scrubbed]"}
    assert line["repeats"] == 0


async def test_stopping_stores_what_was_written_before(tmp_path: Path) -> None:
    async with running(tmp_path, settings(tmp_path)) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        agent._on_pressure(True)
        for seq in range(1, 51):
            await client.send("event", EVENT, seq=seq)
        late = connect(agent, "unix")
        late.sendall(encode_unit(frame(B, "event", EVENT, seq=1)))
    assert len(stored(tmp_path, EVENTS)) == 51
    assert json.loads((await _rest(client))[-1])["ack"] == 50
    client.close()
    late.close()


async def test_stopping_stores_what_the_dead_left_also_when_it_is_more_than_is_held_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sendoff_server.intake.commit.HIGH_BYTES", 20_000)
    async with running(tmp_path) as agent:
        agent._on_pressure(True)
        for n in range(8):
            dead = connect(agent, "unix")
            body = {"name": "x", "fields": {"text": "y" * 5_000}}
            dead.sendall(b"".join(encode_unit(frame(f"{n:032x}", "event", body, seq=seq)) for seq in range(1, 21)))
            dead.close()
        (unix,) = [each for each in agent._inputs if isinstance(each, StreamInput) and each.name == "unix"]
        await until("accepted", lambda: unix.open == 8)
        most, add = 0, agent.committer._append

        def measured(entry: Any) -> None:
            nonlocal most
            add(entry)
            most = max(most, agent.committer._bytes)

        monkeypatch.setattr(agent.committer, "_append", measured)
    assert len(stored(tmp_path, EVENTS)) == 160
    assert most < 20_000 + 65_536 * 2, "a piece of a connection goes beyond the bound, no more"


async def test_a_flood_does_not_keep_the_agent_from_stopping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sendoff_server.agent.agent.READ_S", 0.2)
    monkeypatch.setattr("sendoff_server.agent.agent.LAST_WORD_S", 0.5)
    async with running(tmp_path) as agent:
        flooding = [connect(agent, "unix") for _ in range(4)]
        threads = [threading.Thread(target=_flood, args=(sock,)) for sock in flooding]
        for each in threads:
            each.start()
        await until("it comes in", lambda: agent.intake.lines["unix"] > 10)
        begun = time.monotonic()
        await agent.stop(0)
        assert time.monotonic() - begun < 5
        for each in threads:
            each.join(10)
        for sock in flooding:
            sock.close()


def _flood(sock: socket.socket) -> None:
    """Write lines until the other side closes; at most a gigabyte."""
    sock.setblocking(True)
    lines = b"a:1|c\n" * 10_000
    try:
        for _ in range(16_000):
            sock.sendall(lines)
    except OSError:
        pass


async def test_an_event_of_nobody_that_is_being_stored_when_the_agent_stops_is_not_called_lost_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is so slow that the time to drain is over before it answers."""
    monkeypatch.setattr("sendoff_server.agent.agent.LAST_WORD_S", 0.05)
    async with running(tmp_path) as agent:
        begun, loop = asyncio.Event(), asyncio.get_running_loop()
        store = agent._spool._writer._store  # type: ignore[union-attr]

        def slow(*arguments: Any) -> None:
            if any(put.events for put in arguments[1]):
                loop.call_soon_threadsafe(begun.set)
                time.sleep(0.5)
            store(*arguments)

        monkeypatch.setattr(agent._spool._writer, "_store", slow)  # type: ignore[union-attr]
        udp = connect(agent, "udp", socket.SOCK_DGRAM)
        udp.send(b"_e{1,1}:x|y")
        udp.close()
        await begun.wait()
        await agent.stop(0)
    async with running(tmp_path) as agent:
        [book] = (await status(agent))["books"]["events"]
        assert (book["received"], book["pending"], book["lost"]) == (1, 1, {})


async def _rest(client: FrameClient) -> list[bytes]:
    data = b""
    while got := await asyncio.get_running_loop().sock_recv(client.sock, 65_536):
        data += got
    out = []
    while data:
        size = int.from_bytes(data[:4], "little")
        out.append(data[4 : 4 + size])
        data = data[4 + size :]
    return out
