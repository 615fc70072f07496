"""The agent's ZeroMQ input: one listening socket, and the ROUTER that accepts from it for as long as a run lasts.

What ZeroMQ has read lies in this process and goes with it, so before a run ends, or hands over, connections are ended
and all that had reached them is heard. The listening socket stays: who connects meanwhile waits in the kernel for the
next ROUTER.
"""

import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from msgspec import structs

from sendoff_server.inputs.contract import Intake, Link, Session
from sendoff_server.inputs.kept import KeptConnection, KeptSocket, resume_counts
from sendoff_server.inputs.sockets import inode_of, remove_file, shown
from sendoff_server.inputs.zmq.input import ZmqInput
from sendoff_server.inputs.zmq.keyfile import server_pair
from sendoff_server.inputs.zmq.reception import ZmqCounts
from sendoff_server.inputs.zmq.router import Curve
from sendoff_server.wire.curve import from_text, to_text

log = logging.getLogger(__name__)

DOCTOR = "sendoff-doctor"
"""Who shows the server's own key: only its user can read that."""
ENDING_S = 1.0
"""How long connections that were ended may take to say so."""


class AgentInput:
    """Frames and lines over ZeroMQ. `clock`: monotonic seconds. `path`: a Unix socket's file, removed if it is ours."""

    def __init__(
        self,
        name: str,
        sock: socket.socket,
        intake: Intake,
        clock: Callable[[], float],
        *,
        curve: Curve | None = None,
        path: Path | None = None,
        kept: KeptSocket | None = None,
    ) -> None:
        self.name = name
        self.address = shown(sock)
        self.counts = ZmqCounts()
        resume_counts(self.counts, kept)
        self.clock = clock
        self._sock = sock
        self._kept = kept or KeptSocket(name, sock.fileno(), self.address)
        self._path = path if self._kept.ours else None
        self._inode = kept.inode if kept else inode_of(self._path)
        self._reception = _Reception(intake, name)
        self._curve = curve
        self._router = self._make()
        self._called_at = 0.0
        self._heard_all = False

    def __repr__(self) -> str:
        return f"<AgentInput {self.name} {self.address}, {self._router!r}>"

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return self._router.open

    @property
    def over(self) -> bool:
        """It listens no more."""
        return self._sock.fileno() < 0

    @property
    def pending(self) -> int:
        """Bytes that are half read: none that can be known, as ZeroMQ gives whole messages."""
        return 0

    def start(self) -> None:
        self._router.start()

    def pause(self) -> None:
        """Read nothing more for now: ZeroMQ holds some of what is sent, and then no longer reads the connections."""
        self._router.pause()

    def resume(self) -> None:
        self._router.resume()

    def sweep(self) -> None:
        """Once a second: end what takes too long."""
        self._router.sweep()

    def stop_accepting(self) -> None:
        """The last of those who come is heard, so there is nobody whom `drain` would not do for."""

    def last_call(self) -> None:
        """From now on `drain` is what reads."""
        self._called_at = self.clock()
        self._router.pause()

    def hold(self) -> None:
        """As `last_call`. `go_on` undoes it; without `drain` what is in this process is lost with it."""
        self.last_call()

    def go_on(self) -> None:
        """After `hold`: with a new ROUTER, as the connections of the old one have ended. It reads at once."""
        self._router.close()
        self._router = self._make()
        self._heard_all = False
        self._router.start()

    def drain(self, may_go_on: Callable[[], bool]) -> bool:
        """Let peers write no more, and read what they could until now, as long as that may go on. False: not all.

        Once there is nothing more the ROUTER goes: who connects from then on waits for the next one.
        """
        if self._heard_all:
            return True
        some_are_left = self._router.last_call() and self.clock() - self._called_at < ENDING_S
        if not self._router.drain(may_go_on) or some_are_left:
            return False
        if self._router.last_call() and self.clock() - self._called_at < ENDING_S:
            return False  # they came while others were heard
        self._router.close()
        self._heard_all = True
        return True

    def give_up(self) -> tuple[KeptSocket, list[KeptConnection]]:
        """Let go of the socket without closing it. Only after `hold`."""
        self._router.close()
        return structs.replace(self._kept, descriptor=self._sock.detach(), counts=asdict(self.counts)), []

    def close(self) -> None:
        """End all connections and stop listening. Twice is fine."""
        self._router.close()
        if self._sock.fileno() >= 0:
            if self._path:
                remove_file(self._path, self._inode)
            self._sock.close()

    def _make(self) -> ZmqInput:
        made = ZmqInput(self.name, self._sock.dup(), self._reception, self.clock, curve=self._curve, keep_file=True)
        made.counts = self.counts
        return made


class _Reception:
    """All that comes is the intake's."""

    lines = True

    def __init__(self, intake: Intake, name: str) -> None:
        self._intake = intake
        self._name = name
        self._distrusted = 0

    def connected(self, link: Link, user: str) -> Session:
        return self._intake.connected(self._name, link)

    def admit(self, user: str, size: int) -> None:
        """Who may connect may send: the agent is his own."""

    def batch(self, link: Link, user: str, data: bytes) -> bool:
        return False

    def met(self, user: str) -> None:
        """Who is there is seen by the clients."""

    def distrust(self, user: str, why: str, *, forged: bool) -> None:
        self._distrusted += 1
        if self._distrusted & (self._distrusted - 1) == 0:  # said at 1, 2, 4, 8 …
            log.warning("input %s: a peer %s was cut off: %s", self._name, user, why)


def curve_of(clients: Mapping[str, str], folder: Path) -> Curve | None:
    """Who may connect: the clients, by name and public key, and who can read the key in `folder`. None: everybody.

    Raises InputError.
    """
    if not clients:
        return None
    own = server_pair(folder)
    users = {from_text(key): name for name, key in clients.items()} | {own.public: DOCTOR}
    return Curve(own.secret, users.get, to_text)
