"""Real servers, as applications are deployed: forked workers, threads, greenlets, an event loop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clients.python.tests.peer import Peer, until

WSGI = """
import sendoff
from sendoff.integrations.wsgi import SendoffMiddleware
sendoff.init(service="shop")
sendoff.increment("booted")
requests = sendoff.counter("requests")

def answer(environ, start_response):
    requests.increment()
    sendoff.set_user(path=environ["PATH_INFO"])
    if environ["PATH_INFO"] == "/fail":
        raise ValueError("no such article")
    sendoff.event("served", path=environ["PATH_INFO"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"fine"

app = SendoffMiddleware(answer)
"""

ASGI = """
import sendoff
from sendoff.integrations.asgi import SendoffMiddleware
sendoff.init(service="shop")

async def answer(scope, receive, send):
    if scope["type"] != "http":
        return
    sendoff.increment("requests")
    if scope["path"] == "/fail":
        raise ValueError("no such article")
    sendoff.event("served", path=scope["path"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"fine"})

app = SendoffMiddleware(answer)
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def serving(command: list[str], folder: Path, address: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    env = {**os.environ, "SENDOFF_ADDRESS": address, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    with subprocess.Popen(
        [sys.executable, "-m", *command], cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            until(lambda: answers(port), "the server listens", 20)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)


def answers(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def get(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.mark.parametrize("worker", ["sync", "gthread", "gevent"])
def test_forked_workers_lose_nothing_from_boot_to_shutdown(
    peer: Peer, address: str, tmp_path: Path, worker: str
) -> None:
    pytest.importorskip("gunicorn")
    (tmp_path / "shop_wsgi.py").write_text(WSGI)
    port = free_port()
    command = ["gunicorn", "shop_wsgi:app", "--preload", "-w", "2", "-k", worker, "-b", f"127.0.0.1:{port}"]
    command += ["--graceful-timeout", "2"]  # a gevent worker that was given no request may not notice the signal
    with serving(command, tmp_path, address, port):
        statuses = [get(port, f"/{number}") for number in range(40)]
        assert get(port, "/fail") == 500
    assert statuses == [200] * 40
    until(lambda: len(peer.durable) == 41, "40 events and one exception")
    counted = [line for line in peer.lines() if line.startswith("requests:")]
    until(lambda: peer.points == 1 + 41, f"one boot and 41 requests; {counted}")
    assert {got.body["fields"]["path"] for got in peer.of("event")} == {f"/{number}" for number in range(40)}
    assert all(got.body["user"] == {"path": got.body["fields"]["path"]} for got in peer.of("event"))
    [failed] = peer.of("exception")
    assert failed.body["request"]["url"] == f"http://127.0.0.1:{port}/fail"
    clients = {got.client for got in peer.durable}
    assert len(clients) <= 2, "each worker is one client"
    until(lambda: clients <= {got.client for got in peer.of("bye")}, "the goodbyes of the workers")


def test_an_event_loop_serves_and_reports(peer: Peer, address: str, tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    (tmp_path / "shop_asgi.py").write_text(ASGI)
    port = free_port()
    with serving(["uvicorn", "shop_asgi:app", "--port", str(port), "--log-level", "error"], tmp_path, address, port):
        assert [get(port, f"/{number}") for number in range(20)] == [200] * 20
        assert get(port, "/fail") == 500
    until(lambda: len(peer.durable) == 21 and peer.points == 21, "20 events, one exception, 21 points")
    [failed] = peer.of("exception")
    assert failed.body["name"] == "ValueError"
    assert failed.body["request"]["method"] == "GET"
