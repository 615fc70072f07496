"""A file that holds room on the disk.

When the disk is full it is given back, so that what was delivered can be deleted: deleting is writing too. Until it can
be made again, nothing new is stored. A start gives back what the run before it held.
"""

import os
from pathlib import Path

RESERVE_BYTES = 4 * 1024 * 1024


class Reserve:
    """The file at ``path``. In one thread only."""

    def __init__(self, path: Path, size: int = RESERVE_BYTES) -> None:
        self._path = path
        self._size = size
        self._held = False

    def hold(self) -> bool:
        """Make the file unless it is there. False if the disk has no room for it."""
        if self._held:
            return True
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(file, 0, self._size)
            finally:
                os.close(file)
        except OSError:
            self._path.unlink(missing_ok=True)
            return False
        self._held = True
        return True

    def give_back(self) -> bool:
        """Free the room, also what an earlier run held. False if there was none to free."""
        self._held = False
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
