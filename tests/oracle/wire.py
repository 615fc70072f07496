"""The wire, a process of its own: TCP between a client and a server, as bad as a file tells it to be.

`python -m tests.oracle.wire CONTROL HOST PORT=TARGET_HOST:TARGET_PORT …`. It knows nothing of what it carries, so it is
the same for TLS, ZeroMQ and plain HTTP. CONTROL is JSON, `{"fault": FAULT}`, read again when it changes; with
`"reset": true` the connections that `void` has left dead are reset.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path

FAULTS = ("cut", "refuse", "stall", "void", "deaf", "dribble", "late")
"""What the wire does while a fault lasts:

- `cut`: every connection is reset in the middle of what it carries, soon after some bytes;
- `refuse`: no new connection;
- `stall`: nothing passes, and goes on afterwards, as packets that are sent again do;
- `void`: whatever is sent is swallowed without a word, and these connections stay dead afterwards, as after a router
  has forgotten them;
- `deaf`: what clients send arrives, the answers do not, and in the end the connection is reset: all of it comes again;
- `dribble`: a few bytes at a time;
- `late`: a quarter of a second each way.
"""
LOOK_S = 0.02
CHUNK = 16_384


@dataclass(eq=False)
class Link:
    """One connection through the wire."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter
    swallowed: bool = False
    """Bytes are missing: whatever came after them would make no sense."""


@dataclass
class Wire:
    """All connections, and what is wrong with them now."""

    control: Path
    fault: str = ""
    links: set[Link] = field(default_factory=set)

    async def watch(self) -> None:
        """Follow the file."""
        seen = 0
        while True:
            changed = self.control.stat().st_mtime_ns
            if changed != seen:
                seen = changed
                told = json.loads(self.control.read_text())
                before, self.fault = self.fault, told["fault"]
                if before == "deaf" or told.get("reset"):
                    for link in [link for link in self.links if link.swallowed]:
                        reset(link)
            await asyncio.sleep(LOOK_S)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int) -> None:
        if self.fault == "refuse":
            kill(writer)
            return
        try:
            far_reader, far = await asyncio.open_connection(host, port)
        except OSError:
            kill(writer)  # nobody is there, which a wire cannot say in any other way
            return
        link = Link(writer, far)
        self.links.add(link)
        try:
            await asyncio.gather(
                self.pump(link, reader, far, answers=False), self.pump(link, far_reader, writer, answers=True)
            )
        except (OSError, asyncio.IncompleteReadError):
            reset(link)
        finally:
            self.links.discard(link)
            for end in (writer, far):
                end.close()

    async def pump(
        self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        while data := await reader.read(CHUNK):
            await self.carry(link, data, writer, answers=answers)
        while self.fault == "stall" or link.swallowed:
            await asyncio.sleep(LOOK_S)  # that it has ended stays unknown as well
        with contextlib.suppress(OSError):
            writer.write_eof()

    async def carry(self, link: Link, data: bytes, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        while self.fault == "stall":
            await asyncio.sleep(LOOK_S)
        if link.swallowed or self.fault == "void" or (answers and self.fault == "deaf"):
            link.swallowed = True
            return
        if self.fault == "cut":
            writer.write(data[: random.randrange(len(data) + 1)])
            await asyncio.sleep(LOOK_S)
            raise ConnectionResetError
        if self.fault == "late":
            await asyncio.sleep(0.25)
        while self.fault == "dribble" and data:
            writer.write(data[:97])
            data = data[97:]
            await asyncio.sleep(LOOK_S)
        writer.write(data)
        await writer.drain()


def kill(writer: asyncio.StreamWriter) -> None:
    """Reset a connection, so that its peer finds it broken."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def reset(link: Link) -> None:
    kill(link.near)
    kill(link.far)


async def serve(control: Path, host: str, routes: list[str]) -> None:
    wire = Wire(control)
    for route in routes:
        port, _, target = route.partition("=")
        to_host, _, to_port = target.rpartition(":")

        async def taken(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to: tuple[str, int] = (to_host, int(to_port))
        ) -> None:
            await wire.connected(reader, writer, *to)

        await asyncio.start_server(taken, host, int(port), limit=CHUNK, backlog=1024)
    await wire.watch()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
