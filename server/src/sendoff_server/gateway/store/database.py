"""Opening the gateway's SQLite file: what must be true of it, and what to do when it is not.

One file, ``gateway.sqlite3``. WAL, so that readers never wait for the writer. ``sendoff gateway keys`` opens it beside
a running gateway; SQLite before 3.51.3 could lose committed writes in that shape, so older ones are refused.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from sendoff_server.gateway.store.sql import MIGRATE_1, SCHEMA
from sendoff_server.spool import wal

FILE = "gateway.sqlite3"
VERSION = 2
OLDEST_SQLITE = (3, 51, 3)
CHECKED_THROUGH = 134_217_728
"""Bytes of a file that is read through at start; about a second."""

_UNREACHABLE = (apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError, apsw.IOError, apsw.FullError)

MIGRATIONS: dict[int, Callable[[apsw.Connection], None]] = {1: lambda db: _run(db, MIGRATE_1)}
"""From version n to n + 1: run in one transaction when a file of version n is opened. Never removed, only added to."""


def _run(db: apsw.Connection, script: str) -> None:
    db.execute(script)


class StoreError(Exception):
    """The store cannot be opened. The message names the file, what is wrong with it, and the remedy."""


def require_sqlite(version: str) -> None:
    """Raises ``StoreError`` when SQLite is older than it may be."""
    if tuple(int(part) for part in version.split(".")[:3]) < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise StoreError(f"SQLite {version} can lose committed data; install apsw with SQLite {oldest} or newer")


def open_for_writing(folder: Path) -> apsw.Connection:
    """Open the store in ``folder``, make or migrate it if need be. Raises ``StoreError``."""
    require_sqlite(apsw.sqlite_lib_version())
    path = folder / FILE
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        db = apsw.Connection(str(path))
        _prepare(db)
        _migrate(db, path)
        return db
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise _damaged(path, error) from error
    except (*_UNREACHABLE, OSError) as error:
        raise StoreError(
            f"{path} cannot be opened ({error}). Make the folder writable for this user, free space on its disk, or "
            f"set gateway.data_dir to another folder"
        ) from error


def open_whole(folder: Path) -> apsw.Connection:
    """As ``open_for_writing``, for the gateway itself: also looks for damage that SQLite passes over in silence.

    A bad frame in the write-ahead log hides every commit after it. That is said once, with a copy of the log kept, and
    never taken for an orderly end. A small file is checked through; of a large one that would take too long.
    """
    path = folder / FILE
    log = folder / f"{FILE}-wal"
    before = wal.commits(log)
    db = open_for_writing(folder)
    try:
        lost = wal.lost_commits(db, before)
        if lost:
            kept = _keep(log)
            raise StoreError(
                f"{log} is damaged: {lost} commits behind the damage cannot be read. A copy is kept as {kept}. "
                f"Restore {path} from a backup, or start again to go on without them"
            )
        if path.stat().st_size <= CHECKED_THROUGH:
            fault = str(db.pragma("quick_check", 1))
            if fault != "ok":
                raise apsw.CorruptError(fault)
    except apsw.CorruptError as error:
        db.close()
        raise _damaged(path, error) from error
    except StoreError:
        db.close()
        raise
    return db


def open_for_reading(folder: Path) -> apsw.Connection:
    """A connection that cannot write, to a store that was opened for writing before."""
    db = apsw.Connection(str(folder / FILE), flags=apsw.SQLITE_OPEN_READONLY)
    db.set_busy_timeout(5_000)
    # Read-only connections may be handed other people's texts; nothing in the schema needs functions with side effects.
    db.pragma("trusted_schema", 0)
    db.pragma("cache_size", -16_384)
    return db


def _damaged(path: Path, error: Exception) -> StoreError:
    return StoreError(
        f"{path} is damaged ({error}). Nothing was changed. Restore it from a backup, or move it and the files "
        f"beside it ({FILE}-wal, {FILE}-shm) aside to begin anew; sqlite3's .recover reads what is left in it"
    )


def _keep(log: Path) -> Path:
    """Copy a damaged log before closing the store takes it away."""
    number = 1
    while (kept := log.with_name(f"{log.name}.damaged-{number}")).exists():
        number += 1
    shutil.copyfile(log, kept)
    return kept


def _prepare(db: apsw.Connection) -> None:
    # The keys commands write from another process: wait for them instead of failing.
    db.set_busy_timeout(5_000)
    # Must come before the first table. Deleting old data then gives its pages back to the disk.
    if not db.pragma("user_version"):
        db.pragma("auto_vacuum", 2)
    db.pragma("journal_mode", "wal")
    # An answer of 200 promises that the data is on the disk: every commit is synced.
    db.pragma("synchronous", 2)
    # A burst may grow the WAL; without this it would keep that size for ever.
    db.pragma("journal_size_limit", 67_108_864)
    db.pragma("cache_size", -32_768)
    db.pragma("trusted_schema", 0)


@contextmanager
def transaction(db: apsw.Connection) -> Iterator[None]:
    """A transaction that writes, begun as a writer so that it cannot lose its place to another process.

    Not apsw's `with db:`, which keeps the interpreter's lock while it waits: if a thread of this process held the
    write lock, neither would get on until the time-out.
    """
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _migrate(db: apsw.Connection, path: Path) -> None:
    if db.pragma("user_version") == VERSION:
        return  # and needs no lock
    with transaction(db):
        # Another process may have made the file in the meantime, so look inside the transaction.
        version = int(str(db.pragma("user_version")))
        if version == 0:
            db.execute(SCHEMA)
        elif version > VERSION:
            raise StoreError(f"{path} is of a newer sendoff (version {version}, this one knows {VERSION}); upgrade")
        else:
            for step in range(version, VERSION):
                MIGRATIONS[step](db)
        if version != VERSION:
            db.pragma("user_version", VERSION)
