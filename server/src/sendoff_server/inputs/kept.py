"""What an input gives up so that another run can go on with it: its socket, its connections, its counts.

Plain values; descriptors are numbers. Who holds such a value owns the descriptors in it, which stay open until they are
taken over or closed.
"""

from typing import Any

import msgspec


class KeptSocket(msgspec.Struct):
    """A bound socket. `setting`: the address as the settings had it, a port 0 and all.

    `ours`: its file is to be removed when nobody listens any more; systemd's are systemd's. `inode`: of a Unix socket's
    file. `seen`, `dropped`: what the kernel's counter of drops stood at, and the running total. `counts`: what its
    input counted.
    """

    name: str
    descriptor: int
    setting: str
    ours: bool = True
    inode: int | None = None
    seen: int = 0
    dropped: int = 0
    counts: dict[str, int] = msgspec.field(default_factory=dict)


class KeptSession(msgspec.Struct):
    """Whose connection it is ("" where none was named yet), and what that client was told."""

    client: str = ""
    told: int = 0
    ack_due: bool = False


class KeptConnection(msgspec.Struct):
    """An accepted connection, stopped between two reads.

    `plain`, `passing_over`, `rest`: its decoder. `ended`: its peer has finished writing and waits for a last word.
    `out`: bytes of a reply that its peer has not taken yet.
    """

    input: str
    descriptor: int
    plain: bool | None = None
    passing_over: bool = False
    rest: bytes = b""
    received: int = 0
    ended: bool = False
    out: bytes = b""
    session: KeptSession = msgspec.field(default_factory=KeptSession)


def resume_counts(counts: Any, kept: KeptSocket | None) -> None:
    """Go on counting where the run before stopped; what only that one counted is left out."""
    for name, value in (kept.counts if kept else {}).items():
        if hasattr(counts, name):
            setattr(counts, name, value)
