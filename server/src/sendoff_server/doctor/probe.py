"""The probes, sent as any client sends: frames of the wire format over the agent's own sockets.

Written from `protocol/wire-format.md`, not with the client's code: server and clients share no code, and what the
doctor shows is that the page holds.
"""

import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

SERVICE = "sendoff-doctor"
NAME = "sendoff.doctor"
COUNTER = b"sendoff.doctor:1|c"
ACK_S, LEAST_ACK_S = 10.0, 2.0
"""What an agent that is busy gets for its answer; and at least, however short the wait for everything is to be."""
LONGEST_ANSWER = 1_048_576


class NotTaken(Exception):
    """The agent did not take a probe; the text says why."""


def new_client() -> str:
    """A client's id: each socket is its own client."""
    return os.urandom(16).hex()


def new_event_id(now_ms: int) -> str:
    """A UUIDv7."""
    rest = os.urandom(10).hex()
    stamp = f"{now_ms & (2**48 - 1):012x}"
    return f"{stamp[:8]}-{stamp[8:]}-7{rest[:3]}-{'89ab'[int(rest[3], 16) & 3]}{rest[4:7]}-{rest[7:19]}"


def frame(client: str, kind: str, payload: bytes, **header: Any) -> bytes:
    """One frame (section 2)."""
    return json.dumps({"v": 1, "client": client, "kind": kind, **header}).encode() + b"\n" + payload


def bye(last_seq: int, last_n: int) -> bytes:
    """The payload of a last frame: nobody wonders how this client ended."""
    return json.dumps({"last_seq": last_seq, "last_n": last_n, "dropped": {}}).encode()


class Connection:
    """A client on a stream: it says hello, sends, waits for acknowledgements, and says bye."""

    def __init__(self, address: str, patience_s: float) -> None:
        """Connect and say hello. Raises `NotTaken`."""
        self.client = new_client()
        self._ack_s = min(max(patience_s, LEAST_ACK_S), ACK_S)
        self._buffer = b""
        self._points = self._seq = 0
        self._open(address)
        hello = {"service": SERVICE, "host": socket.gethostname(), "pid": os.getpid(), "lib": "sendoff-doctor"}
        self._send(frame(self.client, "hello", json.dumps({**hello, "resume_from": 1}).encode()))
        self._acknowledged(0)

    def event(self, event_id: str, now_ms: int) -> float:
        """Send the probe event; ms until the agent said that it is on the disk. Raises `NotTaken`."""
        self._seq += 1
        payload = json.dumps({"name": NAME, "fields": {"from": "sendoff doctor"}}).encode()
        began = time.monotonic()
        self._send(
            frame(self.client, "event", payload, seq=self._seq, id=event_id, t=now_ms, confirm=True, n=self._points)
        )
        self._acknowledged(self._seq)
        return (time.monotonic() - began) * 1000

    def count(self) -> None:
        """Send the probe counter. Raises `NotTaken`."""
        self._send(frame(self.client, "metrics", COUNTER, n=self._points))
        self._points += 1

    def close(self) -> None:
        """Say bye."""
        try:
            self._send(frame(self.client, "bye", bye(self._seq, self._points)))
        except NotTaken:
            pass
        finally:
            self._let_go()

    def _open(self, address: str) -> None:
        try:
            self._sock = connect(address, socket.SOCK_STREAM)
            self._sock.settimeout(self._ack_s)
        except OSError as error:
            raise NotTaken(f"{address}: {error.strerror or error}") from error

    def _let_go(self) -> None:
        self._sock.close()

    def _send(self, data: bytes) -> None:
        try:
            self._sock.sendall(len(data).to_bytes(4, "little") + data)
        except OSError as error:
            raise NotTaken(f"the agent broke the connection off: {error.strerror or error}") from error

    def _acknowledged(self, upto: int) -> None:
        end = time.monotonic() + self._ack_s
        while True:
            answer = self._answer(end)
            for refused in answer.get("refused") or []:
                raise NotTaken(f"the agent refused it: {refused['reason']}")
            if answer.get("ack", -1) >= upto:
                return

    def _answer(self, end: float) -> dict[str, Any]:
        try:
            while len(self._buffer) < 4 or len(self._buffer) < 4 + self._length():
                self._sock.settimeout(max(end - time.monotonic(), 0.001))
                got = self._sock.recv(65_536)
                if not got:
                    raise NotTaken("the agent closed the connection")
                self._buffer += got
        except TimeoutError:
            raise NotTaken(f"the agent did not acknowledge it within {self._ack_s:.0f} s") from None
        except OSError as error:
            raise NotTaken(f"the agent broke the connection off: {error.strerror or error}") from error
        data, self._buffer = self._buffer[4 : 4 + self._length()], self._buffer[4 + self._length() :]
        return answer_of(data)

    def _length(self) -> int:
        length = int.from_bytes(self._buffer[:4], "little")
        if not 1 <= length <= LONGEST_ANSWER:
            raise NotTaken("what answers there is no agent")
        return length


def answer_of(data: bytes) -> dict[str, Any]:
    """What an agent said. Raises `NotTaken` where that is none."""
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise NotTaken("what answers there is no agent")
    return found


def datagram(address: str) -> str:
    """Send the probe counter as one datagram; the client it was sent by. Raises `NotTaken`."""
    client = new_client()
    try:
        with connect(address, socket.SOCK_DGRAM) as sock:
            sock.settimeout(1.0)
            sock.send(frame(client, "metrics", COUNTER, n=0, service=SERVICE))
            with suppress(OSError):  # the counter is there, which is what was asked
                sock.send(frame(client, "bye", bye(0, 1)))
    except OSError as error:
        raise NotTaken(f"{address}: {error.strerror or error}") from error
    return client


def connect(address: str, kind: socket.SocketKind) -> socket.socket:
    """A socket connected to a path or to host:port. Raises OSError."""
    if address.startswith("/"):
        sock = socket.socket(socket.AF_UNIX, kind)
        where: Any = str(Path(address))
    else:
        host, _, port = address.rpartition(":")
        family, _, _, _, where = socket.getaddrinfo(host.strip("[]"), int(port), type=kind)[0]
        sock = socket.socket(family, kind)
    try:
        sock.settimeout(ACK_S)
        sock.connect(where)
    except BaseException:
        sock.close()
        raise
    return sock
