"""What sending over HTTPS is made of, each part by itself: answers, bodies, limits, what a status means, proxies."""

from __future__ import annotations

import socket
import threading
import zlib
from base64 import b64encode
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sendoff
from clients.python.tests.peer import until
from clients.python.tests.web import Asked, Web
from sendoff.sending import connection, http_answer, http_body
from sendoff.sending.http_answer import Answer, AnswerError
from sendoff.sending.http_body import Body, Limits
from sendoff.sending.proxy import Proxy, proxy_for
from sendoff.sending.verdict import retry_after
from sendoff.settings import Settings
from server.tests.delivery import certificates

GOOD = {
    "a length": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Y:  z \r\n\r\n{}",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\n{\r\n0001\r\n}\r\n0\r\nX: y\r\n\r\n",
    "interim answers": b"HTTP/1.1 100 Go\r\nA: b\r\n\r\nHTTP/1.1 103\r\n\r\nHTTP/1.1 200\r\ncontent-length:2\r\n\r\n{}",
    "a closing peer": b"HTTP/1.1 200 OK\r\nConnection: X, Close\r\nContent-Length: 2\r\n\r\n{}",
    "an old peer": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "chunks and close": b"HTTP/1.1 200\r\nConnection: close\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "equal lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "no length": b"HTTP/1.1 200 OK\r\n\r\n{}",
}
KEPT = {"a length", "chunks", "interim answers", "equal lengths"}


def read(data: bytes, sizes: list[int]) -> Answer:
    answer = Answer()
    at = 0
    while at < len(data):
        size = sizes.pop() if sizes else len(data)
        answer.feed(data[at : at + size])
        at += size
    if not answer.done:
        answer.end()
    return answer


@pytest.mark.parametrize("name", GOOD)
@given(sizes=st.lists(st.integers(1, 9), max_size=200))
def test_an_answer_is_the_same_in_any_pieces(name: str, sizes: list[int]) -> None:
    answer = read(GOOD[name], sizes)
    assert (answer.status, bytes(answer.body), answer.done) == (200, b"{}", True)
    assert answer.keep is (name in KEPT)


@pytest.mark.parametrize("name", GOOD)
def test_an_answer_that_is_cut_off_anywhere_is_not_taken_for_whole(name: str) -> None:
    for size in range(len(GOOD[name])):
        if name == "no length" and size >= len(GOOD[name]) - 2:
            continue  # this one cannot be told: TLS says whether its end is an end
        with pytest.raises(AnswerError):
            read(GOOD[name][:size], [])


def test_what_follows_an_answer_keeps_the_connection_from_being_used_again() -> None:
    answer = read(GOOD["a length"] + b"HTTP/1.1", [])
    assert answer.done
    assert not answer.keep


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/2 200 OK\r\n",
        b"HTTP/1.1 2x0 OK\r\n",
        b"HTTP/1.1 2000 OK\r\n",
        b"HTTP/1.1 99 OK\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n",
        b"HTTP/1.1 200 OK\r\n folded: x\r\n",
        b"HTTP/1.1 200 OK\r\nspace : x\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\nb\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1e3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n",
    ],
)
def test_what_could_be_understood_differently_is_refused(data: bytes) -> None:
    with pytest.raises(AnswerError):
        Answer().feed(data)


@given(st.lists(st.binary(max_size=200), max_size=30))
def test_any_bytes_end_in_an_answer_or_in_an_error(pieces: list[bytes]) -> None:
    answer = Answer()
    try:
        for piece in [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *pieces]:
            answer.feed(piece)
        answer.end()
    except AnswerError:
        pass


def test_chunks_of_single_bytes_with_long_lines_come_to_an_end() -> None:
    answer = Answer()
    answer.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"1;" + b"x" * 500 + b"\r\n.\r\n"
    with pytest.raises(AnswerError, match="too small chunks"):
        answer.feed(chunk * (http_answer.CHUNKS_LIMIT // 500 + 1))


def packed(body: Body) -> bytes:
    body.seal()
    while not body.pack():
        pass
    assert body.data is not None
    return zlib.decompress(body.data, 31) if body.encoding == "gzip" else body.data


@given(st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=50))
def test_a_body_is_its_frames_with_a_length_before_each(frames: list[bytes]) -> None:
    body = Body()
    for frame in frames:
        assert body.add(frame, Limits())
        assert body.add(frame, Limits()), "the same again is not taken twice"
    expected = b"".join(len(frame).to_bytes(4, "little") + frame for frame in map(bytes, frames))
    if len({id(frame) for frame in frames}) == len(frames):
        assert packed(body) == expected


def test_a_body_takes_no_more_than_the_limits_say_but_always_a_hello_and_one() -> None:
    limits = Limits()
    limits.frames, limits.size = 1, 1
    body = Body()
    assert body.add(b"hello", limits)
    assert body.add(b"x" * 1_000_000, limits)
    assert not body.add(b"y", limits)
    whole = Body()
    assert sum(whole.add(b"%d" % number, Limits()) for number in range(5_000)) == http_body.FRAMES + 1


def test_a_large_body_is_packed_in_pieces_that_make_one_whole() -> None:
    body = Body()
    frames = [bytes([number % 256]) * 10_000 for number in range(300)]
    for frame in frames:
        assert body.add(frame, Limits())
    body.seal()
    assert not body.pack(), "not all at once"
    assert packed(body) == b"".join(len(frame).to_bytes(4, "little") + frame for frame in frames)


def test_limits_are_halved_down_to_one_and_grow_again_after_many_good_requests() -> None:
    limits = Limits()
    limits.refused(40, 10_000)
    assert (limits.frames, limits.size) == (20, 5_000)
    for _ in range(20):
        limits.refused(limits.frames, limits.size)
    assert (limits.frames, limits.size) == (1, 1)
    for _ in range(http_body.PATIENCE):
        limits.taken()
    assert limits.frames == 2
    for _ in range(http_body.PATIENCE * 30):
        limits.taken()
    assert (limits.frames, limits.size) == (http_body.FRAMES, http_body.SIZE)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("17", 17),
        ("301", 300),
        ("9" * 400, 300),
        (formatdate(1_000_100, usegmt=True), 100),
        (formatdate(1_099_999, usegmt=True), 300),
        (formatdate(999_000, usegmt=True), 0),
        ("Sun, 99 Nov 1994 08:49:37 GMT", None),
        ("soon GMT", None),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("²", None),
        ("x" * 10_000 + "GMT", None),
    ],
)
def test_a_retry_after_is_seconds_or_a_date_or_nothing(value: str, seconds: float | None) -> None:
    assert retry_after(value, 1_000_000.0) == seconds


def proxied(address: str, **environ: str) -> Proxy | None:
    return proxy_for(Settings({"address": address, "allow_plaintext": True}, {}).address, environ)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"HTTPS_PROXY": ""},
        {"HTTP_PROXY": "http://p:1"},
        {"HTTPS_PROXY": "http://p:1", "https_proxy": ""},
        {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"},
        {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "x, Gateway.Example.com"},
        {"HTTPS_PROXY": "http://p:1", "no_proxy": ".example.com"},
        {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "example.com:443"},
    ],
)
def test_no_proxy_is_used_where_none_is_meant(environ: dict[str, str]) -> None:
    assert proxied("https://key@gateway.example.com", **environ) is None


def test_this_machine_and_plain_http_are_reached_without_a_proxy() -> None:
    for address in ("https://key@localhost:1", "https://key@127.0.0.1:1", "http://key@gateway.example.com"):
        assert proxied(address, HTTPS_PROXY="http://p:1") is None


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("http://p:3128", "p:3128"),
        ("p:3128", "p:3128"),
        ("http://p/", "p:80"),
        ("http://[::1]:3128", "[::1]:3128"),
        ("HTTP://user:pw@p:1/path", "p:1"),
    ],
)
def test_a_proxy_is_read_as_it_is_usually_written(value: str, place: str) -> None:
    found = proxied("https://key@gateway.example.com", HTTPS_PROXY=value, NO_PROXY="ample.com,other:443")
    assert found is not None
    assert found.place == place
    assert "pw" not in repr(found)


@pytest.mark.parametrize("value", ["socks5://p:1", "https://u:secret@p:1", "http://p:x", "http://", "http://p:99999"])
def test_a_proxy_that_cannot_be_used_is_said_without_its_secret(value: str) -> None:
    with pytest.raises(ValueError, match="HTTPS_PROXY must be http://host:port") as raised:
        proxied("https://key@gateway.example.com", HTTPS_PROXY=value)
    assert "secret" not in str(raised.value)


class Tunnel:
    """A proxy that leads every CONNECT to one port of this machine."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.heads: list[str] = []
        self.passed = bytearray()
        self.says = b"HTTP/1.1 200 Connection established\r\n\r\n"
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{self.listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self._lead, args=(near,), daemon=True).start()

    def _lead(self, near: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += near.recv(10_000)
        self.heads.append(head.decode())
        near.sendall(self.says)
        far = socket.create_connection(("127.0.0.1", self.port))
        back = threading.Thread(target=self._copy, args=(far, near), daemon=True)
        back.start()
        self._copy(near, far)
        back.join()
        near.close()
        far.close()

    def _copy(self, there: socket.socket, here: socket.socket) -> None:
        try:
            while data := there.recv(65_536):
                self.passed += data
                here.sendall(data)
            here.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def close(self) -> None:
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    certificates.make_ca(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    made = Web(certificates.make_server(tmp_path, "good", host="DNS:gateway.invalid"))
    yield made
    sendoff.close(0.5)
    made.close()
    assert made.complaints == []


@pytest.fixture
def tunnel(web: Web) -> Iterator[Tunnel]:
    made = Tunnel(web.port)
    yield made
    made.close()


def test_what_is_sent_through_a_proxy_is_encrypted_for_the_gateway(
    web: Web, tunnel: Tunnel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://ada:p%40ss@{tunnel.place}")
    sendoff.init(f"https://{web.key}@gateway.invalid")  # a name that only the proxy knows
    sendoff.event("e")
    assert sendoff.flush(5)
    assert web.names() == ["e"]
    user = b64encode(b"ada:p@ss").decode()
    expected = (
        f"CONNECT gateway.invalid:443 HTTP/1.1\r\nHost: gateway.invalid:443\r\nProxy-Authorization: Basic {user}\r\n"
    )
    assert tunnel.heads == [expected + "\r\n"]
    assert web.key.encode() not in tunnel.passed
    assert b"POST" not in tunnel.passed
    assert "Proxy" not in web.asked[0].head


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "gateway.invalid:443 (407)"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "gateway.invalid:443 (403)"),
        (b"SSH-2.0-OpenSSH\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 40_000, "the head of the answer is too long"),
        (b"HTTP/1.1 200 OK\r\n", "does not answer in time"),
    ],
)
def test_a_proxy_that_does_not_lead_on_is_named(
    web: Web, tunnel: Tunnel, monkeypatch: pytest.MonkeyPatch, says: bytes, words: str
) -> None:
    monkeypatch.setattr(connection, "CONNECT", 0.4)
    monkeypatch.setenv("HTTPS_PROXY", f"http://{tunnel.place}")
    good, tunnel.says = tunnel.says, says
    sendoff.init(f"https://{web.key}@gateway.invalid", linger=0)
    sendoff.event("e")
    until(lambda: words in str(sendoff.stats()["trouble"]), words)
    assert f"the proxy {tunnel.place}" in str(sendoff.stats()["trouble"])
    assert web.requests == 0
    web.behave = Asked.good
    tunnel.says = good
    assert sendoff.flush(10)
