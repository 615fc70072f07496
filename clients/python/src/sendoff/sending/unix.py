"""The agent's Unix socket: where it is (protocol/wire-format.md, section 1), and connecting to it."""

from __future__ import annotations

import _socket
import os
import stat

from sendoff.sending.contract import Absent, Gone
from sendoff.sending.stream import SocketStream, new_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


SYSTEM = "/run/sendoff/agent.sock"


def find(environ: Mapping[str, str], uid: int) -> str | None:
    """The first of the agent's usual sockets that exists, or None."""
    given = environ.get("SENDOFF_SOCKET")
    runtime = environ.get("XDG_RUNTIME_DIR")
    for path in (given, f"{runtime}/sendoff/agent.sock" if runtime else None, SYSTEM):
        if path and _is_socket(path):
            return path
    own = f"/tmp/sendoff-{uid}"  # noqa: S108 - anybody may create it, so its owner is checked
    return f"{own}/agent.sock" if _is_private(own, uid) and _is_socket(f"{own}/agent.sock") else None


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _is_private(folder: str, uid: int) -> bool:
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not found.st_mode & 0o077


def open_unix(path: str | None) -> SocketStream:
    """Connect to the socket at `path`, or to the one that is found. Raises `Gone` if none answers at once."""
    path = path or find(os.environ, os.getuid())
    if path is None:
        raise Absent("no agent's socket exists")
    sock = new_socket(_socket.AF_UNIX)
    try:
        sock.setblocking(False)
        sock.connect(path)
    except OSError as error:
        sock.close()
        kind = Absent if isinstance(error, FileNotFoundError) else Gone
        raise kind(f"{path}: {error.strerror or error}") from error
    return SocketStream(sock)
