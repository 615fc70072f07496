"""Starts an agent as systemd does it: with sockets that somebody else holds, as descriptors from 3 on."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from demo.parts import Part, Stage

WRAPPER = """
import fcntl, os, sys
names, *rest = sys.argv[1:]
count = len(names.split(":"))
aside = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in rest[:count]]
for at, number in enumerate(aside):
    os.dup2(number, 3 + at)
    os.close(number)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(count), "LISTEN_FDNAMES": names}
os.execv(rest[count], rest[count:])
"""


@dataclass
class Held:
    """The sockets of a stage, held by this process, and an agent that gets them with every start."""

    stage: Stage
    sockets: dict[str, socket.socket] = field(default_factory=dict)

    def agent(self) -> Part:
        plain = self.stage.agent()
        numbers = tuple(sock.fileno() for sock in self.sockets.values())
        names = ":".join(self.sockets)
        command = [sys.executable, "-c", WRAPPER, names, *map(str, numbers), *plain.command]
        return Part("agent", command, plain.log, descriptors=numbers)


@contextmanager
def held_sockets(stage: Stage) -> Iterator[Held]:
    """The Unix, UDP and TCP socket of a stage's agent, open and listening."""
    with ExitStack() as stack:
        unix, udp, tcp = (
            stack.enter_context(socket.socket(family, kind))
            for family, kind in (
                (socket.AF_UNIX, socket.SOCK_STREAM),
                (socket.AF_INET, socket.SOCK_DGRAM),
                (socket.AF_INET, socket.SOCK_STREAM),
            )
        )
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 2**20)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        unix.bind(f"{stage.folder}/agent.sock")
        udp.bind(("127.0.0.1", stage.statsd_port))
        tcp.bind(("127.0.0.1", stage.statsd_port))
        unix.listen(512)
        tcp.listen(512)
        yield Held(stage, {"unix": unix, "udp": udp, "tcp": tcp})
