"""The fake destination, a process of its own: takes what the agent delivers, and misbehaves as a file tells it to.

`python -m tests.oracle.destination PORT GATEWAY_PORT CONTROL STORE`. Under `/sink` it is an http output's destination
and appends what it took to STORE, one write a request; a body with a poisoned event it refuses, always. Anything else
it hands on to the real gateway and hands its answer back, so that the way to the gateway can be as bad as any other: an
answer lost after the batch was stored is what makes duplicates. CONTROL is JSON, `{"sink": FAULT, "gateway": FAULT}`,
read anew for each request.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
import sys
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.oracle.book import digest

BEFORE = ("500", "429", "503", "413", "hang", "reset", "early")
"""Faults by which nothing is taken."""
AFTER = ("lie", "lost", "garbage", "drip")
"""Faults in the answer to what was taken: 500, none at all, nonsense, a byte now and then."""
FAULTS = {
    "sink": (*BEFORE, *AFTER),
    # A gateway that said 413 to what is fine would be obeyed, and rightly: the event would be a dead letter.
    "gateway": tuple(fault for fault in (*BEFORE, *AFTER) if fault != "413"),
}
HANG_S = 30.0


class Destination(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int, gateway_port: int, control: Path, store: Path) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.gateway_port = gateway_port
        self.control = control
        self.store = os.open(store, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke is what happens here all the time."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Destination

    def do_GET(self) -> None:
        self._answer(200, b"ready")

    def do_POST(self) -> None:
        kind = "sink" if self.path == "/sink" else "gateway"
        fault = json.loads(self.server.control.read_text()).get(kind)
        if fault == "early":
            return self._cut()
        if fault == "reset":
            self.rfile.read(min(100, self._length() // 2))
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return self._cut()
        body = self._body()
        if fault == "hang":
            time.sleep(HANG_S)
            return self._cut()
        if fault in ("500", "503", "413"):
            dated = {"Retry-After": formatdate(time.time() + 2, usegmt=True)} if fault == "503" else {}
            return self._answer(int(fault), b"no", dated)
        if fault == "429":
            return self._answer(429, b"slowly", {"Retry-After": "2"})
        if kind == "sink" and b'"poison":true' in body:
            return self._answer(422, b"there is an event in it that is refused")
        try:
            status, answer = (200, self._keep(body)) if kind == "sink" else self._hand_on(body)
        except (OSError, http.client.HTTPException):
            return self._cut()  # the gateway is not there: no answer, as if it were asked itself
        return self._untrue(fault, status, answer)

    def _untrue(self, fault: str | None, status: int, answer: bytes) -> None:
        if fault == "lost":
            self._cut()
        elif fault == "lie":
            self._answer(500, b"it was taken all the same")
        elif fault == "garbage":
            self._answer(200, b'{"results": [{"batch": 17}, "\xff')
        elif fault == "drip":
            self._drip(status, answer)
        else:
            self._answer(status, answer)

    def _length(self) -> int:
        return int(self.headers.get("Content-Length") or 0)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(self._length())
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _keep(self, body: bytes) -> bytes:
        """Store what came, as far as the verdict needs it."""
        header, *lines = (json.loads(line) for line in body.splitlines() if line)
        kept: dict[str, Any] = {"batch": header["batch"], "type": header["type"]}
        if header["type"] == "events":
            kept["events"] = [
                (line["fields"].get("ref"), line["id"], content_of(line), line["service"], 1 + line.get("repeats", 0))
                for line in lines
            ]
        else:
            kept["covers"] = [header["agent"], *header["covers"]]
            kept["series"] = [
                [line["name"], json.dumps(line["tags"], sort_keys=True), line["w"], line.get("sum"), line["n"]]
                for line in lines
            ]
        os.write(self.server.store, (json.dumps(kept) + "\n").encode())
        return b"thanks"

    def _hand_on(self, body: bytes) -> tuple[int, bytes]:
        link = http.client.HTTPConnection("127.0.0.1", self.server.gateway_port, timeout=HANG_S)
        wanted = ("authorization", "content-type", "content-encoding")
        headers = {name: value for name, value in self.headers.items() if name.lower() in wanted}
        try:
            link.request("POST", self.path, body, headers)
            answer = link.getresponse()
            return answer.status, answer.read()
        finally:
            link.close()

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _drip(self, status: int, body: bytes) -> None:
        """A byte now and then: longer than anyone would wait."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for at in range(min(len(body), round(HANG_S * 2))):
            self.wfile.write(body[at : at + 1])
            time.sleep(0.5)
        self._cut()

    def _cut(self) -> None:
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


def content_of(line: dict[str, Any]) -> str:
    """The digest of an event line, in the terms of the producer's book."""
    return digest(line["name"], line["fields"])


def main() -> int:
    port, gateway_port, control, store = sys.argv[1:]
    Destination(int(port), int(gateway_port), Path(control), Path(store)).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
