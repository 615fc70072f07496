"""Datagrams, from UDP and from a Unix socket: each is one frame or some lines."""

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from msgspec import structs

from sendoff_server.inputs.contract import Intake
from sendoff_server.inputs.kept import KeptSocket, resume_counts
from sendoff_server.inputs.sockets import inode_of, kernel_drops, remove_file, shown
from sendoff_server.wire.frame import FrameError, Item, Lines, decode_frame

log = logging.getLogger(__name__)

MAX_DATAGRAM = 65_535
BURST = 64
"""Datagrams that are read before the other sockets get their turn."""


@dataclass(slots=True)
class DatagramCounts:
    """Running totals of one input. `truncated`: longer than a datagram may be; `failed`: errors of the socket."""

    datagrams: int = 0
    bytes: int = 0
    truncated: int = 0
    failed: int = 0


class DatagramInput:
    """Reads one bound, non-blocking datagram socket.

    `path`: the file of a Unix socket, removed at the end if it is ours. `kept`: what is known of the socket.
    """

    def __init__(
        self,
        name: str,
        sock: socket.socket,
        intake: Intake,
        *,
        path: Path | None = None,
        kept: KeptSocket | None = None,
    ) -> None:
        self.name = name
        self.address = shown(sock)
        self.counts = DatagramCounts()
        resume_counts(self.counts, kept)
        self._kept = kept or KeptSocket(name, sock.fileno(), self.address)
        self.kernel_dropped = self._kept.dropped
        self.receive_buffer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
        """Bytes that the kernel holds for it (it doubles what it was asked for, for its own overhead)."""
        self._sock = sock
        self._intake = intake
        self._path = path if self._kept.ours else None
        self._inode = kept.inode if kept else inode_of(self._path)
        self._seen_drops = self._kept.seen
        self._buffer = bytearray(MAX_DATAGRAM + 1)
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<DatagramInput {self.name} {self.address}, {self.counts.datagrams} datagrams>"

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._sock, self._readable)

    @property
    def over(self) -> bool:
        """Its socket is closed."""
        return self._sock.fileno() < 0

    def go_on(self) -> None:
        """After `hold`: read again."""
        self.start()

    def hold(self) -> None:
        """Read nothing for now: datagrams wait in the kernel."""
        if self._loop is not None:
            self._loop.remove_reader(self._sock)
            self._loop = None

    def give_up(self) -> KeptSocket:
        """Let go of the socket without closing it."""
        self.hold()
        self.poll_kernel()
        counts, seen, dropped = asdict(self.counts), self._seen_drops, self.kernel_dropped
        descriptor = self._sock.detach()
        return structs.replace(self._kept, descriptor=descriptor, seen=seen, dropped=dropped, counts=counts)

    def drain(self, may_go_on: Callable[[], bool]) -> None:
        """Read what the kernel still holds; in a flood as long as that may go on."""
        while may_go_on() and self._read_one():
            pass

    def succeed(self, old: "DatagramInput") -> None:
        """Go on counting where the input stopped that was at another address before."""
        for name, value in asdict(old.counts).items():
            setattr(self.counts, name, getattr(self.counts, name) + value)
        self.kernel_dropped += old.kernel_dropped

    def close(self) -> None:
        """Stop reading and let the socket go. Twice is fine."""
        self.hold()
        if self._sock.fileno() >= 0:
            if self._path:
                remove_file(self._path, self._inode)
            self._sock.close()

    def poll_kernel(self) -> int:
        """Ask the kernel what it dropped; how many that were since the last time."""
        if self._sock.fileno() < 0 or self._sock.family == socket.AF_UNIX:  # to a full Unix one, writes fail instead
            return 0
        now = kernel_drops(self._sock)
        new = (now - self._seen_drops) % 2**32
        self.kernel_dropped += new
        self._seen_drops = now
        return new

    def _readable(self) -> None:
        for _ in range(BURST):
            if not self._read_one():
                return

    def _read_one(self) -> bool:
        """Read and hand on one datagram; False when there is none."""
        try:
            size = self._sock.recv_into(self._buffer, 0, socket.MSG_TRUNC)  # gives the whole length
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self.counts.failed += 1
            log.warning("input %s: a read failed: %s", self.name, error)
            return False
        self.counts.datagrams += 1
        self.counts.bytes += size
        self._intake.datagram(self._decode(size), self.name)
        return True

    def _decode(self, size: int) -> Item:
        cut = size > MAX_DATAGRAM
        data = bytes(memoryview(self._buffer)[: min(size, MAX_DATAGRAM)])
        self.counts.truncated += cut
        if data[:1] != b"{":
            return Lines(data, cut)
        if cut:
            return FrameError("cut_off", f"a datagram of {size} bytes; at most {MAX_DATAGRAM} are read")
        try:
            return decode_frame(data, datagram=True)
        except FrameError as error:
            return error
