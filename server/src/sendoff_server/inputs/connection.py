"""One accepted stream connection: read a piece at a time, answered without waiting, given up whole to another run."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from sendoff_server.inputs.contract import Intake, Session
from sendoff_server.inputs.kept import KeptConnection
from sendoff_server.wire.frame import StreamDecoder

READ_BYTES = 65_536


@dataclass(slots=True)
class StreamCounts:
    """Running totals of one input. `refused`: connections beyond the limit; `evicted`: idle ones that gave way;

    `stalled`: ended because a unit did not come to its end; `reset`: broken off by the peer.
    """

    accepted: int = 0
    refused: int = 0
    evicted: int = 0
    stalled: int = 0
    reset: int = 0
    bytes: int = 0


class Owner(Protocol):
    """What a connection needs of the input that accepted it."""

    name: str
    loop: asyncio.AbstractEventLoop
    counts: StreamCounts
    intake: Intake
    clock: Callable[[], float]

    def held(self, change: int) -> None: ...
    def closed(self, connection: "Connection") -> None: ...


class Connection:
    """One accepted connection; the session's Link."""

    def __init__(self, owner: Owner, sock: socket.socket, kept: KeptConnection | None = None) -> None:
        self._owner = owner
        self._sock = sock
        self._loop = owner.loop
        session = kept.session if kept else None
        kept = kept or KeptConnection(owner.name, sock.fileno())
        self.decoder = StreamDecoder.resumed(kept.plain, kept.passing_over, kept.rest)
        self.last_read = owner.clock()
        self.unit_since: float | None = self.last_read if self.decoder.in_unit else None
        self.ended_at: float | None = None
        self.received = kept.received
        self._out = b""
        self._reading = self._refusing = False
        if kept.out:
            self._send(kept.out)
        self.session: Session = owner.intake.connected(owner.name, self, session)
        if session is not None and not self._out:
            self.session.writable()  # what could not be said before

    def set_reading(self, on: bool) -> None:
        if on and not self._reading and self.ended_at is None:
            self._loop.add_reader(self._sock, self.read)
        elif self._reading and not on:
            self._loop.remove_reader(self._sock)
        self._reading = on and self.ended_at is None

    def read(self) -> bool:
        """Read one piece and hand it on; False when there is nothing, or nothing more."""
        try:
            data = self._sock.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            self._owner.counts.reset += 1
            self.end(orderly=False)
            return False
        if not data:
            self.end(orderly=not self._refusing)
            return False
        self.received += len(data)
        self.last_read = self._owner.clock()
        self._owner.counts.bytes += len(data)
        before = self.decoder.pending
        items = self.decoder.feed(data)
        pending = self.decoder.pending
        if not self.decoder.in_unit:
            self.unit_since = None
        elif items or self.unit_since is None:
            self.unit_since = self.last_read
        for item in items:
            self.session.take(item)
        if self.decoder.dead:
            self.end(orderly=False)
        self._owner.held(pending - before)
        return self.ended_at is None

    def refuse_more(self) -> None:
        """Let a Unix peer's next write fail, so that it knows what was not taken. What it wrote can still be read."""
        if self._sock.family == socket.AF_UNIX and self.ended_at is None:
            with suppress(OSError):  # it has gone by itself
                self._sock.shutdown(socket.SHUT_RD)
                self._refusing = True

    def end(self, *, orderly: bool) -> None:
        """Nothing more will be read. The session says when the last reply is out."""
        if self.ended_at is not None:
            return
        self.set_reading(False)
        self.ended_at = self._owner.clock()
        self._owner.held(-self.decoder.pending)
        for item in self.decoder.end(orderly=orderly):
            self.session.take(item)
        self.session.ended(orderly=orderly)

    def reply(self, data: bytes) -> bool:
        if self._out:
            return False
        if self._sock.fileno() >= 0:
            self._send(len(data).to_bytes(4, "little") + data)
        return True

    def _send(self, data: bytes) -> None:
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            sent = len(data)  # the peer has gone; what it wrote before is still being read
        was, self._out = self._out, data[sent:]
        if self._out and not was:
            self._loop.add_writer(self._sock, self._writable)

    def _writable(self) -> None:
        self._send(self._out)
        if not self._out:
            self._loop.remove_writer(self._sock)
            self.session.writable()

    def fileno(self) -> int:
        return self._sock.fileno()

    def give_up(self) -> KeptConnection:
        """Stop, and let go of the descriptor without closing it."""
        self.set_reading(False)
        self._loop.remove_writer(self._sock)
        plain, passing_over, rest = self.decoder.rest
        ended, session = self.ended_at is not None, self.session.keep()
        return KeptConnection(
            self._owner.name, self._sock.detach(), plain, passing_over, rest, self.received, ended, self._out, session
        )

    def close(self) -> None:
        """Let the socket go. Twice is fine."""
        self.end(orderly=False)
        if self._sock.fileno() < 0:  # also if the session closed it when it heard of the end
            return
        self._loop.remove_writer(self._sock)
        self._sock.close()
        self._owner.closed(self)
        if self._out:  # nobody will read it; who waits to say more need not
            self._out = b""
            self.session.writable()
