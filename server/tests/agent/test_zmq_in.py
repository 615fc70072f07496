"""The agent's ZeroMQ input: frames and lines, acknowledgements after the spool has them, who may send, what a reload
costs. The peers are plain pyzmq, as any language has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import stat
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import zmq

from sendoff_server.agent import Agent
from sendoff_server.inputs import InputError
from sendoff_server.inputs.zmq.keyfile import read_pair
from sendoff_server.wire.curve import Pair, make_pair, to_text

from .support import EVENTS, frame, running, settings, status, stored, totals, until, uuid7

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from sendoff_server.settings import Settings

ONE, TWO = "a" * 32, "b" * 32
HELLO = frame(ONE, "hello", {"service": "shop"})
POINTS = [frame(ONE, "metrics", "sold:1|c", n=number) for number in range(300)]


def with_zmq(folder: Path, listen: str = "", **more: Any) -> Settings:
    return settings(folder, zmq={"listen": listen or f"ipc://{folder / 'agent.zmq'}", **more})


class Peer:
    """A DEALER that speaks frames."""

    def __init__(self, address: str, client: str = ONE, keys: Pair | None = None, server: bytes = b"") -> None:
        self.client = client
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.reconnect_ivl = -1
        if keys is not None:
            self.socket.curve_serverkey = server
            self.socket.curve_publickey, self.socket.curve_secretkey = keys
        self.socket.connect(address)

    def send(self, kind: str, payload: Any, **header: Any) -> None:
        self.raw(frame(self.client, kind, payload, **header))

    def raw(self, message: bytes) -> None:
        self.socket.send(message, zmq.NOBLOCK)

    async def hello(self, **more: Any) -> dict[str, Any]:
        self.send("hello", {"service": "shop", "env": "test", "resume_from": 1, **more})
        return await self.answer()

    async def answer(self) -> dict[str, Any]:
        await until("an answer", lambda: self.socket.poll(0))
        found: dict[str, Any] = json.loads(self.socket.recv())
        return found

    async def acknowledged(self, upto: int) -> None:
        while (await self.answer())["ack"] < upto:
            pass

    def close(self) -> None:
        self.context.destroy(0)


class Bytes:
    """A DEALER made of bytes (ZMTP 3.0, RFC 23): what it wrote is with the kernel when `send` returns."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)  # ZeroMQ's own thread answers, so this may wait
        self.sock.connect(path)
        self.sock.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
        self.sock.sendall(b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06DEALER")
        self._read(64)
        self._read(self._read(2)[1])

    def _read(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            got += self.sock.recv(size - len(got))
        return got

    def send(self, messages: Iterable[bytes]) -> None:
        self.sock.sendall(b"".join(b"\x02" + len(each).to_bytes(8, "big") + each for each in messages))


@contextlib.contextmanager
def peer(agent: Agent, client: str = ONE, **keys: Any) -> Iterator[Peer]:
    where = agent.addresses["zmq"]
    made = Peer(f"ipc://{where}" if where.startswith("/") else f"tcp://{where}", client, **keys)
    try:
        yield made
    finally:
        made.close()


async def input_of(agent: Agent) -> dict[str, Any]:
    found: list[dict[str, Any]] = [each for each in (await status(agent))["inputs"] if each["name"] == "zmq"]
    return found[0]


@pytest.mark.parametrize("listen", ["", "tcp://127.0.0.1:0"])
async def test_an_event_is_acknowledged_once_it_is_on_the_disk_and_never_with_n(listen: str, tmp_path: Path) -> None:
    async with running(tmp_path, with_zmq(tmp_path, listen)) as agent:
        with peer(agent) as one:
            assert await one.hello() == {"ack": 0}
            one.send("event", {"name": "order"}, seq=1)
            assert await one.answer() == {"ack": 1}
            one.send("metrics", "sold:2|c\nsold:1|c", n=0)
            one.send("bye", {"last_seq": 1, "last_n": 2, "dropped": {}})
            await until("the bye", lambda: [c.state.state for c in agent.clients] == ["ended"])
        found = await input_of(agent)
        assert (found["frames"], found["accepted"], found["refused_frames"]) == (4, 1, {})
    assert [line["id"] for line in stored(tmp_path, EVENTS)] == [uuid7(1)]
    assert totals(tmp_path) == {"sold": 3}


async def test_the_input_stands_on_the_page_in_the_metrics_and_in_the_status_like_the_others(tmp_path: Path) -> None:
    async with running(tmp_path, with_zmq(tmp_path)) as agent, aiohttp.ClientSession() as http:
        with peer(agent) as one:
            await one.hello()
            found = await input_of(agent)
            assert (found["open"], found["messages"], found["reading"]) == (1, 1, True)
            base = f"http://{agent.addresses['web']}"
            async with http.get(base) as page:
                assert "ZeroMQ" in await page.text()
            async with http.get(f"{base}/metrics") as metrics:
                assert 'sendoff_input_total{count="messages",input="zmq"} 1.0' in await metrics.text()


async def test_lines_of_statsd_clients_are_taken_beside_frames(tmp_path: Path) -> None:
    async with running(tmp_path, with_zmq(tmp_path)) as agent:
        with peer(agent) as one:
            one.raw(b"hits:1|c\nhits:2|c")
            one.raw(b"hits:4|c|#page:cart")
            await until("the lines", lambda: agent.intake.lines["zmq"] == 2)
    assert totals(tmp_path) == {"hits": 7}


async def test_who_connects_anew_says_hello_and_goes_on_where_the_disk_is(tmp_path: Path) -> None:
    async with running(tmp_path, with_zmq(tmp_path)) as agent:
        for turn in range(3):
            with peer(agent) as one:
                assert await one.hello() == {"ack": turn}
                for seq in range(1, turn + 2):  # all of it again, as who got no answer does
                    one.send("event", {"name": "order"}, seq=seq)
                await one.acknowledged(turn + 1)
    assert len(stored(tmp_path, EVENTS)) == 3


async def test_the_socket_is_the_groups_and_a_stale_file_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "agent.zmq"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with running(tmp_path, with_zmq(tmp_path)) as agent:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with peer(agent) as one:
            assert await one.hello() == {"ack": 0}
    assert not path.exists()


async def test_a_second_agent_at_the_same_path_is_refused_and_the_first_one_goes_on(tmp_path: Path) -> None:
    """libzmq by itself would remove the first one's socket without a word."""
    (tmp_path / "other").mkdir()
    async with running(tmp_path, with_zmq(tmp_path)) as agent:
        second = Agent(with_zmq(tmp_path / "other", f"ipc://{tmp_path / 'agent.zmq'}"))
        with pytest.raises(InputError, match=r"inputs\.zmq\.listen: another agent answers"):
            await second.start()
        with peer(agent) as one:
            assert await one.hello() == {"ack": 0}


async def test_garbage_harms_nobody_and_is_counted(tmp_path: Path) -> None:
    async with running(tmp_path, with_zmq(tmp_path)) as agent:
        with peer(agent, TWO) as bad, peer(agent) as good:
            assert await good.hello() == {"ack": 0}
            assert await bad.hello() == {"ack": 0}
            for message in (b"{", b"{}\n", b'{"v":1,"kind":"batch"}\n', b"\0\xff\xfe", b'{"v":9}\n{}'):
                bad.raw(message)
            bad.socket.send_multipart([b"two", b"parts"])
            good.send("event", {"name": "order"}, seq=1)
            assert await good.answer() == {"ack": 1}
            await until("the count", lambda: sum(agent.intake.refused.get("zmq", {}).values()) >= 3)
        with socket.socket(socket.AF_UNIX) as odd:
            odd.connect(agent.addresses["zmq"])
            odd.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
            with peer(agent, TWO) as another:
                await another.hello()


async def test_a_disk_that_takes_nothing_holds_the_clients_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sendoff_server.intake.commit.HIGH_BYTES", 20_000)
    async with running(tmp_path, with_zmq(tmp_path)) as agent:
        put, gate = agent.committer._store.put, asyncio.Event()

        async def wait_first(*args: Any) -> None:
            await gate.wait()
            await put(*args)

        monkeypatch.setattr(agent.committer._store, "put", wait_first)
        with peer(agent) as one:
            one.send("hello", {"service": "shop", "resume_from": 1})
            for seq in range(1, 201):
                one.send("event", {"name": "order", "fields": {"x": "y" * 900}}, seq=seq)
            await until("pressure", lambda: agent.committer.pressed)
            before = agent.intake.frames["zmq"]
            await asyncio.sleep(0.1)
            assert agent.intake.frames["zmq"] == before, "what waits is not read"
            assert (await input_of(agent))["reading"] is False
            gate.set()
            await one.acknowledged(200)
    assert len(stored(tmp_path, EVENTS)) == 200


# ---- CURVE ----


async def test_only_named_clients_may_send_by_curve_and_the_key_is_made_once(tmp_path: Path) -> None:
    known, unknown = make_pair(), make_pair()
    chosen = with_zmq(tmp_path, "tcp://127.0.0.1:0", clients={"shop": to_text(known.public)})
    for _ in range(2):
        async with running(tmp_path, chosen) as agent:
            path = tmp_path / "agent" / "zmq.key"
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            server = read_pair(path).public
            with peer(agent, keys=unknown, server=server) as bad, peer(agent, keys=known, server=server) as good:
                bad.send("hello", {"service": "thief"})
                assert "ack" in await good.hello()
                await until("the refusal", lambda: agent._inputs[-1]._router.refused_keys == 1)  # type: ignore[union-attr]
                assert [client.state.service for client in agent.clients] == ["shop"]
            with peer(agent) as plain:
                with contextlib.suppress(zmq.Again):  # it may be over already
                    plain.send("hello", {})
                assert not plain.socket.poll(100)


# ---- the end, and another run ----


async def test_what_was_sent_before_the_end_is_stored(tmp_path: Path) -> None:
    async with running(tmp_path, with_zmq(tmp_path)) as agent:
        one = Bytes(agent.addresses["zmq"])
        with one.sock:
            events = [frame(ONE, "event", {"name": "order"}, seq=number + 1) for number in range(300)]
            one.send([HELLO, *POINTS, *events])
            await agent.stop(5)
    assert totals(tmp_path) == {"sold": 300}
    assert len(stored(tmp_path, EVENTS)) == 300


async def test_a_reload_hears_all_that_was_sent_and_clients_come_again_to_the_same_socket(tmp_path: Path) -> None:
    from sendoff_server.agent.handover import unpack

    chosen = with_zmq(tmp_path)
    agent = Agent(chosen)
    await agent.start()
    inode = (tmp_path / "agent.zmq").stat().st_ino
    one, late = Bytes(agent.addresses["zmq"]), None
    try:
        one.send([HELLO, *POINTS])
        await agent.settle()
        late = Peer(f"ipc://{agent.addresses['zmq']}", TWO)
        late.send("hello", {"service": "late"})
        state = unpack(await agent.let_go())
        agent = Agent(chosen, before=state)
        await agent.start()
        assert (tmp_path / "agent.zmq").stat().st_ino == inode
        assert await late.answer() == {"ack": 0}, "who came in between waited"
        with peer(agent) as again:
            assert await again.hello() == {"ack": 0}
            again.send("metrics", "sold:1|c", n=300)
            await until("the point", lambda: agent.intake.frames["zmq"] == 3)
        (memo,) = (client for client in agent.clients if client.state.client == ONE)
        assert memo.state.gap == 0
        assert (await input_of(agent))["accepted"] == 3
    finally:
        one.sock.close()
        if late:
            late.close()
        await agent.stop(5)
    assert totals(tmp_path) == {"sold": 301}


async def test_a_reload_that_is_refused_goes_on_with_new_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sendoff_server.process import Refused

    async with running(tmp_path, with_zmq(tmp_path)) as agent:
        with peer(agent) as one:
            await one.hello()
            monkeypatch.setattr(agent.windows, "turn", _fails)
            with pytest.raises(Refused):
                await agent.settle()
            monkeypatch.undo()
        with peer(agent) as again:
            assert await again.hello() == {"ack": 0}
            again.send("event", {"name": "order"}, seq=1)
            assert await again.answer() == {"ack": 1}


async def _fails(*_: Any, **__: Any) -> None:
    from sendoff_server.process import Refused

    raise Refused("no")
