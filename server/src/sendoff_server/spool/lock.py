"""One agent a spool, by a lock of the kernel's: it goes when its holder goes, however that ends."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from sendoff_server.spool.errors import SpoolLocked


class Lock:
    """Holds ``path`` locked from construction to ``release()``. Raises ``SpoolLocked`` naming the holder.

    ``kept``: a descriptor from ``keep()`` of a lock before, in this process. If it is of this file the lock was never
    given back in between; if it is of another, that one is given back.
    """

    def __init__(self, path: Path, kept: int | None = None) -> None:
        self.was_kept = kept is not None and _is(kept, path)
        """Nobody else can have had the file in between."""
        if kept is not None and self.was_kept:
            self._file = kept
        else:
            if kept is not None:
                os.close(kept)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            written = os.read(self._file, 32)
            os.close(self._file)
            raise SpoolLocked(str(path.parent), int(written) if written.strip().isdigit() else None) from None
        with suppress(OSError):  # on a full disk nobody can be told who holds it
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock back. The file stays: deleting it would let two processes each lock one of the same name."""
        os.close(self._file)

    def keep(self) -> int:
        """Go on holding it, by this descriptor alone: for whoever comes after in this process."""
        return self._file


def _is(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False
