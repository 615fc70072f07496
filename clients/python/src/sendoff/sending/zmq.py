"""Connections by ZeroMQ to an agent or a gateway: each a DEALER that connects once. Never waits.

libzmq's own thread connects, encrypts, writes and reads; what happens here costs a few microseconds. libzmq is not left
to reconnect by itself: frames that it still had would arrive in front of the new hello, and what was lost with the old
connection would stay unknown. So a connection that breaks is `Gone`, and the channel makes a new one.

Whatever an exception from a signal handler interrupts, the sockets are closed in the order that libzmq needs
(`zmq_monitor.py`), as closing may be begun again.

The descriptors of ZeroMQ are edge-triggered, and any call may take the edge. So `due_at`, which is asked for right
before the thread falls asleep, looks at what is ready.
"""

from __future__ import annotations

import _socket
import binascii
import os
import time
from contextlib import suppress

from sendoff import frame
from sendoff.frame import UNIT_LIMIT
from sendoff.sending.contract import Absent, Gone, Torn
from sendoff.sending.zmq_context import context, require
from sendoff.sending.zmq_monitor import CONNECTED, GREETED, Monitor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sendoff.frame import Ack
    from sendoff.sending.contract import Job
    from sendoff.settings import Address

CONNECT = 10.0
"""Seconds for the connection to be made."""
HANDSHAKE = 10.0
"""Seconds after that for the greeting and the keys."""
HELLO = 10.0
"""Seconds after that until the hello must be answered."""
SILENCE = 30.0
"""Seconds without an answer while frames are unacknowledged."""
HEARTBEAT = 15.0
"""Seconds between two pings, and until one must be answered."""
GRACE = 1.0
"""Seconds beyond libzmq's own limits, so that it is libzmq which says what happened."""
STUCK = 0.1
"""Seconds until a frame that could not be handed over is tried again, should another thread have taken the edge."""
READS = 64
"""Answers taken in one go, so that a talkative peer cannot keep the thread."""

NOT_MADE = "no connection was made"
NO_HANDSHAKE = "the handshake was not finished"
NO_ANSWER = "the hello was not answered"
NO_ACK = "nothing was acknowledged"
_TAKEN = memoryview(b"")
_leaving: list[Monitor] = []
"""Monitors of connections that are closed here, and are getting rid of their last frames. Listened to until the end of
that, which their LINGER bounds.
"""


class ZmqOpener:
    """The way to one address, and the keys for it."""

    def __init__(self, address: Address, linger: float) -> None:
        """`linger`: seconds that the last frames may take to leave. Raises `SettingError` where pyzmq is missing, or
        cannot do what the address asks for.
        """
        curve = address.scheme == "zmq+curve"
        require(curve=curve)
        self.address = address
        self.linger = linger
        self.keys = _keys(address) if curve else None

    @property
    def reaches(self) -> tuple[str, int]:
        """Host and port of the address."""
        return self.address.host, self.address.port

    @property
    def ready(self) -> bool:
        """Always: libzmq is loaded already."""
        return True

    def prepare(self) -> None:
        """Nothing."""

    def open(self, host: str, family: int) -> ZmqStream:
        """Begin to connect, to the numeric address `host` or to the address's path. Raises `Gone` if that fails at
        once, `Absent` where there is no such socket.
        """
        import zmq

        path = self.address.path
        if path is not None and not os.path.exists(path):
            raise Absent(f"there is no {path}")
        _clear_away()
        try:
            return ZmqStream(self, host, ipv6=family == _socket.AF_INET6)
        except zmq.ZMQError as error:
            raise Gone(f"no ZeroMQ socket to be had: {error.strerror}") from error

    def close(self, left: float) -> None:
        """Wait until the last frames are with the kernel, for `left` seconds at most. The context stays."""
        deadline = time.monotonic() + left
        while _clear_away() and time.monotonic() < deadline:
            time.sleep(0.001)

    def forget(self) -> None:
        """In the child after a fork: what was inherited is left alone."""
        _leaving.clear()

    def __repr__(self) -> str:
        return f"ZmqOpener({self.address})"


class ZmqStream:
    """A DEALER, its monitor, and which answer is due."""

    def __init__(
        self, opener: ZmqOpener, host: str, *, ipv6: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        import zmq

        self._zmq = zmq
        self._opener = opener
        self._clock = clock
        self.job: Job | None = None
        """See `contract.Stream`."""
        self._gone: Gone | None = None
        self._writing = True
        self._sending = False
        """Whether somebody is at it, or was interrupted there."""
        self._closed = False
        self._pid = os.getpid()
        self._dealer: Any = None
        self._answered = False
        self._late, self._deadline = NOT_MADE, clock() + CONNECT + GRACE
        self._asked = self._asked_n = 0
        """The highest seq, and the highest count of points, that was handed over and not acknowledged; 0 for none."""
        made = context()
        self._monitor = Monitor(made, opener.address)
        try:
            self._dealer = made.socket(zmq.DEALER)
            self._set_options(ipv6)
            self._monitor.begin(self._dealer)
            self._fd: int = self._dealer.get(zmq.FD)
            path, place = opener.address.path, f"[{host}]" if ipv6 else host
            self._dealer.connect(f"ipc://{path}" if path is not None else f"tcp://{place}:{opener.address.port}")
        except BaseException:
            self.close()
            raise

    def _set_options(self, ipv6: bool) -> None:
        zmq, set_option, opener = self._zmq, self._dealer.set, self._opener
        # How long the last frames may take to go out after the end. libzmq's default is for ever.
        set_option(zmq.LINGER, int(opener.linger * 1000))
        # Messages that wait for libzmq's thread. All are in the client's buffer as well, which bounds their bytes.
        set_option(zmq.SNDHWM, 1_000)
        # Answers that wait for us. A newer one says all that an older one did, so few will do: 16 MiB at worst.
        set_option(zmq.RCVHWM, 16)
        # An answer longer than any that the protocol knows ends the connection before it takes memory. (libzmq bounds
        # each part of a message, and not how many there are: who sends parts without end fills our memory. With CURVE
        # that could only be the receiver whose key is in the address.)
        set_option(zmq.MAXMSGSIZE, UNIT_LIMIT)
        # Nothing is queued for a connection that is not there: it would be lost with it, and nobody told.
        set_option(zmq.IMMEDIATE, 1)
        # It is the channel that reconnects, with backoff, jitter and a hello.
        set_option(zmq.RECONNECT_IVL, -1)
        # Without these, a host that is silent or has gone is noticed after minutes, or never.
        set_option(zmq.CONNECT_TIMEOUT, int(CONNECT * 1000))
        set_option(zmq.HANDSHAKE_IVL, int(HANDSHAKE * 1000))
        # Both sides notice an idle peer that vanished without a word, and firewalls keep the connection open.
        set_option(zmq.HEARTBEAT_IVL, int(HEARTBEAT * 1000))
        set_option(zmq.HEARTBEAT_TIMEOUT, int(HEARTBEAT * 1000))
        set_option(zmq.HEARTBEAT_TTL, int(4 * HEARTBEAT * 1000))
        if opener.address.path is None:
            # The kernel would send into a broken network for a quarter of an hour.
            set_option(zmq.TCP_MAXRT, int(SILENCE * 1000))
            # The route has looked the name up, and says of which family the address is.
            set_option(zmq.IPV6, int(ipv6))
        if opener.keys is not None:
            server, public, secret = opener.keys
            set_option(zmq.CURVE_SERVERKEY, server)
            set_option(zmq.CURVE_PUBLICKEY, public)
            set_option(zmq.CURVE_SECRETKEY, secret)

    @property
    def untouched(self) -> bool:
        """Never: it takes something only once there is a connection."""
        return False

    def go_on(self) -> bool:
        """Hand the job to libzmq. False: there is no connection yet, or too much waits already. Raises `Gone`."""
        if self._gone is not None:
            raise self._gone
        job = self.job
        if job is None or job.rest is not None:
            return True
        if not self._writing:
            raise Gone("the connection was ended here")
        if self._sending:
            raise Torn("torn by an exception from a signal handler")  # or a hello would be said twice
        self._sending = True
        try:
            self._dealer.send(job.frame, self._zmq.DONTWAIT)  # copied: without, pyzmq starts a thread of its own
        except self._zmq.Again:
            self._sending = False
            return False
        except self._zmq.ZMQError as error:
            raise Gone(f"ZeroMQ took no message: {error.strerror}") from error
        job.rest = _TAKEN
        if job.seq:
            self._asked = job.seq
        elif job.parcel is not None:
            self._asked_n = job.n
        self._expect()
        self._sending = False
        return True

    def ship(self) -> None:
        """Nothing to do: what libzmq took is on its way."""

    def read(self) -> list[Ack]:
        """The answers that have come. Raises `Gone` when there are no more and the connection has ended, or when one is
        too late.
        """
        found: list[Ack] = []
        try:
            if self._gone is None:
                self._take_answers(found)
                self._look()
        except self._zmq.ZMQError as error:
            self._gone = Gone(f"ZeroMQ failed: {error.strerror}")
        except Gone as gone:
            self._gone = gone
        if self._gone is not None and not found:
            raise self._gone
        return found

    def _take_answers(self, found: list[Ack]) -> None:
        where = self._monitor.where
        for _ in range(READS if self._writing else 0):
            try:
                raw = self._dealer.recv(self._zmq.DONTWAIT)
                many = self._dealer.get(self._zmq.RCVMORE)
                ack = frame.answer(raw)
            except self._zmq.Again:
                return
            except frame.AckError as error:
                raise Gone(f"{where} answered something else: {error}") from error
            if many:
                raise Gone(f"{where} answered in several parts")
            found.append(ack)
            self._heard(ack)

    def _heard(self, ack: Ack) -> None:
        self._answered = True
        if ack.upto >= self._asked:
            self._asked = 0
        if ack.n is None or ack.n >= self._asked_n:
            self._asked_n = 0  # a peer that acknowledges no points is not asked for it
        self._late = ""
        self._expect()

    def _look(self) -> None:
        stage = self._monitor.stage
        self._monitor.look()
        if self._monitor.stage != stage:
            self._expect()
        if self._late and self._clock() >= self._deadline:
            raise Gone(f"{self._late} in time by {self._monitor.where}")

    def _expect(self) -> None:
        """Set the limit for what is due next, unless it is set already."""
        if self._answered:
            late, seconds = NO_ACK if self._asked or self._asked_n else "", SILENCE
        elif self._monitor.stage == CONNECTED:
            late, seconds = NO_HANDSHAKE, HANDSHAKE + GRACE
        else:
            late, seconds = NO_ANSWER, HELLO
        if late != self._late:
            self._late, self._deadline = late, self._clock() + seconds

    def watch(self) -> tuple[tuple[int, bool], ...]:
        """The descriptors of both sockets, which become readable whatever it is that has changed."""
        monitor = (self._monitor.fd, False)
        return ((self._fd, False), monitor) if self._writing else (monitor,)

    @property
    def due_at(self) -> float | None:
        """When `read` must be called: at once if something is ready."""
        waits = self.job is not None and self.job.rest is None
        if self._gone is not None or self._is_ready(waits):
            return self._clock()
        if waits and self._monitor.stage == GREETED:
            return self._clock() + STUCK
        return self._deadline if self._late else None

    def _is_ready(self, job_waits: bool) -> bool:
        if self._monitor.has_news:
            return True
        wanted = self._zmq.POLLIN | (self._zmq.POLLOUT if job_waits else 0)
        return self._writing and bool(self._dealer.get(self._zmq.EVENTS) & wanted)

    def end_writing(self) -> None:
        """Close, but let out what was handed over. `read` says when that is done, with `Answered`. Called when all but
        a bye is acknowledged: an answer that nobody reads any more makes the kernel throw away what it has not sent.
        """
        if self._writing and self._gone is None:
            self._writing = False
            self._dealer.close()

    def close(self) -> None:
        """Nothing more is sent, but for what `end_writing` has let out: the opener waits for that."""
        if self._closed or self._pid != os.getpid():
            return
        self._gone = Gone("the connection was closed here")
        if self._writing:
            self._monitor.close()
            if self._dealer is not None:
                self._dealer.close(0)
        else:
            self._dealer.close()
            if self._monitor not in _leaving:
                _leaving.append(self._monitor)
            _clear_away()
        self._closed = True

    def __del__(self) -> None:
        if hasattr(self, "_monitor"):
            self.close()

    def forget(self) -> None:
        """In the child after a fork: the connection must not outlive the parent because of us."""
        self._closed, self._writing = True, False
        self._gone = Gone("the connection is the parent's")
        self._monitor.forget()

    def __repr__(self) -> str:
        return f"ZmqStream({self._monitor}, asked={self._asked}, gone={self._gone})"


def _clear_away() -> bool:
    """Let go of connections that have left. True if there are others."""
    for monitor in _leaving[:]:
        with suppress(Gone):
            monitor.look()
        if monitor.over:
            _leaving.remove(monitor)
            monitor.close()
    return bool(_leaving)


def _keys(address: Address) -> tuple[bytes, bytes, bytes]:
    """The server's public key, ours, and our secret one, 32 bytes each. pyzmq makes ours, and wants and gives Z85."""
    import zmq
    from zmq.utils import z85

    server, secret = (
        binascii.a2b_base64(text.replace("-", "+").replace("_", "/") + "=") for text in (address.server, address.secret)
    )
    return server, z85.decode(zmq.curve_public(z85.encode(secret))), secret
