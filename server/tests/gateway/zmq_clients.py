"""A gateway with a ZeroMQ port, and peers with keys of its projects."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import zmq

from sendoff_server.gateway import Gateway, keys
from sendoff_server.gateway.zmq import ZmqPort
from sendoff_server.inputs.zmq.keyfile import server_pair
from sendoff_server.settings import Settings
from sendoff_server.wire.curve import Pair, make_pair

from .support import Clock, Running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

Socket = zmq.Socket[bytes]


class Port(Running):
    """A started gateway with a ZeroMQ port."""

    context: zmq.Context[Socket]
    sockets: list[Socket]
    pair: Pair
    """The key of the project shop."""

    @property
    def store(self) -> Path:
        return self.folder / "gateway"

    @property
    def zmq(self) -> ZmqPort:
        assert self.gateway._zmq is not None
        return self.gateway._zmq

    async def new_key(self, project: str = "shop") -> Pair:
        """A new key, once the gateway knows it."""
        pair = await asyncio.to_thread(keys.create_curve, self.store, project)
        await until(lambda: pair.public in self.zmq.customers._by_key)
        return pair

    def peer(self, pair: Pair | None = None, **options: Any) -> Socket:
        """A DEALER as clients make it, with the key of shop if no other is given."""
        public, secret = pair or self.pair
        made = self.context.socket(zmq.DEALER)
        self.sockets.append(made)
        made.linger, made.reconnect_ivl = 0, -1
        made.curve_serverkey, made.curve_publickey, made.curve_secretkey = (
            server_pair(self.store).public,
            public,
            secret,
        )
        for name, value in options.items():
            setattr(made, name, value)
        made.connect(f"tcp://{self.gateway.addresses['zmq']}")
        return made


async def answer(peer: Socket) -> dict[str, Any]:
    await until(lambda: peer.poll(0))
    found: dict[str, Any] = json.loads(peer.recv())
    return found


async def acked(peer: Socket, upto: int, n: int = 0) -> None:
    """Wait until so much is acknowledged."""
    while True:
        said = await answer(peer)
        assert "ack" in said, said
        if said["ack"] >= upto and said["n"] >= n:
            return


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


@asynccontextmanager
async def port(folder: Path, **direct: int) -> AsyncIterator[Port]:
    """With a real monotonic clock, as keys and silence take their time."""
    http_key = keys.create(folder / "gateway", "shop")
    pair = keys.create_curve(folder / "gateway", "shop")
    gateway = await started(folder, direct=direct)
    try:
        async with aiohttp.ClientSession() as http:
            made = Port(gateway, folder, http_key, http, Clock())
            made.pair, made.context, made.sockets = pair, zmq.Context(), []
            made.context.set(zmq.MAX_SOCKETS, 4_000)
            yield made
            made.context.destroy(0)
    finally:
        await gateway.stop(2)


async def started(folder: Path, listen: str = "127.0.0.1:0", direct: dict[str, int] | None = None) -> Gateway:
    data = {"listen": "127.0.0.1:0", "data_dir": str(folder), "zmq": {"listen": listen}, "direct": direct or {}}
    gateway = Gateway(Settings.model_validate({"gateway": data}), now=Clock())
    await gateway.start()
    return gateway


__all__ = ["Pair", "Port", "acked", "answer", "make_pair", "port", "started", "until"]
