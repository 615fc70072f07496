"""What libzmq tells of a connection, in words: how far it has come, and why it ended.

libzmq tells it by waiting until somebody takes it. Where nobody listens (any more) the thread of libzmq that clears
sockets away waits for ever, and each connection from then on leaks its descriptors. So who listens is there before it
begins to tell, and until it was told to stop or has come to its end.
"""

from __future__ import annotations

import _socket
import errno
import itertools
import os
import struct

from sendoff.sending.contract import Answered, Gone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import zmq

    from sendoff.settings import Address

CONNECTING, CONNECTED, GREETED = range(3)
UNKNOWN_KEY = 30.0
"""Seconds at least until a key that was refused is tried again: each try costs the gateway a handshake."""
_numbers = itertools.count(1)


class Monitor:
    """The monitor of one connection to `address`."""

    def __init__(self, context: zmq.Context[Any], address: Address) -> None:
        """Raises `zmq.ZMQError` where no socket is to be had."""
        import zmq

        self._zmq = zmq
        self._dealer: Any = None
        self._address = address
        self.where = address.place if address.path is None else address.path
        self.stage = CONNECTING
        """How far the connection has come: CONNECTING, CONNECTED, or GREETED when frames can go."""
        self.over = False
        """Whether the DEALER is closed and gone, so that nothing will ever be told any more."""
        self._descriptor: tuple[int, int] | None = None
        """The connection's own descriptor, and its inode."""
        self._name = f"inproc://sendoff-{next(_numbers)}"
        self._pair: Any = context.socket(zmq.PAIR)
        self._pair.set(zmq.LINGER, 0)
        self.fd: int = self._pair.get(zmq.FD)

    def begin(self, dealer: zmq.Socket[bytes]) -> None:
        """Hear what `dealer`, which is about to connect, does from now on. Raises `zmq.ZMQError`."""
        self._dealer = dealer
        self._pair.connect(self._name)
        dealer.monitor(self._name, self._zmq.EVENT_ALL)

    @property
    def has_news(self) -> bool:
        """Whether `look` would find something."""
        return bool(self._pair.get(self._zmq.EVENTS) & self._zmq.POLLIN)

    def look(self) -> None:
        """Take the events that have come. Raises `Gone` with the first that ends the connection: `Answered` if that is
        the end of a socket that was closed here, all of which has gone out.
        """
        while True:
            try:
                event, value = struct.unpack("=HI", self._pair.recv_multipart(self._zmq.DONTWAIT)[0])
            except self._zmq.Again:
                return
            self._take(event, value)

    def _take(self, event: int, value: int) -> None:
        zmq = self._zmq
        if event == zmq.EVENT_CONNECTED:
            self.stage = CONNECTED
            self._descriptor = self._identify(value)
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.stage = GREETED
        elif event in (zmq.EVENT_CLOSED, zmq.EVENT_DISCONNECTED):
            raise Gone(self._how_it_ended())
        elif event == zmq.EVENT_MONITOR_STOPPED:
            self.over = True
            raise Answered("everything went out")
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            if value != 400:  # the code of ZAP for a key that is not known
                raise Gone(f"{self.where} lets this key make no more connections for now", wait=UNKNOWN_KEY)
            raise Gone(f"{self.where} does not know this key, or it was revoked", wait=UNKNOWN_KEY)
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            raise Gone(self._how_it_differs(value))
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            raise Gone(self._how_it_failed(value))

    def _how_it_ended(self) -> str:
        if self.stage == GREETED:
            return f"the connection to {self.where} ended"
        if self.stage == CONNECTED:
            return f"what answers at {self.where} is no ZeroMQ socket, or closed the connection at once"
        return f"nobody listens at {self.where}"

    def _how_it_differs(self, error: int) -> str:
        if error != self._zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
            return f"what answers at {self.where} does not keep to ZeroMQ's protocol, or has another key"
        if self._address.server:
            return f"what answers at {self.where} is no ZeroMQ socket with CURVE"
        return f"what answers at {self.where} is no ZeroMQ socket without keys: if it wants some, the address is zmq+curve://…"

    def _how_it_failed(self, error: int) -> str:
        if error == errno.EAGAIN:  # libzmq's own limit
            return f"the handshake was not finished in time by {self.where}"
        if self._address.server:
            return f"{self.where} ended the handshake: does it speak CURVE, and is the server's key its own?"
        return f"{self.where} ended the handshake: if it wants keys, the address is zmq+curve://…"

    def _identify(self, descriptor: int) -> tuple[int, int] | None:
        """The descriptor with its inode, if that is our connection still: libzmq may have closed it meanwhile, and the
        app have got its number for a file of its own.
        """
        try:
            copy = os.dup(descriptor)
        except OSError:
            return None
        try:
            inode, own = os.fstat(copy).st_ino, _socket.socket(fileno=copy)
            try:
                peer = own.getpeername()
            finally:
                own.detach()
        except OSError:
            return None
        finally:
            os.close(copy)
        path = self._address.path
        ours = peer == path if path is not None else type(peer) is tuple and peer[1] == self._address.port
        return (descriptor, inode) if ours else None

    def close(self) -> None:
        """Hear nothing more: before the DEALER is closed, or when all is over, not in between. May be done again."""
        if not self.over and self._dealer is not None and not self._dealer.closed:
            self._dealer.monitor(None, 0)
        self._pair.close(0)

    def forget(self) -> None:
        """In the child after a fork: close the connection's descriptor, and leave the rest of libzmq alone."""
        if self._descriptor is not None and _inode(self._descriptor[0]) == self._descriptor[1]:
            os.close(self._descriptor[0])

    def __repr__(self) -> str:
        return f"Monitor({self.where}, stage={self.stage})"


def _inode(descriptor: int) -> int:
    """The inode behind a descriptor, 0 if that is closed."""
    try:
        return os.fstat(descriptor).st_ino
    except OSError:
        return 0
