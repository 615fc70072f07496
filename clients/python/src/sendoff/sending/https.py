"""Sending to a gateway over HTTPS: each request is one connection in the sense of the wire format, and its 200 the
acknowledgement (protocol/wire-format.md, section 1, HTTP). Nothing but the standard library.

A request is filled with frames, compressed, written, and answered; `Request` never waits for any of that. The
connection that carried it is kept for the next. When a peer has closed a kept one, which it may at any time, the same
body goes out once more on a new one: what it had taken already it recognises.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from sendoff import frame
from sendoff.sending import loading
from sendoff.sending.connection import READS, BadCertificate, Broken, Connection, Place
from sendoff.sending.contract import Answered, Gone, Torn
from sendoff.sending.http_answer import Answer, AnswerError
from sendoff.sending.http_body import Body, Limits
from sendoff.sending.proxy import Proxy, proxy_for
from sendoff.sending.verdict import SET_UP_WRONG, TOO_MUCH, is_refusal, judge, no_gateway
from sendoff.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from sendoff.frame import Ack
    from sendoff.sending.contract import Job
    from sendoff.settings import Address

ANSWER = 60.0
"""Seconds from when the request is out to when the whole answer must be there."""
IDLE = 50.0
"""Seconds that a connection is kept unused: servers and what lies between drop them after a minute or more."""
OLDEST = 600.0
"""Seconds after which a connection gives way to a new one, so that a gateway that has moved is found."""
SESSION = 3_600.0
"""Seconds for which a session of TLS spares the next connection the look at the certificate."""


class HttpsOpener:
    """Makes the requests to one gateway, and keeps its connection from one to the next."""

    def __init__(self, address: Address, environ: Mapping[str, str] = os.environ) -> None:
        self.address = address
        self.key = address.secret
        self.limits = Limits()
        self._unusable = ""
        """Why there can be no request at all."""
        self._no_tls = ""
        """Why TLS could not be loaded; that is tried again after the next request has failed by it."""
        self._distrusted = False
        self._proxy: Proxy | None = None
        host = address.host
        try:
            self._proxy = proxy_for(address, environ)
            host = host if host.isascii() else host.encode("idna").decode()
        except ValueError as error:
            self._unusable = str(error)
        where = f"{f'[{host}]' if ':' in host else host}:{address.port}"
        peer = f"the proxy {self._proxy.place}" if self._proxy else where
        self.place = Place(host, where, peer, self._proxy.request(where) if self._proxy else b"")
        name = where.removesuffix(":443" if address.scheme == "https" else ":80")
        self._head = (
            f"POST {address.prefix}/v1/frames HTTP/1.1\r\nHost: {name}\r\nAuthorization: Bearer {self.key}\r\n"
            "Content-Type: application/vnd.sendoff.frames\r\nAccept-Encoding: identity\r\n"
            f"User-Agent: sendoff-python/{__version__}\r\n"
        ).encode()
        self._kept: Connection | None = None
        self._session_until = 0.0

    @property
    def reaches(self) -> tuple[str, int]:
        """Host and port that TCP connects to, whose name the route looks up: the gateway's, or a proxy's."""
        return (self._proxy.host, self._proxy.port) if self._proxy else (self.address.host, self.address.port)

    @property
    def ready(self) -> bool:
        """Whether TLS is loaded, or cannot be."""
        return bool(self.address.scheme == "http" or self.place.context or self._unusable or self._no_tls)

    def prepare(self) -> None:
        """Load `ssl` and the authorities of the system, which takes tens of milliseconds. Not under the lock."""
        place = self.place
        if self.address.scheme != "https" or self._unusable or self._no_tls:
            return
        if place.context is not None and not self._distrusted:
            return
        try:
            place.context, place.session = _context(), None
            self._distrusted = False
        except (ImportError, OSError, ValueError) as error:
            self._no_tls = f"TLS cannot be used: {type(error).__name__}: {error}"

    def open(self, host: str, family: int) -> Request:
        """Begin a request, on the connection that is kept or on a new one to `host`. Raises `Gone`."""
        if self._unusable:
            raise Gone(self._unusable, wait=SET_UP_WRONG)
        if self._no_tls:
            why, self._no_tls = self._no_tls, ""
            raise Gone(why, wait=SET_UP_WRONG)
        now = time.monotonic()
        kept, self._kept = self._kept, None
        if kept is not None and not (now - kept.idle < IDLE and now - kept.since < OLDEST and kept.is_quiet):
            kept.farewell()
            kept = None
        return Request(self, host, family, kept or self.connect(host, family, now))

    def request(self, body: Body) -> bytes:
        """Head and body as they are sent."""
        data = body.data or b""
        head = f"Content-Encoding: {body.encoding}\r\nContent-Length: {len(data)}\r\n\r\n"
        return b"".join((self._head, head.encode(), data))

    def connect(self, host: str, family: int, now: float) -> Connection:
        """Begin a new connection. Raises `Gone`."""
        if now >= self._session_until:
            self.place.session = None
        return Connection(self.place, family, (host, self.reaches[1]), now)

    def keep(self, connection: Connection) -> None:
        """Take back the connection of a request that was answered."""
        connection.idle = time.monotonic()
        self._kept = connection

    def remember(self, connection: Connection) -> None:
        """It was answered on: its session of TLS is good for the next one."""
        session = connection.session if connection.requests == 0 else None
        if session is not None:
            self.place.session, self._session_until = session, time.monotonic() + SESSION

    def distrust(self) -> None:
        """The peer's certificate was not good: read the authorities anew before the next try."""
        self._distrusted = True

    def close(self, left: float) -> None:
        """The end."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.farewell()

    def forget(self) -> None:
        """In the child after a fork."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

    def __repr__(self) -> str:
        return f"HttpsOpener({self.address}, {self.limits}, kept={self._kept})"


class Request:
    """One request: `Stream` of `contract.py`."""

    __slots__ = (
        "_answer",
        "_answer_by",
        "_body",
        "_connection",
        "_end",
        "_family",
        "_host",
        "_inside",
        "_opener",
        "_rest",
        "_whole",
        "job",
        "untouched",
    )

    def __init__(self, opener: HttpsOpener, host: str, family: int, connection: Connection) -> None:
        self._opener = opener
        self._host = host
        self._family = family
        self._connection = connection
        self._body = Body()
        self._whole = b""
        """Head and body, once that is packed."""
        self._rest = memoryview(b"")
        """What of that is not written."""
        self._answer = Answer()
        self._answer_by: float | None = None
        self._end: Gone | None = None
        self._inside = False
        """Whether somebody is at it, or was interrupted there."""
        self.job: Job | None = None
        self.untouched = True
        """See `contract.Stream`."""

    def go_on(self) -> bool:
        """Take the job's frame into the request. False once that is full, or on its way."""
        if self._end is not None:
            raise self._end
        return self.job is None or self._body.add(self.job.frame, self._opener.limits)

    def ship(self) -> None:
        """Close the request, and begin to write it."""
        if self._end is not None:
            raise self._end
        if not self._body.sealed and self._body.frames:
            self._body.seal()
            self._drive(listen=False)

    def read(self) -> list[Ack]:
        """Go on with everything. The acknowledgement, once, when the answer is there."""
        if self._end is not None:
            raise self._end
        self._drive(listen=True)
        if not self._answer.done:
            return []
        ack = self._take_answer()
        self._end = Answered("")
        return [ack]

    def watch(self) -> tuple[tuple[int, bool], ...]:
        """The socket."""
        connection = self._connection
        return ((connection.fileno, connection.wants_write),) if connection.fileno >= 0 else ()

    @property
    def due_at(self) -> float | None:
        """The next deadline, or at once if the request is over."""
        if self._end is not None or self._answer.done or (self._body.sealed and not self._whole):
            return 0.0
        return self._answer_by if self._answer_by is not None else self._connection.due_at

    def end_writing(self) -> None:
        """Nothing follows, so what there is goes out."""
        self.ship()

    def close(self) -> None:
        """Leave the connection to the next request if this one is over, else close it."""
        answer = self._answer
        if answer.done and answer.keep and not self._rest and isinstance(self._end, Answered):
            self._connection.requests += 1
            self._opener.keep(self._connection)
        else:
            self._connection.close()

    def forget(self) -> None:
        """In the child after a fork."""
        self._connection.close()

    # From here on: the request on its way.

    def _drive(self, *, listen: bool) -> None:
        """Go on with the request. Not `listen`: it has only just begun, and no answer can be there. An exception other
        than `Gone` (from a signal handler) leaves it unknown what was packed, written and read.
        """
        if self._inside:
            raise Torn("torn by an exception from a signal handler")
        self._inside = True
        try:
            self._carry(time.monotonic(), listen=listen)
        except Gone:
            self._inside = False
            raise
        self._inside = False

    def _carry(self, now: float, *, listen: bool) -> None:
        if not self._body.sealed:
            self._connection.advance(now)
            return
        if not self._whole:
            if not self._body.pack():
                return
            self._whole = self._opener.request(self._body)
            self._rest = memoryview(self._whole)
        try:
            self._exchange(now, listen=listen)
        except BadCertificate:
            self._opener.distrust()
            raise
        except Broken:
            if self._answer.done:
                return  # it has said all it wanted to
            if self._connection.requests == 0 or self._answer.begun:
                raise
            self._connection.close()
            self._connection = self._opener.connect(self._host, self._family, now)
            self._answer, self._answer_by = Answer(), None
            self._rest = memoryview(self._whole)
            self._exchange(now, listen=False)

    def _exchange(self, now: float, *, listen: bool) -> None:
        connection = self._connection
        try:
            if not connection.advance(now):
                return
            self.untouched = False
            while self._rest and (count := connection.write(self._rest, now)):
                self._rest = self._rest[count:]
        except Broken:
            if connection.stage == "open":
                with suppress(Broken):
                    self._read_answer()  # it may have said why
            raise
        if listen:
            self._read_answer()
        if self._answer.done:
            return
        if self._answer_by is None and not self._rest and not connection.wants_write:
            self._answer_by = now + ANSWER
        if self._answer_by is not None and now >= self._answer_by:
            raise Gone(f"{self._opener.place.where} did not answer within {ANSWER:g} s")

    def _read_answer(self) -> None:
        try:
            for _ in range(READS):
                if self._answer.done:
                    return
                data = self._connection.read()
                if data is None:
                    if not self._answer.begun:
                        raise Broken(f"{self._opener.place.where} closed the connection without an answer")
                    self._answer.end()
                elif not data:
                    return
                else:
                    self._answer.feed(data)
        except AnswerError as error:
            raise Gone(f"{self._opener.place.where}: {error}", wait=SET_UP_WRONG) from None

    def _take_answer(self) -> Ack:
        """What the answer means. Raises `Gone` if it is no acknowledgement."""
        answer, opener = self._answer, self._opener
        opener.remember(self._connection)
        if answer.status == 200:
            try:
                ack = frame.answer(bytes(answer.body))
            except frame.AckError:
                raise no_gateway(answer, opener.place.where) from None
            opener.limits.taken()
            return ack
        gone = judge(answer, opener.place.where, opener.key, time.time())
        if answer.status in TOO_MUCH:
            alone = self._body.frames == 2
            gone.blames = alone and is_refusal(answer)
            gone.wait = SET_UP_WRONG if alone and not gone.blames else None
            opener.limits.refused(self._body.frames - 1, self._body.size)
        raise gone

    def __repr__(self) -> str:
        return f"Request({self._connection}, {self._body}, {self._answer})"


def _context() -> ssl.SSLContext:
    """What is trusted is what the system trusts, or what SSL_CERT_FILE and SSL_CERT_DIR name."""
    loading.names()
    loading.module("ssl")
    import ssl

    context = loading.alone(ssl.create_default_context)
    if context.minimum_version < ssl.TLSVersion.TLSv1_2:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
