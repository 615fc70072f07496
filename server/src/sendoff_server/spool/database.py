"""Opens the spool's file: settings of SQLite with their reasons, and what happens to a file that is damaged."""

import logging
import shutil
from pathlib import Path
from time import gmtime, strftime

import apsw

from sendoff_server.spool.errors import SpoolFailed, SpoolTooNew
from sendoff_server.spool.sql import migration, schema
from sendoff_server.spool.wal import commits, lost_commits

log = logging.getLogger(__name__)

SCHEMA_VERSION = 2
OLDEST_SQLITE = 3_051_003
"""Before 3.51.3 a checkpoint in one connection while another commits could lose committed writes."""

_MAGIC = b"SQLite format 3\0"
_FILES = ("spool.db", "spool.db-wal", "spool.db-shm")


class _Damaged(Exception):
    """The file cannot be trusted."""


def check_library(version: int) -> None:
    """Raises ``SpoolFailed`` for an SQLite that has the fault above."""
    if version < OLDEST_SQLITE:
        raise SpoolFailed(
            f"SQLite {version // 1_000_000}.{version // 1000 % 1000}.{version % 1000} can lose committed writes; "
            "Sendoff needs 3.51.3 or later: reinstall apsw from its wheel"
        )


def open_database(folder: Path, now_ms: int, *, closed_well: bool = False) -> tuple[apsw.Connection, Path | None]:
    """The writing connection, and where a damaged file was moved to (None if there was none).

    ``closed_well``: this process closed it a moment ago, and need not look through all of it. Raises ``SpoolTooNew``,
    and ``SpoolFailed`` if the disk does not let a file be made.
    """
    check_library(_library())
    try:
        return _open_checked(folder, now_ms, closed_well=closed_well), None
    except _Damaged as damage:
        kept = _move_aside(folder, now_ms)
        log.error(
            "the spool was damaged (%s): it was moved to %s, and the agent starts with an empty one. "
            "What was waiting in it is not delivered",
            damage,
            kept,
        )
    except apsw.Error as error:
        raise SpoolFailed(f"the spool in {folder} cannot be opened: {error}") from error
    try:
        return _open_checked(folder, now_ms), kept
    except (_Damaged, apsw.Error) as error:
        raise SpoolFailed(f"a new spool in {folder} cannot be made: {error}") from error


def check_layout(folder: Path) -> None:
    """Raises ``SpoolTooNew`` for a spool that this version cannot read. Only looks, also while another has it open."""
    try:
        connection = apsw.Connection(str(folder / "spool.db"), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            connection.set_busy_timeout(5_000)
            version = connection.pragma("user_version")
        finally:
            connection.close()
    except apsw.Error:  # none is there, or it is ill: that is for who opens it to say
        return
    if version > SCHEMA_VERSION:
        raise SpoolTooNew(_too_new(folder, version))


def connect(path: Path) -> apsw.Connection:
    """A connection with Sendoff's settings."""
    connection = apsw.Connection(str(path))
    # Another process with the file open (a person with a shell) delays us; it does not fail us.
    connection.set_busy_timeout(5_000)
    # Rows of content and delivery go with their item.
    connection.pragma("foreign_keys", True)
    # Sorting and grouping a backlog must not need room on a full disk.
    connection.pragma("temp_store", "memory")
    return connection


def connect_reader(path: Path) -> apsw.Connection:
    """A connection that only reads, for its own thread."""
    connection = connect(path)
    # A mistake in a query for the books must not be able to change them.
    connection.pragma("query_only", True)
    return connection


def _library() -> int:
    parts = [int(part) for part in apsw.sqlite_lib_version().split(".")]
    return parts[0] * 1_000_000 + parts[1] * 1_000 + parts[2]


def _open_checked(folder: Path, now_ms: int, *, closed_well: bool = False) -> apsw.Connection:
    path = folder / "spool.db"
    _check_header(path)
    logged = commits(folder / "spool.db-wal")
    connection = connect(path)
    try:
        # Space freed by a drained backlog goes back to the disk, a little at a time. Only before the first table.
        connection.pragma("auto_vacuum", "incremental")
        # A commit appends to one file and syncs once, and readers do not hold it up. Fetched, or an error stays unseen.
        if connection.pragma("journal_mode", "wal") != "wal":
            raise _Damaged("it cannot be switched to write-ahead logging")
        # Every commit is synced before it returns: an acknowledgement means "on disk".
        connection.pragma("synchronous", "full")
        # The write-ahead log is cut back to this after a burst instead of keeping its greatest size for ever.
        connection.pragma("journal_size_limit", 16 * 1024 * 1024)
        # Cells are checked as they are read, so that damage shows as an error instead of as wrong data.
        connection.pragma("cell_size_check", True)
        answer = "ok" if closed_well else connection.pragma("quick_check", 1)
        if answer != "ok":
            raise _Damaged(str(answer))
        _check_log(connection, folder, logged, now_ms)
        _prepare(connection, folder)
    except (apsw.NotADBError, apsw.CorruptError) as error:
        connection.close()
        raise _Damaged(str(error)) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _check_header(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    except FileNotFoundError:
        return
    except OSError as error:
        raise SpoolFailed(f"the spool in {path.parent} cannot be read: {error}") from error
    if start and start != _MAGIC:
        raise _Damaged("it is not a database")


def _check_log(connection: apsw.Connection, folder: Path, logged: list[int], now_ms: int) -> None:
    """Say so when synced commits were passed over: what they acknowledged is gone, and nobody would ever know."""
    if lost := lost_commits(connection, logged):
        kept = _quarantine(folder, now_ms)
        shutil.copyfile(folder / "spool.db-wal", kept / "spool.db-wal")
        log.error(
            "the spool's write-ahead log is damaged: at least %d commits at its end are gone, with what they "
            "acknowledged. The log was copied to %s",
            lost,
            kept,
        )


def _prepare(connection: apsw.Connection, folder: Path) -> None:
    version = connection.pragma("user_version")
    if version == 0:
        with connection:
            connection.execute(schema())
            connection.pragma("user_version", SCHEMA_VERSION)
    elif version <= SCHEMA_VERSION:
        for step in range(version, SCHEMA_VERSION):
            with connection:
                connection.execute(migration(step))
                connection.pragma("user_version", step + 1)
    else:
        raise SpoolTooNew(_too_new(folder, version))


def _too_new(folder: Path, version: int) -> str:
    return (
        f"the spool in {folder} was written by a later version of Sendoff (layout {version}, this one knows "
        f"{SCHEMA_VERSION}): upgrade, or move the directory away"
    )


def _move_aside(folder: Path, now_ms: int) -> Path:
    kept = _quarantine(folder, now_ms)
    for file in _FILES:
        if (folder / file).exists():
            (folder / file).rename(kept / file)
    return kept


def _quarantine(folder: Path, now_ms: int) -> Path:
    """A new folder for what is set apart."""
    name = strftime("%Y%m%dT%H%M%SZ", gmtime(now_ms / 1000))
    kept = folder / "quarantine" / name
    number = 1
    while kept.exists():
        number += 1
        kept = folder / "quarantine" / f"{name}-{number}"
    kept.mkdir(parents=True)
    return kept
