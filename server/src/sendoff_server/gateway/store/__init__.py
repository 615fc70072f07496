"""The gateway's store: one SQLite file, one thread that writes it, a few that read it."""

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sendoff_server.gateway.store.database import FILE, StoreError, open_for_reading, open_for_writing
from sendoff_server.gateway.store.readers import Readers, TooSlow
from sendoff_server.gateway.store.writer import Busy, DiskFailed, Writer

__all__ = [
    "FILE",
    "Busy",
    "DiskFailed",
    "Readers",
    "Store",
    "StoreError",
    "TooSlow",
    "Writer",
    "open_for_reading",
    "open_for_writing",
    "open_store",
]


@dataclass(slots=True)
class Store:
    """An open store. ``writer.submit`` writes, ``await readers.read`` reads."""

    folder: Path
    writer: Writer
    readers: Readers
    _lock: IO[str]

    def close(self) -> None:
        """Finish what waits to be written. Blocks."""
        self.writer.stop()
        self.readers.close()
        self._lock.close()


def open_store(folder: Path) -> Store:
    """Open the store in ``folder`` for one gateway. Raises ``StoreError``, also when another gateway has it."""
    db = open_for_writing(folder)
    lock = (folder / "gateway.lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        owner = lock.read().strip() or "unknown"
        lock.close()
        db.close()
        raise StoreError(
            f"{folder} is in use by another gateway (pid {owner}); stop it or set gateway.data_dir"
        ) from None
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    writer = Writer(db)
    writer.start()
    return Store(folder, writer, Readers(folder), lock)
