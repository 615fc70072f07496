"""Streams, from TCP and from a Unix socket: many connections, each read to its end.

The sockets are read directly and not through an asyncio protocol: when a client has died, writing its acknowledgement
fails, and what it wrote before must still be read; a protocol throws that away.

What a peer can cost is bounded. Each readable connection gives one piece at a time, so none waits for another. The
number of connections is limited; a new one takes the place of one that has long been silent, or is refused. All
half-read units together have a limit; beyond, and after UNIT_DEADLINE, the unit that has taken longest ends its
connection. Everything given up is counted.
"""

import asyncio
import errno
import logging
import resource
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sendoff_server.inputs.contract import Intake, Session
from sendoff_server.inputs.sockets import remove_file, shown
from sendoff_server.wire.frame import StreamDecoder

log = logging.getLogger(__name__)

READ_BYTES = 65_536
MAX_CONNECTIONS = 1_000
MAX_PENDING = 64 * 1024 * 1024
"""Bytes of half-read units that all connections of one input may hold together."""
UNIT_DEADLINE = 60.0
"""Seconds in which a unit that was begun must be there."""
SILENT_AFTER = 10.0
IDLE_AFTER = 300.0
"""Seconds without a byte after which a connection that never sent any, or did, gives way to a new one."""
LINGER = 10.0
"""Seconds that a connection is kept for its last acknowledgement after its peer has finished writing."""
ACCEPT_PAUSE = 1.0


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


class _Connection:
    """One accepted connection; the session's Link."""

    def __init__(self, owner: "StreamInput", sock: socket.socket) -> None:
        self._owner = owner
        self._sock = sock
        self._loop = owner.loop
        self.decoder = StreamDecoder()
        self.last_read = owner.clock()
        self.unit_since: float | None = None
        self.ended_at: float | None = None
        self.received = 0
        self._out = b""
        self._reading = False
        self.session: Session = owner.intake.connected(owner.name, self)

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
            self.end(orderly=True)
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
            self._send(data)
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


class StreamInput:
    """Accepts from one listening, non-blocking socket. `clock`: monotonic seconds. `path`: a Unix socket's file."""

    def __init__(
        self,
        name: str,
        sock: socket.socket,
        intake: Intake,
        clock: Callable[[], float],
        *,
        path: Path | None = None,
        max_connections: int = MAX_CONNECTIONS,
        max_pending: int = MAX_PENDING,
    ) -> None:
        self.name = name
        self.address = shown(sock)
        self.counts = StreamCounts()
        self.intake = intake
        self.clock = clock
        self.loop: asyncio.AbstractEventLoop
        self._sock = sock
        self._path = path
        self._inode = path.lstat().st_ino if path else None
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._max_connections = max(8, min(max_connections, (descriptors - 128) // 2))
        self._max_pending = max_pending
        self._pending = 0
        self._connections: set[_Connection] = set()
        self._accepting = self._paused = self._stopped = False

    def __repr__(self) -> str:
        state = "paused" if self._paused else "reading"
        return f"<StreamInput {self.name} {self.address} {state}, {len(self._connections)} connections>"

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    @property
    def pending(self) -> int:
        """Bytes of units and lines that are not complete yet."""
        return self._pending

    def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._set_accepting(True)

    def pause(self) -> None:
        """Read nothing more for now: what is written stays with the kernel and then with the clients."""
        self._paused = True
        for connection in self._connections:
            connection.set_reading(False)

    def resume(self) -> None:
        self._paused = False
        now = self.clock()
        for connection in self._connections:
            connection.last_read = now  # that nothing came was not its peer's fault
            if connection.unit_since is not None:
                connection.unit_since = now
            connection.set_reading(True)

    def stop_accepting(self) -> None:
        """Take no more connections. Those that wait in the queue are taken first: they may have written already."""
        while self._accepting and self._accept_one():
            pass
        self._stopped = True
        self._set_accepting(False)

    def drain(self, may_go_on: Callable[[], bool]) -> bool:
        """Read what the kernel holds of the open connections, in turn, as long as that may go on. False: not all."""
        live = deque(connection for connection in self._connections if connection.ended_at is None)
        while live and may_go_on():
            connection = live.popleft()
            if connection.ended_at is None and connection.read():
                live.append(connection)
        return not live

    def close(self) -> None:
        """End all connections and stop listening. Twice is fine."""
        if self._sock.fileno() >= 0:
            self._stopped = True
            self._set_accepting(False)
            if self._path:
                remove_file(self._path, self._inode)
            self._sock.close()
        for connection in list(self._connections):
            connection.close()

    def sweep(self) -> None:
        """Once a second: end what takes too long."""
        now = self.clock()
        for connection in list(self._connections):
            if connection.ended_at is not None:
                if now - connection.ended_at > LINGER:
                    connection.close()
            elif connection.unit_since is not None and not self._paused and now - connection.unit_since > UNIT_DEADLINE:
                self._stall(connection)

    def held(self, change: int) -> None:
        """A connection holds so many bytes more (or less) of what is not complete."""
        self._pending += change
        if self._pending > self._max_pending:
            begun = [each for each in self._connections if each.unit_since is not None and each.ended_at is None]
            if begun:
                self._stall(min(begun, key=lambda each: each.unit_since or 0.0))

    def closed(self, connection: _Connection) -> None:
        self._connections.discard(connection)

    def _stall(self, connection: _Connection) -> None:
        self.counts.stalled += 1
        connection.end(orderly=False)
        connection.close()

    def _set_accepting(self, on: bool) -> None:
        if on and not self._accepting:
            self.loop.add_reader(self._sock, self._accept)
        elif self._accepting and not on:
            self.loop.remove_reader(self._sock)
        self._accepting = on

    def _accept(self) -> None:
        for _ in range(16):
            if not self._accept_one():
                return

    def _accept_one(self) -> bool:
        try:
            sock, _ = self._sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:
            # Out of descriptors or memory: the connection stays in the queue, and asking at once would only spin.
            log.error("input %s cannot accept: %s; trying again in %g s", self.name, error.strerror, ACCEPT_PAUSE)
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self._set_accepting(False)
                self.loop.call_later(ACCEPT_PAUSE, self._accept_again)
            return False
        if len(self._connections) >= self._max_connections and not self._make_room():
            self.counts.refused += 1
            if self.counts.refused & (self.counts.refused - 1) == 0:  # said at 1, 2, 4, 8 …
                log.warning("input %s: %d connections refused, %d are open", self.name, self.counts.refused, self.open)
            sock.close()
            return True
        self.counts.accepted += 1
        sock.setblocking(False)
        if self._path is None:
            _find_dead_peers(sock)
        connection = _Connection(self, sock)
        self._connections.add(connection)
        connection.set_reading(not self._paused)
        return True

    def _accept_again(self) -> None:
        if not self._stopped:
            self._set_accepting(True)

    def _make_room(self) -> bool:
        """End the connection that has been silent longest, if that is long."""
        now = self.clock()
        if self._paused:
            return False
        idle = [
            each for each in self._connections if now - each.last_read > (IDLE_AFTER if each.received else SILENT_AFTER)
        ]
        if not idle:
            return False
        self.counts.evicted += 1
        victim = min(idle, key=lambda each: (bool(each.received), each.last_read))
        victim.end(orderly=False)
        victim.close()
        return True


def _find_dead_peers(sock: socket.socket) -> None:
    """Let the kernel find out that a TCP peer vanished without a word: after a minute, within two."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
