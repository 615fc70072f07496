"""Sockets that systemd made before this process began (sd_listen_fds(3)): it holds them, whoever runs."""

import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress

FIRST = 3
MOST = 64


def activated(environ: MutableMapping[str, str]) -> list[tuple[str, socket.socket]]:
    """Those sockets with their FileDescriptorName, "" where they have none. The variables are taken: nobody else, as no
    child and no run after this one, is meant by them.
    """
    pid, number, names = (environ.pop(key, "") for key in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    environ.pop("LISTEN_PIDFDID", None)
    if pid != str(os.getpid()) or not number.isdigit():
        return []
    named = names.split(":") if names else []
    found = []
    for at in range(min(int(number), MOST)):
        with suppress(OSError):  # no socket, or not there at all
            os.set_inheritable(FIRST + at, False)
            sock = socket.socket(fileno=FIRST + at)
            sock.setblocking(False)
            found.append((named[at] if at < len(named) else "", sock))
    return found
