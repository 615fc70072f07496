"""A gateway's side that hangs, lies, breaks off or is somebody else: no call is held up, nothing is lost, and `trouble`
says what is wrong. Then it is well, and everything arrives once.
"""

from __future__ import annotations

import _socket
import gzip
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import sendoff
from clients.python.tests.peer import until
from clients.python.tests.web import Asked, Web, reset
from sendoff import current, frame
from sendoff.client import Client
from sendoff.sending import channel, connection, https, verdict
from sendoff.sending.contract import Job
from sendoff.settings import Settings
from server.tests.delivery import certificates

LIMIT = 0.4
"""Seconds of each deadline here."""
HELD_UP = 0.25
"""Seconds after which a call counts as held up."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("certificates")
    certificates.make_ca(made)
    certificates.make_server(made, "good", host="DNS:localhost,IP:127.0.0.1")
    certificates.make_server(made, "expired", host="DNS:localhost", days="-days -1")
    certificates.make_server(made, "other", host="DNS:other.example")
    certificates.make_self_signed(made)
    return made


@pytest.fixture
def web(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
    for module, name in ((connection, "CONNECT"), (connection, "PROGRESS"), (https, "ANSWER")):
        monkeypatch.setattr(module, name, LIMIT)
    for module, name in ((https, "SET_UP_WRONG"), (verdict, "SET_UP_WRONG"), (channel, "SPREAD")):
        monkeypatch.setattr(module, name, 0.05)
    monkeypatch.setattr(channel, "BACKOFF", 0.005)
    made = Web(certificates.context(folder / "good.pem", folder / "good.key"))
    yield made
    sendoff.close(0)
    made.close()
    assert made.complaints == []


def start(web: Web) -> None:
    sendoff.init(f"https://{web.key}@localhost:{web.port}", service="shop", linger=0)


def trouble() -> str:
    return str(sendoff.stats()["trouble"])


def says(*words: str) -> None:
    """Wait for one of the words."""
    try:
        until(lambda: any(each in trouble() for each in words), " or ".join(words))
    except AssertionError as error:
        raise AssertionError(f"{error}; it says {trouble()!r}") from None


def see(web: Web, words: str) -> None:
    """While it is ill: calls are not held up, the reason is said, and the key is not."""
    start(web)
    slowest = 0.0
    for number in range(30):
        began = time.perf_counter()
        assert sendoff.event(f"e{number}", filling="x" * 3_000)
        sendoff.increment("orders")
        slowest = max(slowest, time.perf_counter() - began)
        time.sleep(0.003)
    says(words)
    assert slowest < HELD_UP
    assert web.key not in repr(current.client) + str(sendoff.stats())


def heal(web: Web) -> None:
    """It is well again: everything arrives, each once, in order."""
    web.behave = Asked.good
    web.meet = lambda connection: connection
    assert sendoff.flush(10), trouble()
    assert web.names() == [f"e{number}" for number in range(30)]
    assert sum(int(line.removeprefix("orders:").removesuffix("|c")) for line in web.lines()) == 30
    assert sendoff.stats()["dropped"] == {}


def say(data: bytes, end: Callable[[Asked], None] | None = None) -> Callable[[Asked], None]:
    def behave(asked: Asked) -> None:
        asked.say(data)
        if end is not None:
            end(asked)
        time.sleep(2 * LIMIT)

    return behave


def endless(piece: bytes, head: bytes = b"") -> Callable[[Asked], None]:
    def behave(asked: Asked) -> None:
        asked.say(head)
        for _ in range(100_000):
            asked.say(piece)

    return behave


OK = b"HTTP/1.1 200 OK\r\n"
ANSWERS = {
    "no answer": (say(b""), "did not answer within"),
    "half a head": (say(OK + b"Content-"), "did not answer within"),
    "half a body": (say(OK + b'Content-Length: 100\r\n\r\n{"ack":'), "did not answer within"),
    "an answer in drops": (lambda asked: asked.drip(OK * 100), "did not answer within"),
    "the end before the answer": (say(b"", Asked.cut), "cut the connection off"),
    "a reset before the answer": (lambda asked: asked.reset(), "broke"),
    "a reset in the middle": (say(OK + b'Content-Length: 100\r\n\r\n{"ack":', Asked.reset), "broke"),
    "TLS cut off in the middle": (say(OK + b'Content-Length: 100\r\n\r\n{"ack":', Asked.cut), "cut the connection"),
    "TLS cut off where the body has no length": (say(OK + b'\r\n{"ack": 30, "n": 30}', Asked.cut), "cut the connect"),
    "garbage": (say(b"\x00\xff" * 500), "the answer is not HTTP"),
    "another protocol": (say(b"220 mail.example ESMTP\r\n"), "the answer is not HTTP"),
    "endless headers": (endless(b"X: y\r\n" * 1000, OK), "the head of the answer is too long"),
    "one endless header": (endless(b"x" * 1000, OK + b"X: "), "the head of the answer is too long"),
    "endless interim answers": (endless(b"HTTP/1.1 100 Continue\r\n\r\n" * 100), "the head of the answer is too long"),
    "an endless body": (endless(b"x" * 10_000, OK + b"\r\n"), "the answer is too long"),
    "an endless body in chunks": (
        endless(b"2710\r\n" + b"x" * 10_000 + b"\r\n", OK + b"Transfer-Encoding: chunked\r\n\r\n"),
        "the answer is too long",
    ),
    "a length beyond the limit": (say(OK + b"Content-Length: 99999999\r\n\r\n"), "the answer is too long"),
    "two lengths": (say(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}"), "length cannot be known"),
    "an upgrade": (say(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), "the status 101"),
    "a bomb": (
        say(OK + b"Content-Encoding: gzip\r\nContent-Length: 1000\r\n\r\n" + gzip.compress(b"0" * 999_999)[:1000]),
        "compressed, although none was asked for",
    ),
    "a page": (
        lambda asked: asked.answer("200 OK", b"<html>Sign in", Content_Type="text/html; charset=utf-8"),
        "is no gateway: it answered with a page for people",
    ),
    "other JSON": (lambda asked: asked.answer("200 OK", b'{"status": "ok"}'), "is no gateway"),
    "deep JSON": (lambda asked: asked.answer("200 OK", b"[" * 100_000), "is no gateway"),
    "an acknowledgement of nothing": (lambda asked: asked.answer("200 OK", b'{"ack": 0, "n": 0}'), ""),
    "not found": (lambda asked: asked.answer("404 Not Found"), "there is no gateway at"),
    "an unknown key": (lambda asked: asked.answer("401 Unauthorized"), "does not know the key (401)"),
    "a revoked key": (lambda asked: asked.answer("403 Forbidden"), "does not accept the key any more"),
    "a failure": (lambda asked: asked.answer("500 Internal Server Error"), "cannot take the request now (500)"),
    "overload": (lambda asked: asked.answer("429 Too Many Requests", Retry_After="soon"), "asks to be sent less (429)"),
    "an empty 204": (lambda asked: asked.say(b"HTTP/1.1 204 No Content\r\n\r\n"), "does not answer as a gateway does"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_is_none_is_named_holds_nobody_up_and_loses_nothing(web: Web, name: str) -> None:
    web.behave, words = ANSWERS[name]
    see(web, words)
    heal(web)


def _keep(meeting: socket.socket) -> None:
    time.sleep(2 * LIMIT)


def _hang_up(meeting: socket.socket) -> None:
    meeting.shutdown(socket.SHUT_RDWR)


def _say(data: bytes) -> Callable[[socket.socket], None]:
    def meet(meeting: socket.socket) -> None:
        meeting.recv(10_000)
        meeting.sendall(data)
        meeting.shutdown(socket.SHUT_RDWR)

    return meet


MEETINGS = {
    "silence": (_keep, "does not finish the handshake in time"),
    "an end at once": (_hang_up, "handshake"),
    "a reset at once": (reset, "reset by peer"),
    "no TLS": (_say(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "does not speak TLS as it should"),
    "half a handshake": (_say(b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03"), "in the middle of the handshake"),
    "an alert": (_say(b"\x15\x03\x03\x00\x02\x02\x28"), "does not speak TLS as it should"),
}


@pytest.mark.parametrize("name", MEETINGS)
def test_a_connection_that_comes_to_nothing_is_named_holds_nobody_up_and_loses_nothing(web: Web, name: str) -> None:
    met, words = MEETINGS[name]

    def meet(meeting: socket.socket) -> socket.socket | None:
        met(meeting)
        return None

    web.meet = meet
    see(web, words)
    heal(web)


CERTIFICATES = {
    "expired": "certificate has expired",
    "other": "not valid for 'localhost'",
    "self": "set SSL_CERT_FILE to the certificate of the authority",
}


@pytest.mark.parametrize("name", CERTIFICATES)
def test_a_certificate_that_is_not_good_is_named_and_nothing_is_sent(web: Web, folder: Path, name: str) -> None:
    good, web.context = web.context, certificates.context(folder / f"{name}.pem", folder / f"{name}.key")
    see(web, CERTIFICATES[name])
    assert web.requests == 0
    web.context = good
    heal(web)


def test_an_authority_that_comes_to_be_trusted_later_is_seen(
    web: Web, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "other.pem"))
    see(web, "the certificate of localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
    heal(web)


def test_a_peer_that_does_not_read_is_given_up(web: Web, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def meet(meeting: socket.socket) -> socket.socket | None:
        context = web.context
        assert context is not None
        kept = context.wrap_socket(meeting, server_side=True)
        released.wait(10)
        kept.close()
        return None

    web.listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    web.meet = meet
    start(web)
    for _ in range(30):
        assert sendoff.event("e", noise=os.urandom(100_000).hex())
    says("does not take the request", "timed out")
    released.set()
    web.meet = lambda connection: connection
    assert sendoff.flush(10)
    assert len(web.durable) == 30


def test_a_host_that_takes_no_connection_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT", LIMIT)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for each in fillers:
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        sendoff.init(f"http://key@127.0.0.1:{full.getsockname()[1]}", linger=0)
        sendoff.event("e")
        says("does not take the connection in time")
        for each in fillers:
            each.close()
    sendoff.close(0)


def test_nobody_there_is_named() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sendoff.init(f"http://key@127.0.0.1:{port}", linger=0)
    sendoff.event("e")
    says(f"nothing listens at 127.0.0.1:{port}")
    sendoff.close(0)


def test_a_redirect_is_not_followed_and_the_key_goes_nowhere_else(web: Web) -> None:
    elsewhere = Web(None)
    web.behave = lambda asked: asked.answer("302 Found", Location=f"http://localhost:{elsewhere.port}/v1/frames")
    see(web, "redirects (302), which is never followed")
    assert not elsewhere.connections
    heal(web)
    elsewhere.close()


def test_a_key_that_the_peer_sends_back_is_not_shown(web: Web) -> None:
    problem = json.dumps({"detail": f"the key {web.key} is wrong"}).encode()
    web.behave = lambda asked: asked.answer("401 Unauthorized", problem, Content_Type="application/problem+json")
    see(web, "does not know the key (401)")
    assert "the key … is wrong" in trouble()
    heal(web)


def test_an_answer_that_comes_before_the_request_is_out_is_heard(web: Web) -> None:
    def meet(meeting: socket.socket) -> socket.socket | None:
        context = web.context
        assert context is not None
        kept = context.wrap_socket(meeting, server_side=True)
        kept.recv(100)
        kept.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        says("403")
        kept.close()
        return None

    web.meet = meet
    start(web)
    for _ in range(30):
        assert sendoff.event("e", noise=os.urandom(100_000).hex())
    says("does not accept the key")
    web.meet = lambda connection: connection
    assert sendoff.flush(10)


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [("2", 2, 4.1), ("99999999", 300, 330), ("Fri, 31 Dec 1999 23:59:59 GMT", 0, 1), ("-5", 0, 1), ("1e9", 0, 1)],
)
def test_a_retry_after_is_kept_within_reason(
    web: Web, monkeypatch: pytest.MonkeyPatch, value: str, least: float, most: float
) -> None:
    monkeypatch.setattr(channel, "SPREAD", 30.0)
    web.behave = lambda asked: asked.answer("503 Service Unavailable", Retry_After=value)
    start(web)
    sendoff.event("e")
    client = current.client
    assert isinstance(client, Client)
    says("503")
    assert least - 1 <= client.outbox.channel.retry_at - time.monotonic() <= most


def test_an_answer_in_records_of_single_bytes_does_not_pile_up(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = threading.Event()
    receive, piled_up = connection.Connection._receive, [0]

    def recorded(self: connection.Connection) -> bytes | None:
        piled_up.append(self._incoming.pending if self.stage == "open" else 0)
        return receive(self)

    def behave(asked: Asked) -> None:
        asked.say(OK + b"Content-Length: 10000\r\n\r\n")
        for _ in range(9_999):
            asked.say(b" ")
        sent.set()
        time.sleep(LIMIT)

    web.behave = behave
    monkeypatch.setattr(connection.Connection, "_receive", recorded)
    opener = https.HttpsOpener(Settings({"address": f"https://{web.key}@localhost:{web.port}"}, {}).address)
    opener.prepare()
    request = opener.open("127.0.0.1", socket.AF_INET)
    request.job = Job(frame.hello("a" * 32, {}, 1, 1, {}))
    assert request.go_on()
    request.ship()
    until(lambda: request.read() == [] and web.asked, "the request is out")
    assert sent.wait(10)
    until(lambda: request.read() == [] and len(request._answer.body) == 9_999, "all that was sent")
    assert max(piled_up) < 100, "part of a record"
    request.close()


def test_what_makes_a_connection_better_may_be_missing(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_socket, "TCP_NOTSENT_LOWAT", 9_999)
    monkeypatch.delattr(_socket, "TCP_USER_TIMEOUT")
    start(web)
    assert sendoff.event("e0")
    assert sendoff.flush(5), trouble()


def test_tls_that_could_not_be_loaded_is_loaded_later(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce() -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(https, "_context", scarce)
        start(web)
        assert sendoff.event("e0")
        says("TLS cannot be used: OSError: [Errno 24]")
    assert sendoff.flush(5), trouble()
    assert web.names() == ["e0"]


def test_what_is_refused_in_a_large_request_is_found_and_dropped_alone(web: Web) -> None:
    def picky(asked: Asked) -> None:
        if any(b'"poison"' in unit for unit in asked.units):
            asked.answer("400 Bad Request", b'{"detail": "no"}', Content_Type="application/problem+json")
        else:
            asked.good()

    web.behave = picky
    released = threading.Event()
    web.meet = lambda connection: connection if released.wait(10) else None
    start(web)
    for number in range(40):
        sendoff.event("poison" if number == 17 else f"e{number}")
    released.set()
    until(lambda: sendoff.stats()["held"] == 0, "everything settled", 20)
    assert web.names() == [f"e{number}" for number in range(40) if number != 17]
    assert sendoff.stats()["dropped"] == {"event.unacceptable": 1}


def test_a_400_that_is_no_gateways_costs_no_message(web: Web) -> None:
    """As a server says that wants to be spoken to by TLS, or a load balancer."""
    web.behave = lambda asked: asked.answer("400 Bad Request", b"<html>", Content_Type="text/html")
    start(web)
    for number in range(4):
        assert sendoff.event(f"e{number}")
    until(lambda: web.requests > 9, "as many tries as a message has that is refused alone")
    assert "not in a gateway's words" in trouble()
    web.behave = Asked.good
    assert sendoff.flush(10), trouble()
    assert web.names() == ["e0", "e1", "e2", "e3"]
    assert sendoff.stats()["dropped"] == {}


def test_a_proxy_that_takes_little_at_once_gets_little_at_once(web: Web) -> None:
    def narrow(asked: Asked) -> None:
        if len(asked.sent) > 20_000:
            asked.answer("413 Content Too Large")
        else:
            asked.good()

    web.behave = narrow
    start(web)
    for number in range(60):
        sendoff.event("e", noise=[number * at % 99_991 for at in range(300)])
    assert sendoff.flush(20), trouble()
    assert len(web.durable) == 60
    assert sendoff.stats()["dropped"] == {}
