"""One connection to the agent, Unix or TCP: units out, acknowledgements in. Never waits.

A unit that was cut short is finished before any other byte is taken. An exception that a signal handler raises in the
middle of a send leaves it unknown how much went out: such a connection is *torn*, and must be closed and begun anew.
"""

from __future__ import annotations

import _socket
import errno

from sendoff import frame
from sendoff.frame import unit
from sendoff.sending.contract import Gone, Torn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sendoff.frame import Ack
    from sendoff.sending.contract import Job

_NO_SIGNAL = getattr(_socket, "MSG_NOSIGNAL", 0)
_WAIT = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR, errno.ENOBUFS, errno.ENOTCONN, errno.EINPROGRESS, errno.EALREADY)
READS = 16
"""Reads of 64 KiB in one go, so that a talkative peer cannot keep a caller's thread."""


class SocketStream:
    """A connected (or connecting) socket. On it a frame is a unit: its length comes first."""

    __slots__ = ("_decoder", "_sending", "_socket", "job")

    def __init__(self, sock: _socket.socket) -> None:
        self._socket = sock
        self._decoder = frame.AckDecoder()
        self._sending = False
        self.job: Job | None = None
        """See `contract.Stream`. Its `rest` is what is left of the unit."""

    @property
    def fileno(self) -> int:
        """The descriptor, -1 when closed."""
        return self._socket.fileno()

    @property
    def untouched(self) -> bool:
        """Never: what it takes is with the kernel."""
        return False

    def go_on(self) -> bool:
        """Write what is left of the job. True if nothing is. Raises `Gone`."""
        if self._sending:
            raise Torn("torn by an exception from a signal handler")
        job = self.job
        if job is not None and job.rest is None:
            job.rest = memoryview(unit(job.frame))
        while job is not None and job.rest:
            self._sending = True
            try:
                count = self._socket.send(job.rest, _NO_SIGNAL)
            except OSError as error:
                self._sending = False
                if error.errno in _WAIT:
                    return False
                raise Gone(str(error)) from error
            job.rest = job.rest[count:]
            self._sending = False
        return True

    def read(self) -> list[Ack]:
        """The acknowledgements that have come. Raises `Gone` at the end of the stream, on errors and on anything else
        than acknowledgements; what came before that is given first.
        """
        found: list[Ack] = []
        for _ in range(READS):
            try:
                more = self._receive()
            except Gone:
                if found:
                    break  # the next call meets it again
                raise
            if more is None:
                break
            found += more
        return found

    def _receive(self) -> list[Ack] | None:
        try:
            data = self._socket.recv(65_536)
        except OSError as error:
            if error.errno in _WAIT:
                return None
            raise Gone(str(error)) from error
        if not data:
            raise Gone("closed by the agent")
        try:
            return self._decoder.feed(data)
        except frame.AckError as error:
            raise Gone(str(error)) from error

    def ship(self) -> None:
        """Nothing to do: what the kernel took is on its way."""

    def watch(self) -> tuple[tuple[int, bool], ...]:
        """The socket; for writing, too, while a unit is cut short."""
        return ((self.fileno, self.job is not None),)

    @property
    def due_at(self) -> float | None:
        """Never: nothing on a socket has a deadline."""
        return None

    def end_writing(self) -> None:
        """Tell the peer that nothing follows."""
        try:
            self._socket.shutdown(_socket.SHUT_WR)
        except OSError:
            return  # it knows already

    def close(self) -> None:
        """Close the descriptor; nothing is sent."""
        try:
            self._socket.close()
        except OSError:
            return  # closed all the same

    def forget(self) -> None:
        """Close the descriptor: the parent's stays open."""
        self.close()

    def __repr__(self) -> str:
        return f"SocketStream(fileno={self.fileno}, busy={self.job is not None})"


def new_socket(family: int) -> _socket.socket:
    """A stream socket. Raises `Gone` where no descriptor is left."""
    try:
        return _socket.socket(family, _socket.SOCK_STREAM)
    except OSError as error:
        raise Gone(str(error)) from error


def open_tcp(host: str, port: int, family: int) -> SocketStream:
    """Begin to connect to a numeric address. Raises `Gone` if that fails at once."""
    sock = new_socket(family)
    try:
        sock.setblocking(False)
        sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        sock.connect((host, port))
    except BlockingIOError:
        pass  # on its way
    except OSError as error:
        sock.close()
        raise Gone(str(error)) from error
    return SocketStream(sock)
