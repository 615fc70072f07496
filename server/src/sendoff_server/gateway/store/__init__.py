"""The gateway's store: one SQLite file, one thread that writes it, a few that read it."""

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sendoff_server.gateway.store.database import (
    FILE,
    StoreError,
    open_for_reading,
    open_for_writing,
    open_whole,
)
from sendoff_server.gateway.store.readers import Readers, TooSlow
from sendoff_server.gateway.store.writer import Busy, DiskFailed, Writer
from sendoff_server.spool.reserve import Reserve

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
    "open_whole",
]


@dataclass(slots=True)
class Store:
    """An open store. ``writer.submit`` writes, ``await readers.read`` reads.

    ``keys`` reads, too, but only who is asking: whoever sends must not wait for slow questions of whoever looks.
    """

    folder: Path
    writer: Writer
    readers: Readers
    keys: Readers
    _lock: IO[str]

    def close(self) -> None:
        """Finish what waits to be written. Blocks."""
        # The last connection to close empties the write-ahead log into the file, which a reading one could not.
        self.readers.close()
        self.keys.close()
        self.writer.stop()
        self._lock.close()


def open_store(folder: Path) -> Store:
    """Open the store in ``folder`` for one gateway. Raises ``StoreError``, also when another gateway has it."""
    lock = _lock(folder)
    try:
        db = open_whole(folder)
    except BaseException:
        lock.close()
        raise
    writer = Writer(db, Reserve(folder / "reserve"))
    writer.start()
    return Store(folder, writer, Readers(folder), Readers(folder, threads=1), lock)


def _lock(folder: Path) -> IO[str]:
    """Only one gateway at a time: what it holds in memory must be true of the file."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (folder / "gateway.lock").open("a+")
    except OSError as error:
        raise StoreError(f"{folder} cannot be used ({error}); make it writable or set gateway.data_dir") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        owner = lock.read().strip() or "unknown"
        lock.close()
        remedy = "stop it or set gateway.data_dir"
        raise StoreError(f"{folder} is in use by another gateway (pid {owner}); {remedy}") from None
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock
