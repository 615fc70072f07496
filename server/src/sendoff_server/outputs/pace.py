"""Time-outs of one request by what it is doing: connecting, sending, answering.

A total would be wrong at both ends: a large body over a slow line never arrives, and an answer that drips a byte a
second is waited for in full. So a body may take as long as it makes progress, measured by what the other machine has
acknowledged (the kernel knows), and an answer has one limit from the moment that the body is out, or that it began.
Progress is 64 KiB within a time-out, or the rest of the body: who takes a few bytes at a time is given up.
"""

import asyncio
import fcntl
import struct
import termios
from dataclasses import dataclass, field
from typing import Literal, Protocol

import aiohttp
from aiohttp.abc import AbstractStreamWriter

CONNECT_S = 10.0
PIECE = 65_536
PROGRESS_BYTES = 65_536
"""As much of a body has to be taken within a time-out, until all of it is."""
LOOKS = 20
"""So many times within a time-out it is looked at, so it is exact to a twentieth."""

Stage = Literal["connecting", "sending", "answering"]


class Outgoing(Protocol):
    """What is on its way out."""

    @property
    def size(self) -> int | None: ...
    @property
    def begun(self) -> bool:
        """Whether there is a connection that takes it."""
        ...

    @property
    def left(self) -> int:
        """Bytes that the other machine has not got yet, as far as can be known."""
        ...


class Body(aiohttp.payload.Payload):
    """Bytes on their way out, in pieces, so that the loop never waits for a large one; and how far they are."""

    def __init__(self, value: bytes) -> None:
        super().__init__(value)
        self._size = len(value)
        self.written = 0
        self.transport: asyncio.Transport | None = None

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        text: str = self._value.decode(encoding, errors)
        return text

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self.transport = getattr(writer, "transport", None)
        view = memoryview(self._value)[:content_length]
        for at in range(0, len(view), PIECE):
            self.written = min(at + PIECE, len(view))  # the transport has it, and says how much of it is left
            await writer.write(view[at : at + PIECE])

    @property
    def begun(self) -> bool:
        return self.transport is not None

    @property
    def left(self) -> int:
        waiting = 0 if self.transport is None else self.transport.get_write_buffer_size() + _in_kernel(self.transport)
        return len(self._value) - self.written + waiting


def _in_kernel(transport: asyncio.Transport) -> int:
    """Bytes that were handed to the kernel and not acknowledged by the other machine's."""
    found = transport.get_extra_info("socket")
    try:
        return int(struct.unpack("i", fcntl.ioctl(found.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0])
    except (AttributeError, OSError, ValueError):
        return 0  # closed meanwhile


@dataclass(slots=True)
class Pace:
    """Watches one request, and ends it by way of ``limit`` once it makes no progress for ``timeout_s`` seconds.

    Connecting is bounded elsewhere, from before there is a transport.
    """

    body: Outgoing
    timeout_s: float
    limit: asyncio.Timeout
    stage: Stage = "connecting"
    answered: bool = False
    """Whether an answer has begun."""
    least_left: int = 0
    """Bytes of the body that the other machine has not got."""
    creeping: bool = False
    """Whether some of the body was taken lately, but too little."""
    _mark: int = 0
    """What was left when it last made progress …"""
    _since: float = 0.0
    """… and when that was, or when the stage began."""
    _moved: float = 0.0
    """When any byte was taken last."""
    _timer: asyncio.TimerHandle | None = field(default=None, repr=False)

    def start(self) -> None:
        self.least_left = self._mark = len_of(self.body)
        self._look()

    def stop(self) -> None:
        if self._timer:
            self._timer.cancel()

    def answer_began(self) -> None:
        """From now on all of it has to come, whether or not the body was taken."""
        self.answered = True
        self._answering()

    def _answering(self) -> None:
        if self.stage != "answering":
            self.stage = "answering"
            self._since = asyncio.get_running_loop().time()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self.timeout_s / LOOKS, self._look)
        if not self.body.begun:
            return
        left = self.body.left
        if self.stage == "connecting":
            self.stage, self._since = "sending", loop.time()
        if self.stage == "sending":
            if left < self.least_left:
                self.least_left, self._moved = left, loop.time()
            if self._mark - left >= PROGRESS_BYTES:
                self._mark, self._since = left, loop.time()
        if left == 0:
            self._answering()
        if loop.time() - self._since >= self.timeout_s:
            self.creeping = loop.time() - self._moved < self.timeout_s / 2
            self.stop()
            self.limit.reschedule(loop.time())


def len_of(body: Outgoing) -> int:
    """Bytes of a body."""
    return body.size or 0
