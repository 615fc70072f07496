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
from dataclasses import asdict
from pathlib import Path

from msgspec import structs

from sendoff_server.inputs.connection import Connection, StreamCounts
from sendoff_server.inputs.contract import Intake
from sendoff_server.inputs.kept import KeptConnection, KeptSocket, resume_counts
from sendoff_server.inputs.sockets import inode_of, remove_file, shown

log = logging.getLogger(__name__)

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


class StreamInput:
    """Accepts from one listening, non-blocking socket. `clock`: monotonic seconds.

    `path`: a Unix socket's file, removed at the end if it is ours. `kept`: what is known of the socket.
    """

    def __init__(
        self,
        name: str,
        sock: socket.socket,
        intake: Intake,
        clock: Callable[[], float],
        *,
        path: Path | None = None,
        kept: KeptSocket | None = None,
        max_connections: int = MAX_CONNECTIONS,
        max_pending: int = MAX_PENDING,
    ) -> None:
        self.name = name
        self.address = shown(sock)
        self.counts = StreamCounts()
        resume_counts(self.counts, kept)
        self.intake = intake
        self.clock = clock
        self.loop: asyncio.AbstractEventLoop
        self._sock = sock
        self._kept = kept or KeptSocket(name, sock.fileno(), self.address)
        self._path = path if self._kept.ours else None
        self._inode = kept.inode if kept else inode_of(self._path)
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._max_connections = max(8, min(max_connections, (descriptors - 128) // 2))
        self._max_pending = max_pending
        self._pending = 0
        self._connections: set[Connection] = set()
        self._accepting = self._paused = self._stopped = False

    def __repr__(self) -> str:
        state = "paused" if self._paused else "reading"
        return f"<StreamInput {self.name} {self.address} {state}, {len(self._connections)} connections>"

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    @property
    def over(self) -> bool:
        """It listens no more, and its last connection has ended."""
        return self._sock.fileno() < 0 and not self._connections

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
        """Take no more connections. Those that wait in the queue are taken first: they may have written already.

        Where systemd holds the socket, they stay in the queue, for who comes next.
        """
        while self._kept.ours and self._accepting and self._accept_one():
            pass
        self._stopped = True
        self._set_accepting(False)

    def last_call(self) -> None:
        """Read no more by itself, and let Unix peers write no more: what they could write until now is what there is.

        TCP knows no such word: what a peer sends after it was drained, and before it hears of the end, is lost to it.
        """
        self.pause()
        for connection in self._connections:
            connection.refuse_more()

    def hold(self) -> None:
        """Neither accept nor read for now: everything waits in the kernel. `resume` and `go_on` undo it."""
        self._stopped = True
        self._set_accepting(False)
        self.pause()

    def go_on(self) -> None:
        """After `hold`: accept again. Reading is for `resume`."""
        if self._sock.fileno() < 0:
            return
        self._stopped = False
        self._set_accepting(True)

    def give_up(self) -> tuple[KeptSocket, list[KeptConnection]]:
        """Let go of the socket and the connections without closing them. Only after `hold`."""
        connections = [each.give_up() for each in self._connections if each.fileno() >= 0]
        self._connections.clear()
        kept = structs.replace(self._kept, descriptor=self._sock.detach(), counts=asdict(self.counts))
        return kept, connections

    def adopt(self, kept: KeptConnection) -> None:
        """Go on with a connection that another run gave up. Only after `start`."""
        sock = socket.socket(fileno=kept.descriptor)
        sock.setblocking(False)
        connection = Connection(self, sock, kept)
        self._connections.add(connection)
        self.held(connection.decoder.pending)
        if kept.ended:
            connection.end(orderly=True)
        else:
            connection.set_reading(not self._paused)

    def retire(self) -> None:
        """Nobody is to come here any more: take those who wait, then stop listening. Open connections go on."""
        self.stop_accepting()
        self._stop_listening()

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
        self._stop_listening()
        for connection in list(self._connections):
            connection.close()

    def _stop_listening(self) -> None:
        if self._sock.fileno() >= 0:
            self._stopped = True
            self._set_accepting(False)
            if self._path:
                remove_file(self._path, self._inode)
            self._sock.close()

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

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)

    def _stall(self, connection: Connection) -> None:
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
        if sock.family != socket.AF_UNIX:
            _find_dead_peers(sock)
        connection = Connection(self, sock)
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
