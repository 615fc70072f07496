"""The connections beneath a ROUTER: which there are, how much each has sent, and how one is ended.

libzmq shows a ROUTER's user messages and no connections. Its monitor tells of them by the numbers of their
descriptors, and each message says the number of its own. So ends become known, and what libzmq bounds nowhere can be:
how many connections there are, how long one may say nothing, and how many bytes of one are held inside libzmq (a
message of many parts is not part of any high-water mark until its last part is there).

A number is used again as soon as its descriptor is closed. libzmq says DISCONNECTED before it closes one; so a
duplicate that was made before the monitor was found empty is of the connection that is meant, or of none.
"""

import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass

import zmq

from sendoff_server.inputs.zmq.router import Context

_EVENT = struct.Struct("=HI")
_TCP_INFO_RECEIVED = 128
"""Where `tcpi_bytes_received`, a u64, stands in the kernel's tcp_info (linux/tcp.h; Linux 4.1 and later)."""

OVERHEAD, OVERHEAD_CURVE = 9, 42
"""Bytes on the wire that a part of a message takes beside its own, at most."""


@dataclass(slots=True, eq=False)
class Connection:
    """One accepted connection. `since`: monotonic seconds; `identity`: the routing id its messages came by, b"" before
    the first; `taken`: about the bytes that those took on the wire; `brought`: bytes of it that were there at `since`.
    `let_in`: its handshake is over. `gone_at` is set when it has ended, `is_cut` when we ended it.
    """

    fd: int
    since: float
    identity: bytes = b""
    taken: int = 0
    brought: int = 0
    let_in: bool = False
    is_cut: bool = False
    gone_at: float | None = None

    def take(self, size: int, parts: int, *, curve: bool) -> None:
        """A message of so many bytes was read."""
        self.taken += size + parts * (OVERHEAD_CURVE if curve else OVERHEAD)


class Watch:
    """The monitor of one ROUTER, to be made before that is bound (to `where`, as `getsockname` says it). Call `read`
    before `live` is believed.
    """

    def __init__(self, context: Context, router: "zmq.Socket[bytes]", name: str, where: object) -> None:
        address = f"inproc://monitor-{name}-{id(self):x}"
        router.monitor(address, zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self.socket = context.socket(zmq.PAIR)
        # No limit: at one libzmq's I/O thread would wait for us, holding what closing the ROUTER waits for. What
        # piles up while we are busy is 100 bytes for each connection that begins or ends meanwhile.
        self.socket.rcvhwm = 0
        self.socket.linger = 0
        self.socket.connect(address)
        self._router = router
        self.live: dict[int, Connection] = {}
        self.accepted = self.handshakes = 0
        self._where = _place(where)

    def close(self) -> None:
        """Before the ROUTER is closed: what libzmq's threads say where nobody listens any more, they say for ever."""
        self._router.disable_monitor()
        self.socket.close(0)

    def read(self, now: float) -> list[Connection]:
        """Take in all that the monitor has to say; the connections that ended."""
        gone: list[Connection] = []
        while True:
            try:
                event, _ = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return gone
            kind, fd = _EVENT.unpack(event)
            if kind == zmq.EVENT_ACCEPTED:
                self.accepted += 1
                if (before := self._end(fd, now)) is not None:
                    gone.append(before)
                self.live[fd] = Connection(fd, now)
            elif kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.handshakes += 1
                if fd in self.live:
                    self.live[fd].let_in = True
            elif (ended := self._end(fd, now)) is not None:
                gone.append(ended)

    def _end(self, fd: int, now: float) -> Connection | None:
        connection = self.live.pop(fd, None)
        if connection is not None:
            connection.gone_at = now
        return connection

    def cut(self, connection: Connection, now: float, how: int = socket.SHUT_RDWR) -> list[Connection]:
        """End a connection: libzmq finds it closed, and says so. What `read` found meanwhile.

        With `SHUT_RD` it is read to its end before, and by a Unix socket its peer can write no more.
        """
        if (sock := self._duplicate(connection)) is None:
            return []
        connection.is_cut = True
        with sock:
            gone = self.read(now)
            if connection.gone_at is None:
                with suppress(OSError):  # its peer was faster
                    sock.shutdown(how)
        return gone

    def received(self, connection: Connection) -> int:
        """Bytes that the kernel ever took in on a TCP connection; 0 where that is not known."""
        if (sock := self._duplicate(connection)) is None:
            return 0
        with sock:
            if sock.family == socket.AF_UNIX:
                return 0
            try:
                told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_RECEIVED + 8)
            except OSError:
                return 0
        return int.from_bytes(told[_TCP_INFO_RECEIVED:], "little") if len(told) >= _TCP_INFO_RECEIVED + 8 else 0

    def _duplicate(self, connection: Connection) -> socket.socket | None:
        if connection.gone_at is not None:
            return None
        try:
            sock = socket.socket(fileno=os.dup(connection.fd))
        except OSError:
            return None  # closed just now, or no descriptor is left: then another time
        with suppress(OSError):
            if _place(sock.getsockname()) == self._where:
                return sock
        sock.close()
        return None


def _place(name: object) -> object:
    """A port, or a path: an accepted socket may have another address than the one that listens everywhere."""
    return name[1] if isinstance(name, tuple) else name
