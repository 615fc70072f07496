"""One connection to the agent, Unix or TCP: units out, acknowledgements in. Never waits.

A unit that was cut short is finished before any other byte is taken. An exception that a signal handler raises in the
middle of a send leaves it unknown how much went out: such a connection is *torn*, and must be closed and begun anew.
"""

from __future__ import annotations

import _socket
import errno

from sendoff import frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sendoff.frame import Ack

_NO_SIGNAL = getattr(_socket, "MSG_NOSIGNAL", 0)
_WAIT = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR, errno.ENOBUFS, errno.ENOTCONN, errno.EINPROGRESS, errno.EALREADY)
READS = 16
"""Reads of 64 KiB in one go, so that a talkative peer cannot keep a caller's thread."""


class Gone(Exception):
    """The connection has ended, or is of no use."""


class Absent(Gone):
    """There is no agent's socket to connect to."""


class Job:
    """A unit being written: what it is for, and what is left of it (None: nothing)."""

    __slots__ = ("rest", "what")

    def __init__(self, what: str, unit: bytes) -> None:
        self.what = what
        self.rest: memoryview | None = memoryview(unit)


class Stream:
    """A connected (or connecting) socket."""

    __slots__ = ("_decoder", "_sending", "_socket", "job")

    def __init__(self, sock: _socket.socket) -> None:
        self._socket = sock
        self._decoder = frame.AckDecoder()
        self._sending = False
        self.job: Job | None = None
        """The unit being written. Whoever began it takes it away when it is done and booked."""

    @property
    def fileno(self) -> int:
        """The descriptor, -1 when closed."""
        return self._socket.fileno()

    def begin(self, what: str, unit: bytes) -> bool:
        """Start writing a unit; only when there is no job. True if it is wholly written. Raises `Gone`."""
        self.job = Job(what, unit)
        return self.go_on()

    def go_on(self) -> bool:
        """Write what is left of the job. True if nothing is. Raises `Gone`."""
        if self._sending:
            raise Gone("torn by an exception from a signal handler")
        job = self.job
        while job is not None and job.rest is not None:
            self._sending = True
            try:
                count = self._socket.send(job.rest, _NO_SIGNAL)
            except OSError as error:
                self._sending = False
                if error.errno in _WAIT:
                    return False
                raise Gone(str(error)) from error
            job.rest = job.rest[count:] if count < len(job.rest) else None
            self._sending = False
        return True

    def read(self) -> list[Ack]:
        """The acknowledgements that have come. Raises `Gone` at the end of the stream, on errors and on anything else
        than acknowledgements.
        """
        found: list[Ack] = []
        for _ in range(READS):
            try:
                data = self._socket.recv(65_536)
                if not data:
                    raise Gone("closed by the agent")
                found += self._decoder.feed(data)
            except OSError as error:
                if error.errno in _WAIT:
                    break
                raise Gone(str(error)) from error
            except frame.AckError as error:
                raise Gone(str(error)) from error
        return found

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

    def __repr__(self) -> str:
        return f"Stream(fileno={self.fileno}, job={self.job.what if self.job else None})"


def open_tcp(host: str, port: int, family: int) -> Stream:
    """Begin to connect to a numeric address. Raises `Gone` if that fails at once."""
    sock = _socket.socket(family, _socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        sock.connect((host, port))
    except BlockingIOError:
        pass  # on its way
    except OSError as error:
        sock.close()
        raise Gone(str(error)) from error
    return Stream(sock)
