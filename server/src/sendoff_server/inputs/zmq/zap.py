"""Who may connect with CURVE: libzmq asks by ZAP (rfc.zeromq.org/spec/27), once a connection, before any message.

The answer comes from a look-up in memory. pyzmq's authenticator does the same with a poller and a task of its own;
this costs a third of it and needs no second event loop.
"""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable

import zmq

from sendoff_server.inputs.zmq.router import Context, Curve

log = logging.getLogger(__name__)

ADDRESS = "inproc://zeromq.zap.01"
AT_ONCE = 64
"""Requests answered before others get their turn."""
WAITING_MOST = 1_000
"""Requests with keys that may be new; beyond, they are refused without waiting."""
REMEMBERED = 1_000
"""Refused keys that are remembered as said."""
LINES_A_MINUTE = 10
"""Lines about refused keys; beyond, one that counts the rest."""


class Zap:
    """Answers for one context. `unknown`, `later`: connections turned away, as their key is not known or not now."""

    def __init__(
        self,
        context: Context,
        name: str,
        curve: Curve,
        clock: Callable[[], float],
    ) -> None:
        self.unknown = self.later = 0
        self._name = name
        self._curve = curve
        self._clock = clock
        self._waiting: deque[tuple[float, list[bytes]]] = deque()
        self._said: OrderedDict[bytes, None] = OrderedDict()
        self._lines = self._unsaid = 0
        self._minute = clock()
        self._socket = context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.bind(ADDRESS)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._turn)
        self._turn()

    def close(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop = None
        self._socket.close(0)

    def settle(self, asked_before: float) -> None:
        """What is known now was known at that time (monotonic seconds): answer those who asked before it."""
        while self._waiting and self._waiting[0][0] < asked_before:
            _, request = self._waiting.popleft()
            self._answer(request, self._curve.allowed(request[8]))
        self._turn()  # sending may have taken in what the descriptor would have told of

    def sweep(self) -> None:
        """Once a second: say what was not said in the minute that is over."""
        now = self._clock()
        if now - self._minute < 60:
            return
        if self._unsaid:
            log.warning("input %s: %d more connections with keys that are not known", self._name, self._unsaid)
        self._minute, self._lines, self._unsaid = now, 0, 0

    def _turn(self) -> None:
        for _ in range(AT_ONCE):
            if self._loop is None:
                return
            try:
                request = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._take(request)
        # The descriptor says a new request only once: what is left must be asked for.
        self._loop.call_soon(self._turn)  # type: ignore[union-attr]

    def _take(self, request: list[bytes]) -> None:
        if len(request) < 9 or request[7] != b"CURVE" or len(request[8]) != 32:
            return  # nobody but libzmq can ask here
        user = self._curve.allowed(request[8])
        if user is None and self._curve.changes and len(self._waiting) < WAITING_MOST:
            self._waiting.append((self._clock(), request))
        else:
            self._answer(request, user)

    def _answer(self, request: list[bytes], user: str | None) -> None:
        asker, _, version, number, _, address, _, _, key = request[:9]
        if user:
            code, text = b"200", b"OK"
        elif user is None:
            code, text = b"400", b"unknown key"
            self._refuse(key, address.decode(errors="replace"))
        else:
            # 300 is the code for this, but libzmq then keeps the connection, silent, until its handshake is overdue.
            code, text = b"500", b"later"
            self.later += 1
        answer = [asker, b"", version, number, code, text, (user or "").encode(), b""]
        try:
            self._socket.send_multipart(answer, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            log.debug("input %s: no answer to a handshake: %s", self._name, error)

    def _refuse(self, key: bytes, address: str) -> None:
        self.unknown += 1
        if key in self._said:
            self._said.move_to_end(key)
            return
        self._said[key] = None
        if len(self._said) > REMEMBERED:
            self._said.popitem(last=False)
        if self._lines >= LINES_A_MINUTE:
            self._unsaid += 1
            return
        self._lines += 1
        log.warning("input %s: refused %s, whose key %s is not known", self._name, address, self._curve.show(key))
