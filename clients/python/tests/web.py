"""The gateway's side of `POST /v1/frames` for tests: real sockets and real TLS, written from the wire format alone. It
treats a connection or a request badly where it is told to, and complains about what the client does wrong.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from clients.python.tests.peer import Got, Peer

LIMIT = 4_194_304


class Asked:
    """One request as it came, and the connection to answer it on."""

    def __init__(self, web: Web, connection: socket.socket, number: int, head: bytes, sent: bytes) -> None:
        self.web = web
        self.connection = connection
        self.number = number
        """Of the connection."""
        self.head = head.decode()
        self.sent = sent
        self.headers = dict(line.split(": ", 1) for line in self.head.split("\r\n")[1:] if line)

    @property
    def units(self) -> list[bytes]:
        """The frames in the body."""
        data = zlib.decompress(self.sent, 31) if self.headers["Content-Encoding"] == "gzip" else self.sent
        units = []
        while data:
            length = int.from_bytes(data[:4], "little")
            units.append(data[4 : 4 + length])
            data = data[4 + length :]
        return units

    def say(self, data: bytes) -> None:
        self.connection.sendall(data)

    def answer(self, status: str, body: bytes = b"", **headers: str) -> None:
        more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        self.say(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body)

    def ack(self) -> bytes:
        """Take the frames; the acknowledgement."""
        return self.web.take(self)

    def good(self) -> None:
        """Answer as a gateway does."""
        self.answer("200 OK", self.ack(), Content_Type="application/json")

    def drip(self, data: bytes, pause: float = 0.02) -> None:
        for at in range(len(data)):
            self.say(data[at : at + 1])
            time.sleep(pause)

    def reset(self) -> None:
        """End with an RST."""
        reset(self.connection)

    def cut(self) -> None:
        """End the bytes below TLS, without its farewell."""
        self.connection.shutdown(socket.SHUT_RDWR)


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    socket.close(connection.detach())


Behaviour = Callable[[Asked], None]


class Web(Peer):
    """Listens on loopback. `behave` answers each request; `meet` has the connection before anything else, and may keep
    it to itself by returning None.
    """

    def __init__(self, context: ssl.SSLContext | None, key: str = "k" * 20, port: int = 0) -> None:
        self.context = context
        self.key = key
        self.asked: list[Asked] = []
        self.behave: Behaviour = Asked.good
        self.meet: Callable[[socket.socket], socket.socket | None] = lambda connection: connection
        self.handshakes = 0
        self.resumed = 0
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(64)
        self.port: int = listening.getsockname()[1]
        self.taking = threading.Lock()
        super().__init__(listening)
        self.acknowledging = False

    def _serve(self, connection: socket.socket, number: int) -> None:
        with suppress(OSError, ValueError):
            met = self.meet(connection)
            if met is None:
                return
            if self.context is not None:
                met = self.context.wrap_socket(met, server_side=True, suppress_ragged_eofs=True)
                self.connections.append(met)
                self.handshakes += 1
                self.resumed += bool(met.session_reused)
            self._talk(met, number)
            met.close()

    def _talk(self, connection: socket.socket, number: int) -> None:
        rest = b""
        while True:
            while b"\r\n\r\n" not in rest:
                data = connection.recv(65_536)
                if not data:
                    return
                rest += data
            head, _, rest = rest.partition(b"\r\n\r\n")
            asked = Asked(self, connection, number, head, b"")
            length = int(asked.headers["Content-Length"])
            parts = [rest]
            left = length - len(rest)
            while left > 0:
                data = connection.recv(65_536)
                if not data:
                    return
                parts.append(data)
                left -= len(data)
            body = b"".join(parts)
            asked.sent, rest = body[:length], body[length:]
            self._check(asked)
            self.asked.append(asked)
            self.behave(asked)

    def _check(self, asked: Asked) -> None:
        wanted = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/vnd.sendoff.frames"}
        for name, value in wanted.items():
            if asked.headers.get(name) != value:
                self.complaints.append(f"{name}: {asked.headers.get(name)}")
        if not asked.head.startswith("POST /v1/frames HTTP/1.1\r\n") or len(asked.sent) > LIMIT:
            self.complaints.append(f"a request of {len(asked.sent)} bytes: {asked.head[:100]}")

    def take(self, asked: Asked) -> bytes:
        client = ""
        with self.taking:
            for frames, unit in enumerate(asked.units, 1):
                self._take(asked.connection, asked.number, frames, unit)
                header, _, payload = unit.partition(b"\n")
                client = json.loads(header)["client"]
                if frames == 1:  # what lies before was given up by the client
                    self._upto[client] = max(self._upto.get(client, 0), json.loads(payload)["resume_from"] - 1)
            answer: dict[str, Any] = {"ack": self._upto.get(client, 0), "n": self._next_point(client)}
            answer["refused"] = [{"seq": seq, "reason": reason} for seq, reason in self.refusals.items()]
        return json.dumps(answer).encode()

    def _next_point(self, client: str) -> int:
        seen = self._points.get(client, {})
        at = min(seen, default=0)
        while at in seen:
            at += seen[at]
        return at

    @property
    def requests(self) -> int:
        return len(self.asked)

    def names(self) -> list[str]:
        """Of the events that were taken, in order, each once."""
        found: dict[str, Got] = {}
        for got in self.durable:
            found.setdefault(got.header["id"], got)
        return [got.body["name"] for got in found.values()]
