"""The gateway's ZeroMQ port: always CURVE, one for all customers. Loaded only where `gateway.zmq.listen` is set."""

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sendoff_server.gateway import keys
from sendoff_server.gateway.customers import Customers
from sendoff_server.gateway.direct import Direct
from sendoff_server.gateway.ingest import Ingest
from sendoff_server.gateway.store import Store
from sendoff_server.inputs.sockets import listen_ip
from sendoff_server.inputs.zmq.input import ZmqInput
from sendoff_server.inputs.zmq.keyfile import server_pair
from sendoff_server.inputs.zmq.router import Curve
from sendoff_server.wire.batch_frame import MAX_MESSAGE
from sendoff_server.wire.curve import to_text

if TYPE_CHECKING:
    from sendoff_server.settings import GatewayZmqSettings

log = logging.getLogger(__name__)

REFRESH_S = 0.5
"""Seconds between two looks at the table of keys. A key that is not known is refused after the next one: the app may
have been begun right after its key was made, and one that is refused waits for half a minute."""
SWEEP_S = 1.0
SAY_S = 60.0


class ZmqPort:
    """`running`: monotonic seconds. `folder`: the store's, where the key pair is kept."""

    def __init__(
        self,
        settings: "GatewayZmqSettings",
        folder: Path,
        store: Store,
        direct: Direct,
        ingest: Ingest,
        running: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._store = store
        self._running = running
        self.customers = Customers(direct, ingest, running)
        self.input: ZmqInput
        self._tasks: list[asyncio.Task[None]] = []
        self._said: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<ZmqPort {self.input!r}>"

    async def start(self) -> None:
        """Raises `InputError`: the key cannot be used, or the address not be had."""
        pair = await asyncio.to_thread(server_pair, self._folder)
        self.customers.refresh(await self._store.keys.read(keys.find_curve))
        sock = listen_ip(self._settings.listen, socket.SOCK_STREAM, "gateway.zmq.listen")
        curve = Curve(pair.secret, self.customers.allowed, to_text, changes=True)
        self.input = ZmqInput("zmq", sock, self.customers, self._running, curve=curve, max_message=MAX_MESSAGE)
        self.input.start()
        for work in (self._refresh(), self._sweep()):
            self._tasks.append(asyncio.create_task(work, name="gateway-zmq"))
        log.info("gateway listens on zmq+curve://%s?server=%s", self.input.address, to_text(pair.public))

    def pause(self) -> None:
        """Take nothing more. What was taken is stored and answered."""
        self.input.pause()

    async def stop(self, seconds: float) -> None:
        """After all is stored: say the last answers, then close."""
        await self.customers.finish(seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self.input.finish()

    async def _refresh(self) -> None:
        """Keys that were made work within a second, and those that were revoked no longer, on open connections too."""
        unread = False
        while True:
            await asyncio.sleep(REFRESH_S)
            began = self._running()
            try:
                known = await self._store.keys.read(keys.find_curve)
            except Exception as error:  # noqa: BLE001 - whatever it is, the keys of before go on
                if not unread:
                    log.error("the keys cannot be read, so those of before go on until they can: %s", error)
                unread = True
            else:
                if unread:
                    log.warning("the keys can be read again")
                unread = False
                for user in self.customers.refresh(known):
                    log.warning("zmq: key %s works no longer; %d connections cut", user, self.input.cut_user(user))
            self.input.settle(began)

    async def _sweep(self) -> None:
        said_at = self._running()
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                self.input.sweep()
                if self._running() - said_at >= SAY_S:
                    said_at = self._running()
                    self._say()
            except Exception:
                log.exception("zmq")

    def _say(self) -> None:
        """Once a minute, what was turned away in it."""
        counts = {name: n for name, n in asdict(self.input.counts).items() if name in ("refused", "stalled", "garbage")}
        counts["refused keys"] = self.input.refused_keys
        grown = {name: n - self._said.get(name, 0) for name, n in counts.items()}
        self._said = counts
        if any(grown.values()):
            words = ", ".join(f"{n} {name}" for name, n in grown.items() if n)
            log.info("zmq: %d connections open; in the last minute %s", self.input.open, words)
