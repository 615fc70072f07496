"""Sockets that were there before: of the run before in this process, or of systemd. An input takes what fits it."""

import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from sendoff_server.inputs.kept import KeptConnection, KeptSocket
from sendoff_server.inputs.sockets import inode_of, remove_file, shown


class Inherited:
    """What nobody has taken yet. `going_on`: a run was there before, and a fault must not end what it served."""

    def __init__(
        self,
        sockets: Iterable[KeptSocket] = (),
        connections: Iterable[KeptConnection] = (),
        *,
        going_on: bool = False,
    ) -> None:
        self._sockets = list(sockets)
        self.connections = list(connections)
        self.going_on = going_on

    def __repr__(self) -> str:
        return f"<Inherited {[each.name for each in self._sockets]}, {len(self.connections)} connections>"

    def of_systemd(self, name: str) -> bool:
        """Whether systemd holds the socket of that input."""
        return any(kept.name == name and not kept.ours for kept in self._sockets)

    def take(self, name: str, setting: str) -> tuple[socket.socket, KeptSocket] | None:
        """The socket of that input, if it is at the address that the settings want. Systemd's is, wherever it is."""
        for kept in self._sockets:
            if kept.name == name and (not kept.ours or _is_at(kept, setting)):
                return self._take(kept)
        return None

    def take_any(self, name: str) -> tuple[socket.socket, KeptSocket] | None:
        """The socket of that input, at whichever address."""
        return next((self._take(kept) for kept in self._sockets if kept.name == name), None)

    def rest(self, *names: str) -> list[tuple[socket.socket, KeptSocket]]:
        """The sockets of these inputs that nobody took."""
        return [self._take(kept) for kept in self._sockets[:] if kept.name in names]

    def close(self) -> None:
        """Let go of what is left."""
        for sock, kept in self.rest(*(each.name for each in self._sockets)):
            if kept.ours and sock.family == socket.AF_UNIX:
                remove_file(Path(kept.setting), kept.inode)
            sock.close()
        for connection in self.connections:
            with suppress(OSError):
                os.close(connection.descriptor)
        self.connections = []

    def _take(self, kept: KeptSocket) -> tuple[socket.socket, KeptSocket]:
        self._sockets.remove(kept)
        sock = socket.socket(fileno=kept.descriptor)
        sock.setblocking(False)
        return sock, kept


def _is_at(kept: KeptSocket, setting: str) -> bool:
    if kept.inode is not None:  # a file that was removed meanwhile leads nobody here
        return kept.setting == setting and inode_of(Path(setting)) == kept.inode
    if kept.setting == setting:
        return True
    with socket.socket(fileno=os.dup(kept.descriptor)) as same:
        return shown(same) == setting
