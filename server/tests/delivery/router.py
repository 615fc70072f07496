"""A gateway's ZeroMQ port for tests: a ROUTER that knows keys, treats batches badly while it is ill, and else hands
them to a real gateway.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from sendoff_server.wire.batch_frame import BatchFrame, decode_batch_frame
from sendoff_server.wire.curve import from_text, make_pair, to_text


def key_pair() -> tuple[str, str]:
    """Public and secret key, as they stand in settings."""
    public, secret = map(to_text, make_pair())
    return public, secret


Take = Callable[[BatchFrame], Awaitable[bytes]]
Behaviour = Callable[["Router", list[bytes], BatchFrame], Awaitable[None]]


class Router:
    """`take` is the gateway; `behave` handles one batch while it is ill."""

    def __init__(self, take: Take, behave: Behaviour) -> None:
        self.take = take
        self.behave = behave
        self.ill = True
        self.port = 0
        self.seen = 0
        self.public, self._secret = key_pair()
        self.client_public, self.client_secret = key_pair()
        self.known = {self.client_public}
        self._context: zmq.asyncio.Context | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._restarting: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"zmq+curve://127.0.0.1:{self.port}?server={self.public}"

    async def start(self) -> None:
        self._context = zmq.asyncio.Context()
        self._zap = self._context.socket(zmq.REP)
        self._zap.bind("inproc://zeromq.zap.01")
        self._spawn(self._authenticate())
        self.socket = self._context.socket(zmq.ROUTER)
        self.socket.CURVE_SERVER, self.socket.CURVE_SECRETKEY = 1, from_text(self._secret)
        self.socket.LINGER = 0
        for _ in range(500):
            try:
                self.socket.bind(f"tcp://127.0.0.1:{self.port or '*'}")
                break
            except zmq.ZMQError:  # the one before has not let go yet
                await asyncio.sleep(0.01)
        self.port = int(self.socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
        self._spawn(self._serve())

    async def _authenticate(self) -> None:
        """ZAP (RFC 27): who is known by the public key."""
        while True:
            version, number, _, _, _, _, key = await self._zap.recv_multipart()
            status = b"200" if any(from_text(each) == key for each in self.known) else b"400"
            await self._zap.send_multipart([version, number, status, b"", b"", b""])

    def heal(self) -> None:
        self.ill = False

    async def stop(self) -> None:
        if self._restarting is not None:
            await self._restarting
        await self._end()

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        if self._context is not None:
            self._context.destroy(0)
            self._context = None

    def restart_soon(self) -> None:
        """All connections break, and others can be made at the same port."""
        if self._restarting is None or self._restarting.done():
            self._restarting = asyncio.create_task(self._restart())

    async def _restart(self) -> None:
        await self._end()
        await self.start()

    async def say(self, way: list[bytes], answer: Any) -> None:
        data = answer if isinstance(answer, bytes) else msgspec.json.encode(answer)
        await self.socket.send_multipart([*way, data])

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self) -> None:
        while True:
            *way, message = await self.socket.recv_multipart()
            frame = decode_batch_frame(message)
            assert frame is not None
            self._spawn(self._handle(way, frame))

    async def _handle(self, way: list[bytes], frame: BatchFrame) -> None:
        if self.ill:
            self.seen += 1
            await self.behave(self, way, frame)
        else:
            await self.say(way, await self.take(frame))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
