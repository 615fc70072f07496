"""A destination that stands in front of a real gateway and treats requests badly until it is healed.

Healed, it passes everything on, so that what it let through or stored before is recognised as a repeat by the gateway.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sendoff_server.wire.batch import Batch, decode_body


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came."""

    head: bytes
    body: bytes

    @property
    def batches(self) -> list[Batch]:
        return decode_body(self.body, "zstd")

    @property
    def ids(self) -> list[str]:
        return [batch.id for batch in self.batches]


class Connection:
    """One connection to the hostile destination."""

    def __init__(self, bad: "Hostile", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.bad = bad
        self.reader = reader
        self.writer = writer

    async def head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def request(self) -> Request:
        head = await self.head()
        size = next(
            int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
        )
        return Request(head, await self.reader.readexactly(size))

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, status: str, body: bytes = b"", more: str = "") -> None:
        await self.say(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body)

    async def drip(self, data: bytes) -> None:
        for byte in data:
            await self.say(bytes([byte]))
            await asyncio.sleep(0.05)

    def reset(self) -> None:
        """End with an RST."""
        found = self.writer.get_extra_info("socket")
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Behaviour = Callable[[Connection], Awaitable[None]]


class Hostile:
    """The destination. ``behave`` handles one request of a connection, from its first byte, while it is ill."""

    def __init__(self, upstream: str, behave: Behaviour) -> None:
        self.behave = behave
        self.ill = True
        self.port = 0
        self.seen = 0
        """Connections, and requests on them, that were treated badly."""
        self._host, _, port = upstream.partition(":")
        self._upstream_port = int(port)
        self._tls: ssl.SSLContext | None = None
        self._server: asyncio.Server | None = None
        self._talks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(
            self._talk, "127.0.0.1", self.port, ssl=self._tls, reuse_address=True, limit=1 << 20
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def restart(self, tls: ssl.SSLContext | None) -> None:
        """Listen anew at the same port, with TLS or without."""
        await self.stop()
        self._tls = tls
        await self.start()

    def heal(self) -> None:
        """Pass everything on from now on."""
        self.ill = False

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._talks:
            task.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    async def forward(self, request: Request) -> bytes:
        """What the gateway answers, whole."""
        reader, writer = await asyncio.open_connection(self._host, self._upstream_port, limit=1 << 20)
        try:
            writer.write(request.head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) + request.body)
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            return head.replace(b"\r\nConnection: close", b"") + await reader.read()
        finally:
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        connection = Connection(self, reader, writer)
        try:
            while True:
                if self.ill:
                    self.seen += 1
                    await self.behave(connection)
                else:
                    await connection.say(await self.forward(await connection.request()))
        except (ConnectionError, EOFError, OSError):
            pass
        finally:
            self._talks.discard(task)
            writer.transport.abort()
