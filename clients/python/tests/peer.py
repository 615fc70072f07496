"""The agent's side of the protocol for tests: a real socket, written from the wire format alone. What it sees wrong,
it complains about.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class Got:
    """One frame as it came."""

    def __init__(self, connection: int, header: dict[str, Any], payload: bytes) -> None:
        self.connection = connection
        self.header = header
        self.payload = payload
        self.kind: str = header["kind"]
        self.client: str = header["client"]

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.payload)
        return body

    @property
    def lines(self) -> list[str]:
        return self.payload.decode().split("\n") if self.payload else []

    @property
    def points(self) -> int:
        return sum(points_of(line) for line in self.lines)

    def __repr__(self) -> str:
        return f"Got({self.connection}, {self.header}, {self.payload[:80]!r})"


def points_of(line: str) -> int:
    """Points on a line that a Sendoff client wrote."""
    name_and_values, kind = line.split("|")[:2]
    return 1 if kind == "s" else name_and_values.count(":")


class Peer:
    """Listens on a Unix socket or on TCP; acknowledges what it reads unless told otherwise."""

    def __init__(self, listening: socket.socket) -> None:
        self.listening = listening
        self.got: list[Got] = []
        self.repeats: list[Got] = []
        self.raw = bytearray()
        self.complaints: list[str] = []
        self.acknowledging = True
        self.reading = True
        self.hang_up_after: int | None = None
        self.refusals: dict[int, str] = {}
        self.says_points = False
        self.again: float | None = None
        self.connections: list[socket.socket] = []
        self._upto: dict[str, int] = {}
        self._points: dict[str, dict[int, int]] = {}
        self._closed = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            self.connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection, len(self.connections)), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        rest = b""
        frames = 0
        try:
            while True:
                while not self.reading and not self._closed:
                    time.sleep(0.005)
                data = connection.recv(65_536)
                if not data:
                    break
                self.raw += data
                rest += data
                while len(rest) >= 4 and len(rest) >= 4 + int.from_bytes(rest[:4], "little"):
                    length = int.from_bytes(rest[:4], "little")
                    unit, rest = rest[4 : 4 + length], rest[4 + length :]
                    frames += 1
                    self._take(connection, number, frames, unit)
                    if self.hang_up_after is not None and frames >= self.hang_up_after:
                        connection.shutdown(socket.SHUT_RDWR)
                        return
        except OSError:
            return
        if rest:
            self.complaints.append(f"connection {number} ended inside a unit")

    def _take(self, connection: socket.socket, number: int, frames: int, unit: bytes) -> None:
        raw_header, separator, payload = unit.partition(b"\n")
        header = json.loads(raw_header)
        got = Got(number, header, payload)
        if not separator or header["v"] != 1 or len(raw_header) > 4096:
            self.complaints.append(f"header {raw_header!r}")
        if (frames == 1) != (got.kind == "hello"):
            self.complaints.append(f"frame {frames} of connection {number} is a {got.kind}")
        if got.kind in ("event", "exception"):
            self._durable(got)
        elif got.kind == "hello":
            self._upto.setdefault(got.client, got.body["resume_from"] - 1)
        elif got.kind == "metrics":
            seen = self._points.setdefault(got.client, {})
            if got.points and header["n"] in seen:
                self.repeats.append(got)  # it was written whole, but the connection left the client in doubt
                if self.acknowledging and self.says_points:
                    self.acknowledge(connection, got.client)
                return
            if got.points:
                seen[header["n"]] = got.points
        self.got.append(got)
        if self.acknowledging and (got.kind in ("hello", "event", "exception") or self.says_points):
            self.acknowledge(connection, got.client)

    def _durable(self, got: Got) -> None:
        seq, upto = got.header["seq"], self._upto[got.client]
        if seq > upto + 1:
            self.complaints.append(f"seq {seq} after {upto}")
        self._upto[got.client] = max(upto, seq)
        if len(got.payload) > 262_144:
            self.complaints.append("a payload that is too long")

    def acknowledge(self, connection: socket.socket, client: str) -> None:
        upto = self._upto.get(client, 0)
        refused = [{"seq": seq, "reason": reason} for seq, reason in self.refusals.items() if seq <= upto]
        body: dict[str, Any] = {"ack": upto, "refused": refused}
        if self.says_points:
            seen = self._points.get(client, {})
            body["n"] = max((n + points for n, points in list(seen.items())), default=0)
        answer = json.dumps(body if self.again is None else {"again": self.again}).encode()
        with suppress(OSError):  # who is gone cannot hear it, but what they wrote must still be read
            connection.sendall(len(answer).to_bytes(4, "little") + answer)

    def of(self, *kinds: str) -> list[Got]:
        return [got for got in list(self.got) if got.kind in kinds]

    @property
    def durable(self) -> list[Got]:
        return self.of("event", "exception")

    @property
    def points(self) -> int:
        return sum(got.points for got in self.of("metrics"))

    def lines(self) -> list[str]:
        return [line for got in self.of("metrics") for line in got.lines]

    def hang_up(self) -> None:
        """End every connection, as an agent does that stops."""
        for connection in self.connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def close(self) -> None:
        self._closed = True
        self.reading = True
        with suppress(OSError):
            self.listening.shutdown(socket.SHUT_RDWR)
        self.hang_up()
        for thread in self._threads:
            thread.join(5)
        for each in (self.listening, *self.connections):
            each.close()
        self._check_points()

    def _check_points(self) -> None:
        """Frames of two connections may be read out of order, so only now: do they leave a gap, or overlap?"""
        for seen in self._points.values():
            expected = min(seen, default=0)
            for n in sorted(seen):
                if n != expected:
                    self.complaints.append(f"n is {n} instead of {expected}")
                expected = n + seen[n]


def listen(path: Path) -> Peer:
    listening = socket.socket(socket.AF_UNIX)
    path.unlink(missing_ok=True)
    listening.bind(str(path))
    listening.listen(64)
    return Peer(listening)


def listen_tcp(port: int = 0) -> Peer:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    listening.listen(64)
    return Peer(listening)


@contextmanager
def listening(path: Path) -> Iterator[Peer]:
    peer = listen(path)
    try:
        yield peer
    finally:
        peer.close()


def until(condition: Callable[[], object], what: str, seconds: float = 10.0) -> None:
    """Wait for a condition; `AssertionError` naming `what` if it does not come about in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.002)
