"""A whole agent in the test's loop, a client made of bytes, and what the agent has on its disk."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import apsw

from sendoff_server.agent import Agent
from sendoff_server.settings import Settings
from sendoff_server.wire.batch import decode_body
from sendoff_server.wire.frame import encode_unit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

EVENTS, JOURNAL = 0, 2


def settings(folder: Path, **inputs: Any) -> Settings:
    """Everything below `folder`, on free ports. `inputs` replace single sections."""
    return Settings.model_validate(
        {
            "agent": {"data_dir": str(folder), "host": "testhost"},
            "inputs": {
                "unix": {"path": str(folder / "agent.sock")},
                "unix_datagram": {"path": str(folder / "statsd.sock")},
                "udp": {"listen": "127.0.0.1:0"},
                "tcp": {"listen": "127.0.0.1:0"},
                **inputs,
            },
            "web": {"listen": "127.0.0.1:0"},
        }
    )


@contextlib.asynccontextmanager
async def running(folder: Path, chosen: Settings | None = None, **clocks: Any) -> AsyncIterator[Agent]:
    """An agent that is stopped at the end. Its books balance at every look, also the last."""
    agent = Agent(chosen or settings(folder), **clocks)
    await agent.start()
    try:
        yield agent
        if agent.phase == "running":
            await status(agent)
    finally:
        await agent.stop(5)


async def status(agent: Agent) -> dict[str, Any]:
    found = await agent.status()
    assert found["books"]["balanced"], found["books"]["imbalances"]
    return found


async def until(what: str, condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait until `condition` holds, which may be a coroutine function."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if await found if asyncio.iscoroutine(found) else found:
            return
        assert time.monotonic() < end, f"{what} did not happen within {seconds} s"
        await asyncio.sleep(0.01)


def address(agent: Agent, name: str) -> Any:
    where = agent.addresses[name]
    if where.startswith("/"):
        return where
    host, _, port = where.rpartition(":")
    return host, int(port)


def connect(agent: Agent, name: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """A client's socket, connected and non-blocking."""
    where = address(agent, name)
    made = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET, kind)
    made.connect(where)
    made.setblocking(False)
    return made


def frame(client: str, kind: str, payload: Any, **header: Any) -> bytes:
    """One frame. Durable ones get an id and a time if they have none."""
    if kind in ("event", "exception"):
        header = {"id": uuid7(header["seq"]), "t": 1_700_000_000_000, **header}
    body = payload if isinstance(payload, str) else json.dumps(payload)
    return json.dumps({"v": 1, "client": client, "kind": kind, **header}).encode() + b"\n" + body.encode()


def uuid7(n: int) -> str:
    return f"01939c5a-7c00-7000-8000-{n:012x}"


class FrameClient:
    """A stream connection that speaks frames and reads acknowledgements."""

    def __init__(self, agent: Agent, client: str, name: str = "unix") -> None:
        self.client = client
        self.sock = connect(agent, name)
        self._buffer = b""

    async def send(self, kind: str, payload: Any, **header: Any) -> None:
        await self.raw(encode_unit(frame(self.client, kind, payload, **header)))

    async def raw(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def hello(self, resume_from: int = 1, service: str = "shop", **more: Any) -> dict[str, Any]:
        await self.send("hello", {"service": service, "env": "test", "resume_from": resume_from, **more})
        return await self.ack()

    async def ack(self) -> dict[str, Any]:
        """The next answer."""
        async with asyncio.timeout(10):
            while len(self._buffer) < 4 or len(self._buffer) < 4 + int.from_bytes(self._buffer[:4], "little"):
                got = await asyncio.get_running_loop().sock_recv(self.sock, 65_536)
                assert got, "the agent closed the connection"
                self._buffer += got
        end = 4 + int.from_bytes(self._buffer[:4], "little")
        answer, self._buffer = self._buffer[4:end], self._buffer[end:]
        found: dict[str, Any] = json.loads(answer)
        return found

    async def acknowledged(self, upto: int) -> list[dict[str, Any]]:
        """Read answers until one says `upto`; all refusals in them."""
        refused = []
        while True:
            ack = await self.ack()
            refused += ack.get("refused", [])
            assert ack["ack"] <= upto, ack
            if ack["ack"] == upto:
                return refused

    def close(self) -> None:
        self.sock.close()


def stored(folder: Path, kind: int) -> list[dict[str, Any]]:
    """All lines of one kind in a closed spool."""
    connection = apsw.Connection(str(folder / "agent" / "spool.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        rows = connection.execute("SELECT blob FROM item WHERE kind = ? ORDER BY item", (kind,)).fetchall()
    finally:
        connection.close()
    blobs = [blob for (blob,) in rows if isinstance(blob, bytes)]
    return [json.loads(line) for blob in blobs for batch in decode_body(blob, "zstd") for line in batch.lines]


def totals(folder: Path) -> dict[str, float]:
    """By name: sums of counters, number of values of distributions, last value of gauges, members of sets."""
    out: dict[str, float] = defaultdict(float)
    members: dict[str, set[str]] = defaultdict(set)
    for line in sorted(stored(folder, JOURNAL), key=lambda line: (line["w"], line["ord"])):
        match line["type"]:
            case "counter":
                out[line["name"]] += line["sum"]
            case "distribution":
                out[line["name"]] += line["n"]
            case "gauge":
                out[line["name"]] = line["last"]
            case _:
                members[line["name"]] |= set(line["hashes"])
                out[line["name"]] = len(members[line["name"]])
    return dict(out)
