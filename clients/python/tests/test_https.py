"""Sending to a gateway over HTTPS, with a gateway's side that behaves."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import sendoff
from clients.python.tests.peer import until
from clients.python.tests.web import Asked, Web
from sendoff import frame
from sendoff.sending import https
from sendoff.sending.connection import Connection
from sendoff.sending.contract import Job, Torn
from sendoff.sending.http_body import FRAMES
from sendoff.settings import Settings
from server.tests.delivery import certificates


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("certificates")
    certificates.make_ca(made)
    certificates.make_server(made, "good", host="DNS:localhost,IP:127.0.0.1")
    return made


@pytest.fixture
def web(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
    made = Web(certificates.context(folder / "good.pem", folder / "good.key"))
    yield made
    sendoff.close(0.5)
    made.close()
    assert made.complaints == []


def start(web: Web, **settings: object) -> None:
    sendoff.init(f"https://{web.key}@localhost:{web.port}", service="shop", **settings)  # type: ignore[arg-type]


def stats(key: str) -> object:
    return sendoff.stats()[key]


def test_events_and_points_are_sent_and_acknowledged(web: Web) -> None:
    start(web)
    for number in range(20):
        assert sendoff.event(f"e{number}")
    sendoff.increment("orders", 3)
    assert sendoff.flush(5)
    assert web.names() == [f"e{number}" for number in range(20)]
    assert web.lines() == ["orders:3|c"]
    assert sendoff.stats()["acked"] == 20


def test_one_connection_carries_one_request_after_the_other(web: Web) -> None:
    start(web)
    for _ in range(5):
        sendoff.event("e")
        assert sendoff.flush(5)
    assert web.requests == 5
    assert web.handshakes == 1


def test_what_comes_while_a_request_is_on_its_way_goes_out_together_in_the_next(web: Web) -> None:
    answered = threading.Event()

    def first_waits(asked: Asked) -> None:
        if asked is web.asked[0]:
            answered.wait(10)
        asked.good()

    web.behave = first_waits
    start(web)
    sendoff.event("first")
    until(lambda: web.requests, "a request")
    for number in range(50):
        sendoff.event(f"e{number}")
    answered.set()
    assert sendoff.flush(5)
    assert web.requests == 2
    assert len(web.asked[1].units) == 51


def test_a_large_request_is_gzip_and_a_tiny_one_is_not(web: Web) -> None:
    start(web)
    sendoff.event("tiny")
    assert sendoff.flush(5)
    sendoff.event("large", filling="x" * 10_000)
    assert sendoff.flush(5)
    assert [asked.headers["Content-Encoding"] for asked in web.asked] == ["identity", "gzip"]
    assert len(web.asked[1].sent) < 1_000


def test_a_full_buffer_goes_out_in_requests_within_the_limits(web: Web) -> None:
    released = threading.Event()

    def hold(asked: Asked) -> None:
        released.wait(10)
        asked.good()

    web.behave = hold
    start(web, buffer=2**24)
    for number in range(1_500):
        assert sendoff.event("e", number=number, noise=os.urandom(2_500).hex())
    released.set()
    assert sendoff.flush(20)
    assert len(web.durable) == 1_500
    assert all(len(asked.units) <= FRAMES + 1 for asked in web.asked)  # and `Web` complains about too many bytes


def test_a_kept_connection_that_the_peer_has_closed_is_no_failure(web: Web) -> None:
    start(web)
    sendoff.event("before")
    assert sendoff.flush(5)
    web.connections[-1].shutdown(2)
    sendoff.event("after")
    assert sendoff.flush(5)
    assert web.names() == ["before", "after"]
    assert stats("resent") == 0


def test_a_connection_closed_upon_the_second_request_is_replaced_at_once(web: Web) -> None:
    def close_on_second(asked: Asked) -> None:
        if web.requests == 2:
            asked.reset()
        else:
            asked.good()

    web.behave = close_on_second
    start(web)
    sendoff.event("before")
    assert sendoff.flush(5)
    sendoff.event("after")
    assert sendoff.flush(5)
    assert web.names() == ["before", "after"]
    assert web.handshakes == 2
    assert stats("resent") == 0, "the same body again, and no failure"


def test_a_second_handshake_takes_up_the_session_of_the_first(web: Web) -> None:
    web.behave = lambda asked: asked.answer("200 OK", asked.ack(), Connection="close")
    start(web)
    for _ in range(3):
        sendoff.event("e")
        assert sendoff.flush(5)
    assert (web.handshakes, web.resumed) == (3, 2)


def test_an_answer_in_chunks_after_an_interim_one_is_understood(web: Web) -> None:
    def chunks(asked: Asked) -> None:
        asked.say(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nX: y\r\n\r\n")
        asked.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        asked.drip(b"".join(b"%x;a=b\r\n%c\r\n" % (1, byte) for byte in asked.ack()) + b"0\r\nX: y\r\n\r\n", 0)

    web.behave = chunks
    start(web)
    for _ in range(2):
        sendoff.event("e")
        assert sendoff.flush(5)
    assert web.handshakes == 1


def test_the_descriptors_of_the_parent_are_closed_in_a_child_without_a_word(web: Web) -> None:
    start(web)
    sendoff.event("parent")
    assert sendoff.flush(5)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        sockets = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _leads_to(web, fd)]
        os.write(writer, str(len(sockets)).encode())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(reader, 100) == b"0"
    sendoff.event("parent again")
    assert sendoff.flush(5)
    assert web.handshakes == 1


def _leads_to(web: Web, fd: str) -> bool:
    try:
        found = socket.socket(fileno=os.dup(int(fd)))
        with found:
            return found.family == socket.AF_INET and found.getpeername()[1] == web.port
    except OSError:
        return False


def test_a_child_sends_as_a_client_of_its_own(web: Web) -> None:
    start(web)
    sendoff.event("parent")
    assert sendoff.flush(5)
    child = os.fork()
    if not child:
        sendoff.event("child")
        os._exit(0 if sendoff.flush(5) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert web.names() == ["parent", "child"]
    assert len({got.client for got in web.durable}) == 2


SCRIPT = """
import sendoff
sendoff.init()
sendoff.event("last")
sendoff.increment("points")
"""


def script(web: Web, text: str, **environ: str) -> subprocess.CompletedProcess[str]:
    address = f"https://{web.key}@localhost:{web.port}"
    return subprocess.run(
        [sys.executable, "-c", text],
        env={**os.environ, "SENDOFF_ADDRESS": address, **environ},
        capture_output=True,
        text=True,
        timeout=30,
    )


WHILE_LOADING = """
import os, sys, sendoff
sendoff.init()
sendoff.event("parent")
while os.environ["MODULE"] not in sys.modules:
    pass
child = os.fork()
sendoff.event("child" if child == 0 else "again")
if not sendoff.flush(5):
    print(sendoff.stats())
import ssl
ssl.create_default_context()
"x".encode("idna")
if child == 0:
    sendoff.close()
    sys.stdout.flush()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.parametrize("module", ["ssl", "encodings.idna"])
def test_a_child_that_is_forked_while_a_module_is_loaded_can_load_it(web: Web, module: str) -> None:
    done = script(web, WHILE_LOADING, MODULE=module)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(web.names()) == ["again", "child", "parent"]


def test_a_script_that_ends_at_once_sends_what_it_has(web: Web) -> None:
    done = script(web, SCRIPT)
    assert (done.returncode, done.stderr) == (0, "")
    assert web.names() == ["last"]
    assert web.points == 1


def test_the_end_of_a_process_waits_for_a_silent_gateway_as_long_as_linger_says(web: Web) -> None:
    released = threading.Event()

    def silent(asked: Asked) -> None:
        released.wait(10)

    web.behave = silent
    began = time.monotonic()
    done = script(web, SCRIPT, SENDOFF_LINGER="0.5")
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - began < 4
    released.set()


def test_neither_ssl_nor_zlib_is_imported_before_there_is_something_to_send(web: Web) -> None:
    done = script(web, "import sys, sendoff\nsendoff.init()\nprint('ssl' in sys.modules, 'zlib' in sys.modules)")
    assert done.stdout == "False False\n"


def test_nothing_is_read_or_written_through_what_gevent_patches(web: Web) -> None:
    text = "from gevent import monkey; monkey.patch_all()\n" + SCRIPT
    done = script(web, text)
    assert (done.returncode, done.stderr) == (0, "")
    assert web.names() == ["last"]


def test_gevent_may_patch_after_the_client_has_begun(web: Web) -> None:
    text = "import ssl, sendoff\nsendoff.init()\nfrom gevent import monkey; monkey.patch_all()\n" + SCRIPT
    done = script(web, text, PYTHONWARNINGS="ignore")
    assert done.returncode == 0
    assert web.names() == ["last"]


def test_an_exception_from_a_signal_handler_in_the_middle_of_tls_tears_the_connection(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    opener = https.HttpsOpener(Settings({"address": f"https://{web.key}@localhost:{web.port}"}, {}).address)
    opener.prepare()
    request = opener.open("127.0.0.1", socket.AF_INET)
    request.job = Job(frame.hello("a" * 32, {}, 1, 1, {}))
    assert request.go_on()
    real: Callable[..., int] = Connection._write

    def interrupted(*arguments: object) -> int:
        real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(Connection, "_write", interrupted)
    request.ship()
    with pytest.raises(KeyboardInterrupt):
        until(request.read, "an answer")
    with pytest.raises(Torn):
        request.read()
    request.close()
    assert request.watch() == ()
