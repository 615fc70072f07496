"""The agent's ZeroMQ input without an agent: how a run ends."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from sendoff_server.inputs.sockets import listen_unix
from sendoff_server.inputs.zmq.agent import AgentInput
from sendoff_server.wire.frame import Lines

from .zmq_support import GREETING, READY, Recorded

if TYPE_CHECKING:
    from pathlib import Path

    from sendoff_server.inputs import Link
    from sendoff_server.inputs.kept import KeptSession
    from sendoff_server.wire.frame import Item


def connected(path: Path) -> socket.socket:
    """A connection of a DEALER whose handshake is over."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(str(path))
    sock.sendall(GREETING + READY)
    received = b""
    while len(received) < 66 or len(received) < 66 + received[65]:
        received += sock.recv(1_000)  # a greeting, and a READY
    return sock


class Late:
    """An intake to whom somebody comes while another one is heard."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.late: socket.socket | None = None
        self.sessions: list[Recorded] = []

    def connected(self, origin: str, link: Link, kept: KeptSession | None = None) -> Recorded:
        outer = self

        class Session(Recorded):
            def take(self, item: Item) -> None:
                super().take(item)
                if outer.late is None:
                    outer.late = connected(outer.path)

        self.sessions.append(Session(link, ""))
        return self.sessions[-1]

    def datagram(self, item: Item, origin: str) -> None:
        raise NotImplementedError


async def test_who_comes_while_the_last_of_the_others_are_heard_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "agent.zmq"
    intake = Late(path)
    made = AgentInput("zmq", listen_unix(path, socket.SOCK_STREAM, 0o660, "here"), intake, time.monotonic)
    made.start()
    with connected(path) as first:
        first.sendall(b"\0\x05a:1|c")
    made.hold()
    time.sleep(0.1)  # for libzmq's own thread
    assert not made.drain(lambda: True)
    assert intake.late
    while not made.drain(lambda: True):
        time.sleep(0.001)
    with intake.late:
        assert intake.late.recv(100) == b"", "it was ended before the ROUTER was"
    assert [session.items for session in intake.sessions] == [[Lines(b"a:1|c")]]
    made.close()
