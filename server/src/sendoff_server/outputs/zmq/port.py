"""A gateway's ZeroMQ port: a connection for each request that is under way, kept for the next one."""

import asyncio
import os
from collections.abc import Sequence
from typing import Literal
from urllib.parse import urlsplit

import zmq

from sendoff_server.delivery.outcome import Trouble
from sendoff_server.outputs.pace import CONNECT_S
from sendoff_server.outputs.words import explain_status, plain_url
from sendoff_server.outputs.zmq.handshake import addresses_of, diagnose
from sendoff_server.outputs.zmq.line import Broken, Keys, Line, Take
from sendoff_server.settings import OutputSettings
from sendoff_server.wire.curve import from_text, pair_of

CLOSE_S = 2.0
DESCRIPTORS = 24
"""A context takes 8, a connection 5; a name that is looked up, and the diagnosis, some more."""
KEY_REFUSED = "no project has it, or it was revoked"


class Port:
    """Where an output's url leads. `most`: messages in a request. Nothing is opened before the first one."""

    def __init__(self, settings: OutputSettings, *, most: int) -> None:
        parts = urlsplit(settings.url)
        assert parts.hostname
        assert parts.port
        assert settings.key is not None
        self.url = plain_url(settings.url)
        self.code: Literal["", "unreachable", "no_gateway", "server_key_wrong", "name_unknown"] = ""
        """The last reason for which there was no connection."""
        self._host, self._port = parts.hostname, parts.port
        self._where = parts.netloc
        self._secret = settings.key.get_secret_value()
        self._server = parts.query.partition("=")[2]
        self._connect_s = min(CONNECT_S, settings.timeout)
        self._most = most
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._keys: Keys | None = None
        self._idle: list[Line] = []
        self._open: set[Line] = set()

    def __repr__(self) -> str:
        return f"<Port {self._where}, {len(self._open)} connections>"

    async def ask(self, messages: Sequence[bytes], timeout_s: float, take: Take) -> Trouble | None:
        """Send, and hand each answer to `take` until that says that it was the last. What prevented it, if anything."""
        line = self._kept() or await self._connect()
        if isinstance(line, Trouble):
            return line
        whole = False
        try:
            trouble = await line.ask(messages, timeout_s, take, self._where)
            whole = trouble is None and line.broken is None
            return trouble
        finally:  # also if it is cancelled: what would still come in belongs to nobody
            if whole and line in self._open:
                self._idle.append(line)
            else:
                self._let_go(line)

    async def close(self) -> None:
        """End all connections."""
        for line in list(self._open):
            self._let_go(line)
        context, self._context = self._context, None
        if context is not None:
            # With every socket closed and nothing lingering this takes no time; if it did, nobody would wait for it.
            await asyncio.wait({asyncio.create_task(asyncio.to_thread(context.term))}, timeout=CLOSE_S)

    def _kept(self) -> Line | None:
        while self._idle:
            line = self._idle.pop()
            if line.usable:
                return line
            self._let_go(line)
        return None

    def _let_go(self, line: Line) -> None:
        line.close()
        self._open.discard(line)

    async def _connect(self) -> Line | Trouble:
        """A new connection, to the first of the gateway's addresses that takes one."""
        if not zmq.has("curve"):
            return Trouble("this libzmq cannot encrypt (CURVE): install pyzmq from its wheels", reached=False)
        host, broken = self._host, Broken("it has no address")
        try:
            async with asyncio.timeout(self._connect_s):
                for host in await asyncio.to_thread(addresses_of, self._host, self._port):
                    line = await self._try(host)
                    if isinstance(line, Line):
                        return line
                    broken = line
                    if broken.connected or broken.starved:
                        break
        except TimeoutError:
            broken = Broken("it takes too long", late=True)
        except OSError:
            self.code = "name_unknown"
            words = f"the name {self._host} cannot be resolved: check it, and the name server"
            return Trouble(words, reached=False)
        return await self._trouble(host, broken)

    async def _try(self, host: str) -> "Line | Broken":
        """A connection to a numeric address, established, or why there is none."""
        if not _descriptors_are_left():
            return Broken("no descriptors are left", starved=True)
        if self._context is None:
            self._context = zmq.Context()
        if self._keys is None:
            self._keys = keys_of(self._secret, self._server)
        line = Line(self._context, host, self._port, self._keys, most=self._most, within_s=self._connect_s)
        self._open.add(line)
        broken: Broken | None = Broken("given up")
        try:
            broken = await line.established
        finally:
            if broken is not None:
                self._let_go(line)
        return broken or line

    async def _trouble(self, host: str, broken: Broken) -> Trouble:
        if broken.refused == 400:
            return Trouble(explain_status(401, KEY_REFUSED, self.url), 401, reached=False)
        if broken.refused:
            return Trouble(
                explain_status(503, "it lets this key make no more connections for now", self.url), 503, reached=False
            )
        if broken.starved:
            return Trouble("this process has no descriptors left for a connection: raise LimitNOFILE", reached=False)
        late = f"{self._where} did not agree on keys within {self._connect_s:g} s" if broken.late else ""
        self.code, words = await diagnose(host, self._port, self._where, late=late)
        return Trouble(words, reached=False)


def keys_of(secret: str, server: str) -> Keys:
    """The keys that go with a secret and a gateway's public key, both as they stand in settings."""
    own = pair_of(from_text(secret))
    return Keys(own.secret, own.public, from_text(server))


def _descriptors_are_left() -> bool:
    """Whether there are as many as libzmq may need: it ends the whole process where it gets none."""
    taken: list[int] = []
    try:
        taken += (os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(DESCRIPTORS))
    except OSError:
        return False
    finally:
        for descriptor in taken:
            os.close(descriptor)
    return True
