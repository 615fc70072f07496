"""One connection to a gateway's ZeroMQ port: made, asked one request at a time, and thrown away when it breaks.

What ZeroMQ would do by itself is switched off: it would connect again beneath us, and keep for the next connection
what was meant for the last one, so that nobody knew what had been sent. Here a connection is a socket, its end is an
event, and when to try again is delivery's to decide, as over HTTP.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from typing import NamedTuple

import zmq
from zmq.utils.monitor import parse_monitor_message

from sendoff_server.delivery.outcome import Trouble
from sendoff_server.outputs.pace import Pace
from sendoff_server.outputs.words import explain_late

ANSWER_BYTES = 4 * 1024 * 1024
"""No answer is larger: one batch with every line refused stays below it. ZeroMQ breaks off where one is."""
HEARTBEAT_S = 10
SILENCE_S = 60
"""A peer that leaves a heartbeat unanswered for so long is gone. A large batch that goes out before the heartbeat may
hold it up, and is watched by its own pace; this is for connections that idle, and for routers that forget them."""
CURVE_BYTES = 33
"""What CURVE adds to a message: 8 of its name, 8 of the nonce, 17 of the box. ZeroMQ's frame adds 2 or 9."""
SEND_BUFFER = 512 * 1024
READS = 100
"""So many answers are read at a stretch."""
_BYTES_ACKED = 120
"""Where struct tcp_info has tcpi_bytes_acked, a u64 (Linux 4.1 and newer)."""


class Heard(Enum):
    """What an answer means for the request that is under way."""

    MORE = "there are others to come"
    ALL = "that was the last one"
    OVER = "no other is waited for, and the connection may not be used again"


Take = Callable[[bytes], Heard]


class Keys(NamedTuple):
    """CURVE keys, 32 bytes each."""

    secret: bytes
    public: bytes
    server: bytes


class Line:
    """One connection to one numeric address. `broken` says why it is of no use any more, or is None."""

    def __init__(
        self, context: "zmq.Context[zmq.Socket[bytes]]", host: str, port: int, keys: Keys, *, most: int, within_s: float
    ) -> None:
        self.established: asyncio.Future[Broken | None] = asyncio.get_running_loop().create_future()
        """Done when the peer has shown that it has the right key, and took ours; or when that failed."""
        self.broken: Broken | None = None
        self._loop = asyncio.get_running_loop()
        self._wire: socket.socket | None = None
        self._handed_over = self._acked = 0
        self._arrived: Callable[[bytes], None] | None = None
        self._over: asyncio.Future[Broken] | None = None
        self._socket = dealer(context, keys, most=most, within_s=within_s, ipv6=":" in host)
        self._monitor = self._socket.get_monitor_socket()
        self._descriptors = (self._socket.FD, self._monitor.FD)
        self._loop.add_reader(self._descriptors[0], self._read)
        self._loop.add_reader(self._descriptors[1], self._hear)
        self._socket.connect(f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}")
        self._read()  # the descriptors tell only of what changed since somebody looked, so the first look is due
        self._hear()

    def __repr__(self) -> str:
        return f"<Line {self.broken or ('established' if self.established.done() else 'connecting')}>"

    @property
    def usable(self) -> bool:
        """Whether nothing is known to be wrong with it, now."""
        self._hear()
        return self.broken is None

    async def ask(self, messages: Sequence[bytes], timeout_s: float, take: Take, where: str) -> Trouble | None:
        """Send, and hand every answer to `take` until it says that it was the last. What prevented that, if anything.

        `where`: the peer's address for words.
        """
        done = self._loop.create_future()
        outgoing = _Outgoing(self, sum(map(len, messages)))
        pace: Pace | None = None

        def arrived(answer: bytes) -> None:
            if done.done() or (heard := take(answer)) is Heard.MORE:
                return
            done.set_result(None)
            if heard is Heard.OVER:
                self.broken = Broken("it was told so")

        self._arrived, self._over = arrived, self._loop.create_future()
        try:
            async with asyncio.timeout(None) as limit:
                if not self._send(messages):
                    return Trouble(f"{where} broke the connection before the request was under way", reached=False)
                pace = Pace(outgoing, timeout_s, limit)
                pace.start()
                await asyncio.wait({done, self._over}, return_when=asyncio.FIRST_COMPLETED)
                return None if done.done() else Trouble(f"{where} broke the connection while the request was under way")
        except TimeoutError:
            assert pace is not None
            return Trouble(explain_late(pace, where))
        finally:
            if pace:
                pace.stop()
            self._arrived = self._over = None

    def close(self) -> None:
        """Let go of it, without a word. Twice is fine."""
        self._break(Broken("closed"))
        if self._socket.closed:
            return
        for descriptor in self._descriptors:
            self._loop.remove_reader(descriptor)
        with suppress(zmq.ZMQError):
            self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(0)
        if self._wire is not None:
            self._wire.close()

    def left(self) -> int:
        """Bytes handed over that the other machine has not got yet."""
        with suppress(OSError):
            if self._wire is not None:
                self._acked = max(self._acked, _bytes_acked(self._wire))
        return max(0, self._handed_over - self._acked)

    def _send(self, messages: Sequence[bytes]) -> bool:
        if self._wire is not None:
            with suppress(OSError):  # what went out until now, heartbeats and all, is none of this request
                self._handed_over = self._acked = _bytes_acked(self._wire)
        try:
            for message in messages:
                self._socket.send(message, zmq.NOBLOCK)
                self._handed_over += _on_the_wire(message)
        except zmq.ZMQError:  # Again: there is no peer any more
            return False
        self._read()  # the descriptor tells of changes only, and sending may have taken note of one
        return True

    def _read(self) -> None:
        for _ in range(READS):
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.ZMQError:
                return
            if self._arrived is not None:
                self._arrived(parts[-1])
        self._loop.call_soon(self._read)

    def _hear(self) -> None:
        while not self._socket.closed:
            try:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))
            except (zmq.ZMQError, RuntimeError):
                return
            self._note(event["event"], event["value"])

    def _note(self, event: int, value: int) -> None:
        match event:
            case zmq.EVENT_CONNECTED:
                self._look_at(value)
            case zmq.EVENT_HANDSHAKE_SUCCEEDED if not self.established.done():
                self.established.set_result(None)
            case zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self._break(Broken("the key is refused", connected=True, refused=value))
            case zmq.EVENT_CLOSED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                self._break(Broken("the connection broke", connected=self._wire is not None))
            case zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                self._break(Broken("the handshake made no sense", connected=True))

    def _break(self, why: "Broken") -> None:
        self.broken = self.broken or why
        if not self.established.done():
            self.established.set_result(self.broken)
        if self._over is not None and not self._over.done():
            self._over.set_result(self.broken)

    def _look_at(self, descriptor: int) -> None:
        """Keep a second descriptor of the connection, which tells how much of what was sent has arrived."""
        try:
            self._wire = socket.socket(fileno=os.dup(descriptor))
            self._wire.getpeername()
        except OSError:  # closed by ZeroMQ meanwhile, as the next event will say
            if self._wire is not None:
                self._wire.close()
                self._wire = None


class Broken(NamedTuple):
    """Why a connection is of no use. `connected`: there was one; `refused`: the status of ZAP (RFC 27) that it got.

    `late`: it was given up; `starved`: it was not even begun.
    """

    words: str
    connected: bool = False
    refused: int = 0
    late: bool = False
    starved: bool = False


class _Outgoing:
    """The messages of one request, for `Pace`."""

    begun = True

    def __init__(self, line: Line, size: int) -> None:
        self._line = line
        self.size: int | None = size

    @property
    def left(self) -> int:
        return self._line.left()


def dealer(
    context: "zmq.Context[zmq.Socket[bytes]]", keys: Keys, *, most: int, within_s: float, ipv6: bool
) -> "zmq.Socket[bytes]":
    """A socket that connects once, for at most `most` messages of one request. Each option is there on purpose."""
    made = context.socket(zmq.DEALER)
    made.setsockopt(zmq.RECONNECT_IVL, -1)  # who comes back, and when, is delivery's to decide
    made.setsockopt(zmq.IMMEDIATE, 1)  # nothing is taken while there is no connection: it would be lost without a word
    made.setsockopt(zmq.LINGER, 0)  # the spool has it all; the default would hold up the process's end for ever
    made.setsockopt(zmq.SNDHWM, most)  # a whole request fits, and no more than one is ever on its way
    made.setsockopt(zmq.RCVHWM, most)  # as many answers as there are questions
    made.setsockopt(zmq.MAXMSGSIZE, ANSWER_BYTES)  # of what comes back; the default takes what memory there is
    # Whoever waits gives up after `within_s` and says so; these two only bound what goes on without anybody.
    made.setsockopt(zmq.CONNECT_TIMEOUT, round((within_s + 1) * 1000))
    made.setsockopt(zmq.HANDSHAKE_IVL, round((within_s + 1) * 1000))
    made.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_S * 1000)  # an idle connection that died is found before it is used
    made.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENCE_S * 1000)
    # What lies in the kernel goes out before a heartbeat can be answered, and the gateway gives up after 60 s: so much
    # is soon gone, on a slow line too. The kernel's own choice can be 4 MiB.
    made.setsockopt(zmq.SNDBUF, SEND_BUFFER)
    made.setsockopt(zmq.IPV6, int(ipv6))
    made.setsockopt(zmq.CURVE_SERVERKEY, keys.server)
    made.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
    made.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    return made


def _on_the_wire(message: bytes) -> int:
    """Bytes that a message takes there."""
    inside = len(message) + CURVE_BYTES
    return inside + (2 if inside < 256 else 9)


def _bytes_acked(wire: socket.socket) -> int:
    """Bytes that the other machine's kernel has acknowledged on a TCP connection. Raises OSError."""
    info = wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 8)
    if len(info) < _BYTES_ACKED + 8:
        raise OSError("this kernel does not tell")
    return int(struct.unpack_from("Q", info, _BYTES_ACKED)[0])
