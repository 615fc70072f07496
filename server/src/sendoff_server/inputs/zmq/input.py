"""ZeroMQ: many peers on one ROUTER, in the agent and in the gateway (wire format, section 1, *ZeroMQ*).

A plain context whose descriptor the event loop watches. That descriptor speaks once and then only after all was read,
so each turn reads until there is nothing, or asks for another turn. zmq.asyncio does the same with a future a message.

Whose a message is, libzmq says with it: the routing id it came by, the key that was checked (User-Id), the connection.
A session belongs to all three. **Peers may not choose their routing id.** libzmq believes what a peer says it is: one
that takes another's gets its answers, and one that takes the next number libzmq would give out makes it abort the
process (an assertion, in 4.3.5). The numbers begin at a secret place, each one is compared with what can have been
given out, and who shows up with another is cut off.

What a peer can cost is bounded: messages by MAXMSGSIZE, those inside libzmq by RCVHWM and `max_unread`, connections
and peers in number, a turn in messages and bytes, silence and answers that are not read in seconds. Everything given
up is counted.
"""

import asyncio
import logging
import resource
import socket
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import zmq

from sendoff_server.inputs.sockets import inode_of, remove_file, shown
from sendoff_server.inputs.zmq.monitor import Connection, Watch
from sendoff_server.inputs.zmq.peer import AGAIN_AFTER, Peer
from sendoff_server.inputs.zmq.reception import Reception, ZmqCounts
from sendoff_server.inputs.zmq.router import (
    HIGH_WATER,
    Curve,
    bind,
    given_out,
    make_context,
    make_router,
    number,
    require,
)
from sendoff_server.inputs.zmq.unread import Held, beyond, is_mute
from sendoff_server.inputs.zmq.zap import Zap
from sendoff_server.wire.frame import MAX_UNIT

log = logging.getLogger(__name__)

MAX_PEERS = 10_000
MAX_PEERS_OF_ONE = 1_000
TURN_MESSAGES = 64
TURN_BYTES = 1_048_576
TURN_S = 0.01
"""What is read, and how long that may take, before others get their turn."""
SILENT_AFTER = 300.0
"""Seconds without a message after which a peer gives way to a new one."""
CROWDED = 30.0
"""Seconds after which to come again where there are too many."""
SETTLED_AFTER = 0.1
LATE_AFTER = 2.0
"""Seconds after its end in which what a connection sent before is read: where all was read meanwhile, and at most."""
RETRY = 0.05
"""Seconds after which a peer that took no answer is tried again."""
LAST_WORDS_MS = 500
READ_MOMENT = 0.1
"""Seconds in which clients read their last answer."""
UNREAD_SPARE = 8 * 1024 * 1024
"""Bytes of one connection that the kernel may hold, and that its heartbeats may come to in months."""


class ZmqInput:
    """Reads one ROUTER on a listening socket, which becomes its own. `clock`: monotonic seconds. Raises InputError."""

    def __init__(
        self,
        name: str,
        sock: socket.socket,
        reception: Reception,
        clock: Callable[[], float],
        *,
        curve: Curve | None = None,
        max_message: int = MAX_UNIT,
        max_peers: int = MAX_PEERS,
        max_peers_of_one: int = MAX_PEERS_OF_ONE,
        keep_file: bool = False,
    ) -> None:
        require(curve=curve is not None)
        self.name = name
        self.address = shown(sock)
        self.counts = ZmqCounts()
        self.reception = reception
        self.clock = clock
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.max_connections = max(8, min(max_peers, (descriptors - 128) // 2))
        self._max_of_one = max_peers_of_one
        self._max_unread = HIGH_WATER * MAX_UNIT + 2 * max_message + UNREAD_SPARE
        self._curve = curve is not None
        self._path = Path(self.address) if sock.family == socket.AF_UNIX and not keep_file else None
        self._inode = inode_of(self._path)
        self._peers: dict[bytes, Peer] = {}
        self._of_user: Counter[str] = Counter()
        self._blocked: dict[bytes, Peer] = {}
        self._ended: deque[Connection] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._due = self._paused = self._closed = False
        self._context = make_context()
        self._zap = Zap(self._context, name, curve, clock) if curve else None
        self._router = make_router(self._context, curve, max_message)
        self._watch = Watch(self._context, self._router, name, sock.getsockname())
        self._first_number = bind(self._context, self._router, sock)

    def __repr__(self) -> str:
        state = "paused" if self._paused else "reading"
        return f"<ZmqInput {self.name} {self.address} {state}, {len(self._peers)} peers>"

    @property
    def open(self) -> int:
        """Connections that are open now, those that have not said anything yet included."""
        return len(self._watch.live)

    @property
    def refused_keys(self) -> int:
        """Connections that were turned away because nobody knows their key, or not now."""
        return self._zap.unknown + self._zap.later if self._zap else 0

    def settle(self, asked_before: float) -> None:
        """Answer who showed an unknown key before that time (monotonic seconds): see `Curve.changes`."""
        if self._zap and not self._closed:
            self._zap.settle(asked_before)

    def start(self) -> None:
        loop = self._loop = asyncio.get_running_loop()
        if self._zap:
            self._zap.start()
        loop.add_reader(self._router.fileno(), self._turn)
        loop.add_reader(self._watch.socket.fileno(), self._turn)
        self._later()

    def pause(self) -> None:
        """Read nothing more for now: what is sent stays with libzmq, the kernel, and then with the clients."""
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        now = self.clock()
        for peer in self._peers.values():
            peer.last_read = now  # that nothing was heard was not its fault
        for connection in self._watch.live.values():
            connection.since = now
        for connection in self._ended:
            connection.gone_at = now
        self._later()

    def drain(self, may_go_on: Callable[[], bool]) -> bool:
        """Read what has come, as long as that may go on. False: not all."""
        while may_go_on():
            if not self._read_some():
                return True
        return False

    def sweep(self) -> None:
        """Once a second: end what takes too long or too much."""
        if self._closed:
            return
        now = self.clock()
        if self._zap:
            self._zap.sweep()
        self._ended.extend(self._watch.read(now))
        held = [self._held_by(each) for each in self._watch.live.values()]
        for each in held:
            if each.unread > self._max_unread or (not self._paused and is_mute(each, now)):
                self._stall(each.connection)
        if self._paused:
            return
        self._end_those_gone(before=now - LATE_AFTER)
        for connection in beyond(held):
            self._stall(connection)
        for peer in list(self._peers.values()):
            if peer.connection.gone_at is None and peer.overstays(now):
                peer.mute()
                self._stall(peer.connection)

    def now(self) -> float:
        return self.clock()

    def close(self) -> None:
        """End all sessions and stop listening. Twice is fine. Does not wait."""
        if not self._closed:
            self._shut(0)
            self._context.term()  # no socket is open, none has a linger: returns at once

    async def finish(self) -> None:
        """As `close`, after the answers that are on their way, for LAST_WORDS_MS at most.

        A moment later: libzmq throws away what its user has not read when it finds a connection closed.
        """
        if self._peers:
            await asyncio.sleep(READ_MOMENT)
        if not self._closed:
            self._shut(LAST_WORDS_MS)
            await asyncio.to_thread(self._context.term)

    def _shut(self, linger: int) -> None:
        self._closed = True
        for peer in list(self._peers.values()):
            self._end(peer)
        if self._loop is not None:
            self._loop.remove_reader(self._router.fileno())
            self._loop.remove_reader(self._watch.socket.fileno())
        if self._path:
            remove_file(self._path, self._inode)
        if self._zap:
            self._zap.close()
        self._watch.close()
        self._router.close(linger)

    def last_call(self) -> bool:
        """Let those who are connected write no more; `drain` reads what they could until now. False: nobody is left.

        Who connects later is accepted still: libzmq cannot listen no more without ending all connections.
        """
        self._ended.extend(self._watch.read(self.clock()))
        for connection in list(self._watch.live.values()):
            self._ended.extend(self._watch.cut(connection, self.clock(), socket.SHUT_RD))
        return bool(self._watch.live)

    def cut_user(self, user: str) -> int:
        """End all connections of a user whose key is worth nothing any more. How many there were."""
        mine = [peer for peer in self._peers.values() if peer.user == user]
        for peer in mine:
            self.cut(peer)
        return len(mine)

    def cut(self, peer: Peer) -> None:
        """End a peer's connection at once; the monitor will tell."""
        peer.mute()
        self._ended.extend(self._watch.cut(peer.connection, self.clock()))

    def send(self, peer: Peer, data: bytes) -> bool:
        """Send one answer to a peer. False: it takes nothing now."""
        parts = [peer.identity, b"", data] if peer.enveloped else [peer.identity, data]
        try:
            self._router.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            self._blocked[peer.identity] = peer
            if len(self._blocked) == 1 and self._loop is not None:
                self._loop.call_later(RETRY, self._retry)
            return False
        except zmq.ZMQError as error:
            log.debug("input %s: %r does not get its answer: %s", self.name, peer, error)
        finally:
            self._later()  # sending may have taken in what the descriptor would have told of, also where it failed
        return True

    def _retry(self) -> None:
        """A ROUTER does not say when one of its peers takes something again."""
        blocked, self._blocked = self._blocked, {}
        for peer in blocked.values():
            peer.send_waiting()

    def _later(self) -> None:
        if not self._due and self._loop is not None and not self._closed:
            self._due = True
            self._loop.call_soon(self._turn_again)

    def _turn_again(self) -> None:
        self._due = False
        self._turn()

    def _turn(self) -> None:
        """Read some, and ask for another turn if there may be more."""
        if self._closed:
            return
        self._ended.extend(self._watch.read(self.clock()))
        self._refuse_beyond_limit()
        if self._paused:
            return
        if self._read_some():
            self._later()
        else:
            self._end_those_gone(before=self.clock() - SETTLED_AFTER)

    def _read_some(self) -> bool:
        """Read as much as one turn may. False: there is no more."""
        size, began = 0, monotonic()
        for _ in range(TURN_MESSAGES):
            try:
                head = self._router.recv(zmq.NOBLOCK, copy=False)
                parts = self._router.recv_multipart(zmq.NOBLOCK) if head.more else []
            except zmq.Again:
                return False
            size += self._take(head, parts)
            if size >= TURN_BYTES or monotonic() - began > TURN_S or self._closed:
                return not self._closed
        return True

    def _take(self, head: zmq.Frame, parts: list[bytes]) -> int:
        """One message of somebody's. Its bytes."""
        identity, fd = head.bytes, head.get(zmq.SRCFD)
        user = str(head.get("User-Id")) if self._curve else ""  # ZAP gave it to the key that the sender showed
        size = sum(map(len, parts))
        self.counts.messages += 1
        self.counts.bytes += size
        peer = self._peers.get(identity)
        if peer is None or peer.user != user or peer.connection.fd != fd:
            peer = self._meet(identity, user, fd)
        peer.connection.take(size, len(parts), curve=self._curve)
        enveloped = len(parts) == 2 and not parts[0]  # a REQ's
        if len(parts) == 1 + enveloped and parts[-1]:
            peer.take(parts[-1], enveloped=enveloped)
        elif len(parts) > 1 + enveloped:
            self.counts.garbage += 1
            peer.dismiss(AGAIN_AFTER)
        else:
            self.counts.garbage += 1  # nothing in it: a probe of PROBE_ROUTER's, or nonsense
        return size

    def _meet(self, identity: bytes, user: str, fd: int) -> Peer:
        """The peer of a message that belongs to nobody yet, or not to who had this routing id."""
        now = self.clock()
        self._ended.extend(self._watch.read(now))
        if (before := self._peers.get(identity)) is not None:
            self._end(before)
        connection = self._connection_of(fd, identity, now)
        peer = self._peers[identity] = Peer(self, identity, user, connection)
        self._of_user[user] += 1
        self.counts.accepted += 1
        if not given_out(identity, self._first_number, self._watch.handshakes):
            self.counts.garbage += 1
            forged = identity[:1] == b"\0"  # only libzmq's own begin so
            self.reception.distrust(user, "it chose its own routing id, which no client does", forged=forged)
            self.cut(peer)
            return peer
        self.reception.met(user)
        if self._of_user[user] > self._max_of_one or not self._has_room():
            peer.dismiss(CROWDED)
        return peer

    def _connection_of(self, fd: int, identity: bytes, now: float) -> Connection:
        """The connection of a message. Of two that had this number the older has ended."""
        connection = self._watch.live.get(fd)
        if connection is not None and connection.identity not in (b"", identity):
            if number(identity) < number(connection.identity):
                connection = None
            elif (wrong := self._peers.get(connection.identity)) is not None:
                wrong.connection = Connection(fd, now, connection.identity, gone_at=now)
                self._ended.append(wrong.connection)
        if connection is None:
            connection = Connection(fd, now, gone_at=now)
            self._ended.append(connection)
        connection.identity = identity
        return connection

    def _has_room(self) -> bool:
        """Whether one more peer may be here; the one that has been silent longest gives way, if that is long."""
        if len(self._peers) <= self.max_connections:
            return True
        victim = min(self._peers.values(), key=lambda peer: peer.last_read)
        if self.clock() - victim.last_read <= SILENT_AFTER:
            return False
        self.counts.evicted += 1
        self.cut(victim)
        return True

    def _end(self, peer: Peer) -> None:
        """Forget a peer."""
        if self._peers.get(peer.identity) is peer:
            del self._peers[peer.identity]
            self._of_user[peer.user] -= 1
            if not self._of_user[peer.user]:
                del self._of_user[peer.user]
        peer.end()

    def _end_those_gone(self, before: float) -> None:
        """End what belongs to connections that ended before that time: what they sent has been read by now."""
        while self._ended and (self._ended[0].gone_at or 0.0) <= before:
            connection = self._ended.popleft()
            peer = self._peers.get(connection.identity)
            if peer is not None and peer.connection is connection:
                self._end(peer)

    def _stall(self, connection: Connection) -> None:
        self.counts.stalled += not connection.is_cut
        self._ended.extend(self._watch.cut(connection, self.clock()))

    def _held_by(self, connection: Connection) -> Held:
        peer = self._peers.get(connection.identity)
        return Held(connection, self._watch.received(connection), "" if peer is None else peer.user)

    def _refuse_beyond_limit(self) -> None:
        """End the newest connections beyond the limit, of those that have said nothing yet."""
        beyond = len(self._watch.live) - self.max_connections
        if beyond <= 0:
            return
        for connection in [each for each in reversed(self._watch.live.values()) if not each.identity][:beyond]:
            self.counts.refused += 1
            if self.counts.refused & (self.counts.refused - 1) == 0:  # said at 1, 2, 4, 8 …
                log.warning("input %s: %d connections refused, %d are open", self.name, self.counts.refused, self.open)
            self._ended.extend(self._watch.cut(connection, self.clock()))
