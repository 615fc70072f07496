"""A gateway's `POST /v1/frames` for tests: a small server of HTTP, written from the wire format alone."""

from __future__ import annotations

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from clients.python.tests.peer import Got


class HttpPeer:
    """Stores what it reads and acknowledges it, unless told otherwise."""

    def __init__(self) -> None:
        self.got: list[Got] = []
        self.complaints: list[str] = []
        self.requests = 0
        self.answering = threading.Event()
        self.answering.set()
        self.status = 200
        self.retry_after: str | None = None
        self._lock = threading.Lock()
        self._upto: dict[str, int] = {}
        self._n: dict[str, int] = {}
        peer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding", "identity") == "gzip":
                    body = gzip.decompress(body)
                status, answer = peer.take(body)
                peer.answering.wait(30)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                if peer.retry_after is not None:
                    self.send_header("Retry-After", peer.retry_after)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"http://KEY@127.0.0.1:{self.server.server_port}"

    def take(self, body: bytes) -> tuple[int, bytes]:
        """One request; what to answer."""
        with self._lock:
            self.requests += 1
            if self.status != 200:
                return self.status, b"{}"
            client = ""
            while body:
                length = int.from_bytes(body[:4], "little")
                header, _, payload = body[4 : 4 + length].partition(b"\n")
                body = body[4 + length :]
                got = Got(self.requests, json.loads(header), payload)
                if (got.kind == "hello") == bool(client) or client not in ("", got.client):
                    self.complaints.append(f"a {got.kind} of {got.client} after the hello of {client or 'nobody'}")
                client = got.client
                self._keep(got)
            return 200, json.dumps({"ack": self._upto.get(client, 0), "n": self._n.get(client, 0)}).encode()

    def _keep(self, got: Got) -> None:
        client = got.client
        if got.kind == "hello":
            self._upto.setdefault(client, got.body["resume_from"] - 1)
        elif got.kind in ("event", "exception"):
            seq = got.header["seq"]
            if seq > self._upto[client] + 1:
                self.complaints.append(f"seq {seq} after {self._upto[client]}")
            if seq <= self._upto[client]:
                return
            self._upto[client] = seq
        elif got.kind == "metrics":
            n, expected = got.header["n"], self._n.get(client, 0)
            if n > expected:
                self.complaints.append(f"n is {n} instead of {expected}")
            if got.points and n < expected:
                return
            self._n[client] = max(expected, n + got.points)
        self.got.append(got)

    def of(self, *kinds: str) -> list[Got]:
        return [got for got in list(self.got) if got.kind in kinds]

    @property
    def durable(self) -> list[Got]:
        return self.of("event", "exception")

    @property
    def points(self) -> int:
        return sum(got.points for got in self.of("metrics"))

    def close(self) -> None:
        self.answering.set()
        self.server.shutdown()
        self.server.server_close()
        self._thread.join(5)
