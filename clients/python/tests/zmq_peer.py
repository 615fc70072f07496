"""The receiving side of ZeroMQ for tests: a real ROUTER, written from the wire format alone.

As a process of its own (`python -m clients.python.tests.zmq_peer ADDRESS FILE [SECRET PUBLIC …]`) it writes each event
to FILE before it acknowledges, and knows its clients from there after a restart, so it may be killed at any moment.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from base64 import urlsafe_b64encode
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import zmq
from zmq.utils import z85

from clients.python.tests.peer import Got


class Key:
    """A pair of CURVE keys, raw and as addresses have them."""

    def __init__(self) -> None:
        public, secret = zmq.curve_keypair()
        self.public, self.secret = z85.decode(public), z85.decode(secret)
        self.public_text, self.secret_text = (
            urlsafe_b64encode(key).decode().rstrip("=") for key in (self.public, self.secret)
        )


class RouterPeer:
    """A ROUTER in a thread; acknowledges what it reads unless told otherwise. With `server` it speaks CURVE, and knows
    the public keys in `allowed` only.
    """

    def __init__(
        self,
        address: str,
        server: Key | None = None,
        allowed: tuple[bytes, ...] = (),
        upto: dict[str, int] | None = None,
    ) -> None:
        self.got: list[Got] = []
        self.complaints: list[str] = []
        self.acknowledging = True
        self.reading = True
        self.points_too = True
        """Whether points are acknowledged, as a gateway does."""
        self.answer_with: Callable[[Got], list[bytes]] | None = None
        self.allowed = set(allowed)
        self.refused_attempts = 0
        self.upto: dict[str, int] = upto or {}
        self.n: dict[str, int] = {}
        self._names: dict[bytes, str] = {}
        self.context: zmq.Context[Any] = zmq.Context()
        self._zap = self.context.socket(zmq.REP) if server is not None else None
        if self._zap is not None:
            self._zap.bind("inproc://zeromq.zap.01")
        self._router: Any = self.context.socket(zmq.ROUTER)
        self._router.set(zmq.LINGER, 0)
        if server is not None:
            self._router.set(zmq.CURVE_SERVER, 1)
            self._router.set(zmq.CURVE_SECRETKEY, server.secret)
        self._router.bind(address)
        endpoint = self._router.get(zmq.LAST_ENDPOINT)
        assert isinstance(endpoint, bytes)
        self.endpoint = endpoint.rstrip(b"\0").decode()
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closed:
            if self._zap is not None and self._zap.poll(0):
                self._authenticate(self._zap)
            if not self.reading or not self._router.poll(5):
                threading.Event().wait(0.002 if not self.reading else 0)
                continue
            identity, *parts = self._router.recv_multipart()
            if parts and parts[0].startswith(b"{"):
                self._take(identity, parts[0])
            else:
                self.complaints.append(f"a message {parts!r:.100}")

    def _authenticate(self, zap: zmq.Socket[bytes]) -> None:
        parts = zap.recv_multipart()
        known = parts[6] in self.allowed
        self.refused_attempts += not known
        zap.send_multipart([b"1.0", parts[1], b"200" if known else b"400", b"", b"", b""])

    def _take(self, identity: bytes, message: bytes) -> None:
        raw_header, separator, payload = message.partition(b"\n")
        header = json.loads(raw_header)
        known = identity in self._names
        self._names[identity] = header["client"]
        got = Got(list(self._names).index(identity) + 1, header, payload)
        if not separator or header["v"] != 1 or len(raw_header) > 4096:
            self.complaints.append(f"header {raw_header!r}")
        if known == (got.kind == "hello"):
            self.complaints.append(f"a {got.kind} {'after the first frame' if known else 'as the first frame'}")
        if got.kind == "hello":
            self.upto.setdefault(got.client, got.body["resume_from"] - 1)
        repeat = self._is_repeat(got)
        if not repeat:
            self.keep(got)
        if self.answer_with is not None:
            self._say(identity, self.answer_with(got))
        elif self.acknowledging and got.kind != "bye":
            self._say(identity, [self.ack(got.client)])

    def _is_repeat(self, got: Got) -> bool:
        if got.kind in ("event", "exception"):
            seq, upto = got.header["seq"], self.upto[got.client]
            if seq > upto + 1:
                self.complaints.append(f"seq {seq} after {upto}")
            self.upto[got.client] = max(upto, seq)
            return bool(seq <= upto)
        if got.kind == "metrics":
            n, expected = got.header["n"], self.n.setdefault(got.client, got.header["n"])
            if n > expected:
                self.complaints.append(f"n is {n} instead of {expected}")
            self.n[got.client] = max(expected, n + got.points)
            return bool(n < expected)
        return False

    def keep(self, got: Got) -> None:
        """What is new."""
        self.got.append(got)

    def ack(self, client: str) -> bytes:
        """What is said to `client` now."""
        more = {"n": self.n.get(client, 0)} if self.points_too else {}
        return json.dumps({"ack": self.upto.get(client, 0), **more}).encode()

    def _say(self, identity: bytes, parts: list[bytes]) -> None:
        with suppress(zmq.ZMQError):
            self._router.send_multipart([identity, *parts], zmq.DONTWAIT)

    def of(self, *kinds: str) -> list[Got]:
        return [got for got in list(self.got) if got.kind in kinds]

    @property
    def durable(self) -> list[Got]:
        return self.of("event", "exception")

    @property
    def names(self) -> list[str]:
        return [got.body["name"] for got in self.durable]

    @property
    def points(self) -> int:
        return sum(got.points for got in self.of("metrics"))

    @property
    def connections(self) -> int:
        return len(self._names)

    def close(self) -> None:
        self._closed = True
        self._thread.join(5)
        self.context.destroy(0)


class RecordingPeer(RouterPeer):
    """Writes events to a file before it acknowledges them, and reads there at its start what it had."""

    def __init__(self, file: Path, address: str) -> None:
        file.touch()
        upto: dict[str, int] = {}
        for line in file.read_text().splitlines():
            client, seq, *_ = json.loads(line)
            upto[client] = max(upto.get(client, 0), seq)
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND)
        super().__init__(address, upto=upto)

    def keep(self, got: Got) -> None:
        super().keep(got)
        if got.kind == "event":
            os.write(self._file, json.dumps([got.client, got.header["seq"], got.body["fields"]]).encode() + b"\n")


if __name__ == "__main__":
    RecordingPeer(Path(sys.argv[2]), sys.argv[1])
    print("ready", flush=True)
    threading.Event().wait()
