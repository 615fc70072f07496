"""Peers that speak ZeroMQ to an input, or something like it, and an owner that writes down what comes."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import zmq

from sendoff_server.inputs.sockets import listen_ip, listen_unix
from sendoff_server.inputs.zmq.input import ZmqInput
from sendoff_server.inputs.zmq.router import Curve
from sendoff_server.wire.frame import MAX_UNIT, Frame, FrameError, Item, Lines

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sendoff_server.inputs import Link
    from sendoff_server.inputs.kept import KeptSession

    Socket = zmq.Socket[bytes]

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06DEALER"
"""How a DEALER begins that does not encrypt (ZMTP 3.0, RFC 23)."""
MANY = {"in_all": 10_000, "of_one": 1_000}


def hello(client: str = "a" * 32, kind: str = "hello", payload: bytes = b"{}", **header: object) -> bytes:
    """A frame; a hello if nothing else is asked for."""
    return json.dumps({"v": 1, "client": client, "kind": kind, **header}).encode() + b"\n" + payload


def metrics(lines: bytes = b"a:1|c", n: int = 0, client: str = "a" * 32) -> bytes:
    return hello(client, "metrics", lines, n=n)


class Recorded:
    """A session that writes down what it is told."""

    def __init__(self, link: Link, user: str) -> None:
        self.link = link
        self.user = user
        self.items: list[Item] = []
        self.ends = 0
        self.drained = 0
        self.holds = False

    def take(self, item: Item) -> None:
        self.items.append(item)
        if isinstance(item, Frame) and item.kind == "hello":
            self.link.reply(b'{"ack":0}')

    def writable(self) -> None:
        self.drained += 1

    def ended(self, *, orderly: bool) -> None:
        self.ends += 1
        if not self.holds:
            self.link.close()

    def keep(self) -> KeptSession:
        raise NotImplementedError

    @property
    def kinds(self) -> list[str]:
        return [each.kind if isinstance(each, Frame) else type(each).__name__ for each in self.items]

    @property
    def errors(self) -> list[str]:
        return [each.reason for each in self.items if isinstance(each, FrameError)]

    @property
    def text(self) -> bytes:
        """Lines and metrics frames, one after the other."""
        return b"".join(map(_text, self.items))


def _text(item: Item) -> bytes:
    if isinstance(item, Lines):
        return item.data
    return item.payload if isinstance(item, Frame) and item.kind == "metrics" else b""


class Recorder:
    """See `Reception`."""

    def __init__(self, *, lines: bool) -> None:
        self.lines = lines
        self.sessions: list[Recorded] = []
        self.batches: list[tuple[str, bytes]] = []
        self.distrusted: list[tuple[str, bool]] = []
        self.people: list[str] = []
        self.wait = 0.0
        self.full: float | None = None

    def connected(self, link: Link, user: str) -> Recorded | float:
        if self.full is not None:
            return self.full
        self.sessions.append(Recorded(link, user))
        return self.sessions[-1]

    def admit(self, user: str, size: int) -> float:
        return self.wait

    def batch(self, link: Link, user: str, data: bytes) -> bool:
        self.batches.append((user, data))
        return not self.lines

    def met(self, user: str) -> None:
        self.people.append(user)

    def distrust(self, user: str, why: str, *, forged: bool) -> None:
        self.distrusted.append((user, forged))


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Scene:
    """An input of the agent's kind (`lines`), or of the gateway's with CURVE; and its peers."""

    def __init__(
        self, folder: Path, scheme: str = "ipc", limits: dict[str, int] = MANY, max_message: int = MAX_UNIT
    ) -> None:
        self.curve = scheme == "curve"
        self.seen = Recorder(lines=not self.curve)
        self.clock = Clock()
        self.users: dict[bytes, str] = {}
        self.public, secret = (_raw(key) for key in zmq.curve_keypair())
        self.path = folder / "s.sock"
        if scheme == "ipc":
            sock = listen_unix(self.path, socket.SOCK_STREAM, 0o660, "here")
        else:
            sock = listen_ip("127.0.0.1:0", socket.SOCK_STREAM, "here")
        place = sock.getsockname()
        self.address = f"ipc://{place}" if scheme == "ipc" else f"tcp://127.0.0.1:{place[1]}"
        curve = Curve(secret, self.users.get, lambda key: key.hex()) if self.curve else None
        self.input = ZmqInput(
            "zmq",
            sock,
            self.seen,
            self.clock,
            curve=curve,
            max_peers=limits["in_all"],
            max_peers_of_one=limits["of_one"],
            max_message=max_message,
        )
        self.input.start()
        self.context: zmq.Context[Socket] = zmq.Context()
        self.context.set(zmq.MAX_SOCKETS, 4_000)
        self.raw: list[socket.socket] = []
        self.peers: list[Socket] = []

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def peer(self, user: str = "shop", kind: int = zmq.DEALER, **options: object) -> Socket:
        """A client with a key of its own, that belongs to `user`."""
        made = self.context.socket(kind)
        self.peers.append(made)
        made.linger = 0
        made.reconnect_ivl = -1
        if self.curve:
            public, secret = zmq.curve_keypair()
            if user:
                self.users[_raw(public)] = user
            made.curve_serverkey, made.curve_publickey, made.curve_secretkey = self.public, public, secret
        for name, value in options.items():
            setattr(made, name, value)
        made.connect(self.address)
        return made

    def tcp(self) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.port))
        made.setblocking(False)
        self.raw.append(made)
        return made

    async def answer(self, peer: Socket) -> dict[str, object]:
        await self.until(lambda: peer.poll(0))
        answer: dict[str, object] = json.loads(peer.recv_multipart()[-1])
        return answer

    async def silent(self, peer: Socket) -> bool:
        """Whether nothing has come for a while in which anything would."""
        other = self.peer("another")
        other.send(hello("f" * 32))
        assert await self.answer(other) == {"ack": 0}
        other.close()
        return not peer.poll(0)

    async def until(self, condition: Callable[[], object], seconds: float = 10) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.001)

    async def until_unread(self, condition: Callable[[], object]) -> None:
        """As `until`, for what a paused input hears of connections."""

        def heard() -> object:
            self.input._turn()
            return condition()

        await self.until(heard)

    async def sweep(self, seconds: float) -> None:
        """Let so much time pass, a second each time."""
        for _ in range(int(seconds)):
            self.clock.now += 1.0
            self.input.sweep()
            await asyncio.sleep(0)

    def close(self) -> None:
        self.input.close()
        for each in self.raw:
            with suppress(OSError):
                each.close()
        self.context.destroy(0)


def _raw(z85: bytes) -> bytes:
    """pyzmq makes keys as text."""
    return zmq_decode(z85)


def zmq_decode(z85: bytes) -> bytes:
    from zmq.utils.z85 import decode

    return decode(z85)


def key_text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
