"""Metrics by UDP to the agent: a connected socket, so that the kernel says when nobody is there."""

from __future__ import annotations

import _socket
import errno

from sendoff.sending import loading

NETWORK = 1_432
"""Bytes of a datagram that pass any usual network whole."""
LOOPBACK = 8_192

TAKEN, LATER, REFUSED, FAILED = "taken", "later", "refused", "failed"
_LATER = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR, errno.ENOBUFS)


class Datagrams:
    """One UDP socket to a numeric address. Raises `OSError` if it cannot be made."""

    __slots__ = ("_loopback", "_socket", "client", "limit", "n")

    def __init__(self, host: str, port: int, family: int, client: str) -> None:
        self.client = client
        self.n = 0
        self._loopback = host.startswith("127.") or host == "::1"
        self.limit = LOOPBACK if self._loopback else NETWORK
        self._socket = _socket.socket(family, _socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.connect((host, port))
        except OSError:
            self._socket.close()
            raise

    def send(self, datagram: bytes) -> str:
        """`taken` by the kernel, `later` (it has no room now), `refused` (nobody listens) or `failed`.

        A refusal is reported to the next call on the socket. On loopback it is there at once and belongs to this
        datagram; from a network it belongs to an earlier one, so the send is tried once more.
        """
        for _ in range(2):
            try:
                self._socket.send(datagram)
            except ConnectionRefusedError:
                continue
            except OSError as error:
                return LATER if error.errno in _LATER else FAILED
            if self._loopback and self._socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR) == errno.ECONNREFUSED:
                return REFUSED
            return TAKEN
        return REFUSED

    def close(self) -> None:
        """Close the descriptor."""
        try:
            self._socket.close()
        except OSError:
            return  # closed all the same

    def __repr__(self) -> str:
        return f"Datagrams(client={self.client}, n={self.n}, limit={self.limit})"


def numeric(host: str) -> tuple[str, int] | None:
    """(address, family) of a host that needs no look-up, or None."""
    if host == "localhost":
        host = "127.0.0.1"
    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, host)
        except OSError:
            continue
        return host, family
    return None


def look_up(host: str, port: int) -> list[tuple[str, int]]:
    """(address, family) of each address that a host's name has, at least one. Blocks. Raises `OSError`, also for what
    is no name.
    """
    loading.names()
    try:
        found = _socket.getaddrinfo(host, port, 0, _socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError(str(error)) from error
    return list(dict.fromkeys((str(address[0]), family) for family, _, _, _, address in found))
