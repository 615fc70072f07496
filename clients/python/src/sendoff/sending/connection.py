"""One connection to a gateway: TCP, a tunnel through a proxy if there is one, TLS if the address says so. Never waits.

TLS runs between two buffers (`ssl.MemoryBIO`), so what is read and written is a bare socket, which nobody patches.
An exception that a signal handler raises in the middle of a call leaves it unknown how far things went: who calls must
see to it that such a connection is not used any more.
"""

from __future__ import annotations

import _socket
import errno
import os
from contextlib import suppress

from sendoff.sending.contract import Gone
from sendoff.sending.http_answer import Answer, AnswerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl

CONNECT = 10.0
"""Seconds for a connection to be made, and as many for the tunnel and the handshake."""
PROGRESS = 30.0
"""Seconds in which the peer must take PORTION bytes, or what is left."""
PORTION = 65_536
PIECE = 262_144
"""Bytes that are encrypted at once: few calls, as each has to get the interpreter's lock back."""
UNSENT = 131_072
"""Bytes that the kernel takes beyond what it has sent."""
READ = 65_536
READS = 16
"""Reads in one go, so that a talkative peer cannot keep who holds the client's lock."""

_NO_SIGNAL = getattr(_socket, "MSG_NOSIGNAL", 0)
_LATER = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR, errno.ENOBUFS)


class Broken(Gone):
    """The peer, or the network, has ended the connection."""


class BadCertificate(Gone):
    """The peer is not who it should be, or cannot show it."""


class Place:
    """Whom connections of one opener lead to. `host` is what the certificate must name, `where` its host and port in
    words, `peer` what TCP connects to: the same, or a proxy that is sent `tunnel`. `context` is None without TLS.
    """

    __slots__ = ("context", "host", "peer", "session", "tunnel", "where")

    def __init__(self, host: str, where: str, peer: str, tunnel: bytes) -> None:
        self.host = host
        self.where = where
        self.peer = peer
        self.tunnel = tunnel
        self.context: ssl.SSLContext | None = None
        self.session: ssl.SSLSession | None = None
        """Of an earlier connection: the next handshake is shorter."""


class Connection:
    """A socket and what is to be done before it carries requests.

    `stage` is `connect`, then perhaps `tunnel` and `handshake`, then `open`. What it is at must be done by `due_at`.
    `requests` that it has carried are counted by who uses it, as is since when it is `idle`.
    """

    __slots__ = (
        "_ending",
        "_incoming",
        "_mark",
        "_out",
        "_outgoing",
        "_place",
        "_socket",
        "_tls",
        "_tunnel",
        "due_at",
        "idle",
        "requests",
        "since",
        "stage",
    )

    def __init__(self, place: Place, family: int, address: tuple[str, int], now: float) -> None:
        """Begin to connect to a numeric address. Raises `Gone` if that fails at once."""
        self._place = place
        self._tls: ssl.SSLObject | None = None
        self._out = memoryview(b"")
        self._mark = 0
        self._tunnel = Answer(to_connect=True)
        self._ending = False
        """Whether TLS has an end or an error to tell that was not told yet."""
        self.stage = "connect"
        self.requests = 0
        self.since = self.idle = now
        self.due_at: float | None = now + CONNECT
        try:
            self._socket = _socket.socket(family, _socket.SOCK_STREAM)
        except OSError as error:
            raise self._unreached(error.errno) from None
        try:
            self._socket.setblocking(False)
            _tune(self._socket)
            self._socket.connect(address)
        except BlockingIOError:
            pass  # on its way
        except OSError as error:
            self._socket.close()
            raise self._unreached(error.errno) from None
        except BaseException:  # from a signal handler
            self._socket.close()
            raise

    @property
    def fileno(self) -> int:
        """The descriptor, -1 when closed."""
        return self._socket.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether something waits for the peer to take it."""
        return self.stage == "connect" or bool(self._out)

    def advance(self, now: float) -> bool:
        """Go on as far as can be. True once requests may be written. Raises `Gone`."""
        if self.due_at is not None and now >= self.due_at:
            raise self._late()
        if self.stage == "connect":
            self._connect(now)
        if self.stage == "tunnel":
            self._flush(now)
            self._through_tunnel(now)
        if self.stage == "handshake":
            self._handshake()
        self._flush(now)
        return self.stage == "open"

    def write(self, data: memoryview, now: float) -> int:
        """Take some of `data`: the number of bytes taken, 0 if the peer is slow. Raises `Gone`."""
        return 0 if self._out else self._write(data[:PIECE], now)

    def read(self) -> bytes | None:
        """What has come, READ bytes or a little more: nothing is `b""`, the orderly end None. Raises `Gone`. Where it
        returns something, more may have come.
        """
        return self._receive() if self._tls is None else self._decrypt(self._tls)

    @property
    def is_quiet(self) -> bool:
        """Whether it is open and nothing has come that nobody asked for, such as its end."""
        try:
            return self.stage == "open" and not self._out and self.read() == b""
        except Gone:
            return False

    @property
    def session(self) -> ssl.SSLSession | None:
        """What makes the next handshake with the same peer shorter, if the certificate was looked at in this one."""
        tls = self._tls
        fresh = tls is not None and not tls.session_reused and tls.context is self._place.context
        return tls.session if tls is not None and fresh else None

    def farewell(self) -> None:
        """End it in order, as far as that goes without waiting."""
        try:
            if self._tls is not None and self.stage == "open" and not self._out:
                self._socket.send(self._end_tls(self._tls), _NO_SIGNAL)
        except OSError:
            pass  # the peer has gone already
        self.close()

    def close(self) -> None:
        """Close the descriptor; nothing is sent."""
        try:
            self._socket.close()
        except OSError:
            return  # closed all the same

    # From here on: the stages.

    def _connect(self, now: float) -> None:
        failed = self._socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if failed:
            raise self._unreached(failed)
        try:
            self._socket.getpeername()
        except OSError:
            return  # still under way
        if self._place.tunnel:
            self.stage = "tunnel"
            self.due_at = now + CONNECT
            self._out = memoryview(self._place.tunnel)
        else:
            self._greet(now)

    def _through_tunnel(self, now: float) -> None:
        data = self._receive()
        try:
            if data is None:
                self._tunnel.end()
            else:
                self._tunnel.feed(data)
        except AnswerError as error:
            raise Gone(f"{self._place.peer} does not lead to {self._place.where}: {error}") from None
        if self._tunnel.status >= 300:
            raise Gone(f"{self._place.peer} does not lead to {self._place.where} ({self._tunnel.status})")
        if self._tunnel.done:
            self._greet(now)

    def _greet(self, now: float) -> None:
        """Begin the handshake, if there is one."""
        context = self._place.context
        if context is None:
            self.stage = "open"
            self.due_at = None
            return
        import ssl

        self.stage = "handshake"
        self.due_at = now + CONNECT
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        try:
            self._tls = context.wrap_bio(
                self._incoming, self._outgoing, server_hostname=self._place.host, session=self._place.session
            )
        except (OSError, ValueError) as error:  # a name that no certificate could have
            raise Gone(f"TLS to {self._place.where} cannot begin: {error}") from None

    def _handshake(self) -> None:
        import ssl

        assert self._tls is not None
        for _ in range(READS):
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._collect()
            except ssl.SSLCertVerificationError as error:
                self._last_words()
                raise BadCertificate(self._bad_certificate(error.verify_message)) from None
            except ssl.SSLError as error:
                self._last_words()
                raise Gone(f"{self._place.where} does not speak TLS as it should: {_reason(error)}") from None
            else:
                self._collect()
                self.stage = "open"
                self.due_at = None
                return
            data = self._receive()
            if data is None:
                raise Broken(f"{self._place.where} closed the connection in the middle of the handshake")
            if not data:
                return
            self._incoming.write(data)

    def _last_words(self) -> None:
        """Tell the peer why, if it takes that at once."""
        self._collect()
        try:
            self._socket.send(self._out, _NO_SIGNAL)
        except OSError:
            return

    def _end_tls(self, tls: ssl.SSLObject) -> bytes:
        with suppress(OSError):  # the peer's own farewell has not come, and is not waited for
            tls.unwrap()
        return self._outgoing.read()

    # From here on: bytes.

    def _write(self, piece: memoryview, now: float) -> int:
        count = len(piece)
        if self._tls is None:
            self._out = piece
        else:
            try:
                count = self._tls.write(piece)
            except OSError as error:
                raise Broken(f"{self._place.where} broke the encryption: {_reason(error)}") from None
            self._collect()
        self._mark = len(self._out)
        self.due_at = now + PROGRESS
        self._flush(now)
        return count

    def _collect(self) -> None:
        more = self._outgoing.read()
        if more:
            self._out = memoryview(bytes(self._out) + more)

    def _flush(self, now: float) -> None:
        while self._out:
            try:
                count = self._socket.send(self._out, _NO_SIGNAL)
            except OSError as error:
                if error.errno in _LATER:
                    break
                raise self._broken(error) from None
            self._out = self._out[count:]
        if self.stage == "open":
            if not self._out:
                self.due_at = None
            elif self.due_at is None or len(self._out) <= self._mark - PORTION:
                self._mark = len(self._out)
                self.due_at = now + PROGRESS

    def _receive(self) -> bytes | None:
        try:
            return self._socket.recv(READ) or None
        except OSError as error:
            if error.errno in _LATER:
                return b""
            raise self._broken(error) from None

    def _decrypt(self, tls: ssl.SSLObject) -> bytes | None:
        """What has come, decrypted: all of it, so that the socket tells whether there is more, and nothing piles up.
        TLS is not asked where nothing has come: each call of it may wait long to get the interpreter's lock back.
        """
        import ssl

        data = self._receive()
        if data is None:
            self._incoming.write_eof()
        elif data:
            self._incoming.write(data)
        elif not (self._incoming.pending or tls.pending() or self._ending):
            return b""
        found = []
        try:
            while piece := tls.read(READ):
                found.append(piece)
            self._ending = True
        except ssl.SSLWantReadError:
            self._collect()  # an answer to a change of keys
            return b"".join(found)
        except ssl.SSLError as error:
            self._ending = True
            if not found and not isinstance(error, ssl.SSLZeroReturnError):
                cut = isinstance(error, ssl.SSLEOFError)
                how = "cut the connection off" if cut else f"broke the encryption: {_reason(error)}"
                raise Broken(f"{self._place.where} {how}") from None
        return b"".join(found) or None

    # From here on: words.

    def _broken(self, error: OSError) -> Broken:
        return Broken(f"the connection to {self._place.where} broke: {error.strerror or error}")

    def _unreached(self, number: int | None) -> Gone:
        if number == errno.ECONNREFUSED:
            return Gone(f"nothing listens at {self._place.peer} (connection refused)")
        return Gone(f"no connection to {self._place.peer}: {os.strerror(number or 0)}")

    def _late(self) -> Gone:
        where = self._place.where
        if self.stage == "connect":
            return Gone(f"{self._place.peer} does not take the connection in time: does a firewall let it through?")
        if self.stage == "tunnel":
            return Gone(f"{self._place.peer} does not answer in time")
        if self.stage == "handshake":
            return Gone(f"{where} does not finish the handshake in time: does it speak TLS there?")
        return Gone(f"{where} does not take the request: less than {PORTION:,} bytes in {PROGRESS:g} s")

    def _bad_certificate(self, why: str) -> str:
        unknown = "issuer" in why or "self" in why
        remedy = "; set SSL_CERT_FILE to the certificate of the authority that signed it" if unknown else ""
        return f"the certificate of {self._place.where} is not valid: {why}{remedy}"

    def __repr__(self) -> str:
        return f"Connection({self._place.where}, {self.stage}, fileno={self.fileno})"


def _tune(sock: _socket.socket) -> None:
    """What makes a connection better, and may be missing where Linux is only imitated."""
    wishes = (
        ("TCP_NODELAY", 1),
        ("TCP_NOTSENT_LOWAT", UNSENT),  # so that a slow line is seen to make progress
        ("TCP_USER_TIMEOUT", int(PROGRESS * 1000)),  # one that has silently gone is noticed as soon as a slow one
    )
    for name, value in wishes:
        with suppress(OSError, AttributeError):
            sock.setsockopt(_socket.IPPROTO_TCP, getattr(_socket, name), value)


def _reason(error: OSError) -> str:
    return str(getattr(error, "reason", None) or type(error).__name__).lower().replace("_", " ")
