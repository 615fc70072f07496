"""Opens the spool's file: settings of SQLite with their reasons, and what happens to a file that is damaged."""

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from sendoff_server.spool import audit, layout, quarantine
from sendoff_server.spool.errors import SpoolFailed
from sendoff_server.spool.records import OutputSpec
from sendoff_server.spool.rescue import rescue
from sendoff_server.spool.unknown import Unknown, remember
from sendoff_server.spool.wal import passed_over

log = logging.getLogger(__name__)

OLDEST_SQLITE = 3_051_003
"""Before 3.51.3 a checkpoint in one connection while another commits could lose committed writes."""

WHOLE_CHECK_BYTES = 64 * 1024 * 1024
"""A spool up to this is checked in every page before it is used: a tenth of a second. A greater one later, beside."""

PAGE_BYTES = 4_096

_MAGIC = b"SQLite format 3\0"
_DISK = (
    apsw.FullError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
    apsw.PermissionsError,
    apsw.BusyError,
    apsw.LockedError,
    apsw.NoMemError,
)
"""What says something of the disk, and nothing of the file."""
_BAD_SECTOR = (
    apsw.SQLITE_IOERR_READ,
    apsw.SQLITE_IOERR_SHORT_READ,
    apsw.SQLITE_IOERR_CORRUPTFS,
    apsw.SQLITE_IOERR_DATA,
)


class Damaged(Exception):
    """The file cannot be trusted."""


@dataclass(slots=True)
class Opened:
    """The connection that writes, where a damaged file was moved to (None if there was none), and whether every page
    has been checked."""

    connection: apsw.Connection
    quarantined: Path | None = None
    checked: bool = True


@dataclass(slots=True)
class _Start:
    """What opening needs to know, and what it finds out."""

    folder: Path
    outputs: Sequence[OutputSpec]
    now_ms: int
    closed_well: bool
    losses: list[Unknown] = field(default_factory=list)


def check_library(version: int) -> None:
    """Raises ``SpoolFailed`` for an SQLite that has the fault above."""
    if version < OLDEST_SQLITE:
        raise SpoolFailed(
            f"SQLite {version // 1_000_000}.{version // 1000 % 1000}.{version % 1000} can lose committed writes; "
            "Sendoff needs 3.51.3 or later: reinstall apsw from its wheel"
        )


def open_database(folder: Path, outputs: Sequence[OutputSpec], now_ms: int, *, closed_well: bool = False) -> Opened:
    """Open the spool, make it, or set a damaged one apart and go on with what can be read of it.

    ``closed_well``: this process closed it a moment ago, and need not look through all of it. Raises ``SpoolTooNew``,
    and ``SpoolFailed`` if the disk does not let a file be read or made.
    """
    check_library(_library())
    start = _Start(folder, outputs, now_ms, closed_well)
    try:
        kept, why = quarantine.unfinished(folder) or (None, quarantine.suspicion(folder))
        if kept is None and not why:
            try:
                return _open_checked(start)
            except Damaged as damage:
                why = str(damage)
        kept = kept or quarantine.set_apart(folder, why, now_ms)
        _replace(start, kept, why)
        opened = _open_checked(start)
    except (Damaged, apsw.Error, OSError) as error:
        raise SpoolFailed(f"the spool in {folder} cannot be opened: {error}") from error
    opened.quarantined = kept
    return opened


def connect(path: Path) -> apsw.Connection:
    """A connection with Sendoff's settings."""
    connection = apsw.Connection(str(path))
    # Another process with the file open (a person with a shell) delays us; it does not fail us.
    connection.set_busy_timeout(5_000)
    # Rows of content and delivery go with their item.
    connection.pragma("foreign_keys", True)
    # Sorting and grouping a backlog must not need room on a full disk.
    connection.pragma("temp_store", "memory")
    # Cells are checked as they are read, so that damage shows as an error instead of as wrong data.
    connection.pragma("cell_size_check", True)
    return connection


def connect_reader(path: Path) -> apsw.Connection:
    """A connection that only reads, for its own thread."""
    connection = connect(path)
    # A mistake in a query for the books must not be able to change them.
    connection.pragma("query_only", True)
    return connection


def let_go(connection: apsw.Connection) -> None:
    """Close it, whatever the disk says: nothing that counts is written by that."""
    try:
        connection.close()
    except apsw.Error as error:
        log.warning("the spool could not be closed in order: %s", error)


def _library() -> int:
    parts = [int(part) for part in apsw.sqlite_lib_version().split(".")]
    return parts[0] * 1_000_000 + parts[1] * 1_000 + parts[2]


def _open_checked(start: _Start) -> Opened:
    path = start.folder / "spool.db"
    if not path.exists():
        _make_new(start)
    whole = path.stat().st_size <= WHOLE_CHECK_BYTES
    _check_header(path)
    connection = connect(path)
    try:
        # A commit appends to one file and syncs once, and readers do not hold it up. Fetched, or an error stays unseen.
        if connection.pragma("journal_mode", "wal") != "wal":
            raise Damaged("it cannot be switched to write-ahead logging")
        # Every commit is synced before it returns: an acknowledgement means "on disk".
        connection.pragma("synchronous", "full")
        # The write-ahead log is cut back to this after a burst instead of keeping its greatest size for ever.
        connection.pragma("journal_size_limit", 16 * 1024 * 1024)
        _look_behind_the_log(connection, start)
        fault = None if start.closed_well else audit.structure(connection, whole=whole)
        if fault is None:
            layout.bring_forward(connection)
            fault = audit.books(connection, start.now_ms) if layout.is_whole(connection) else "its schema is damaged"
        if fault is None and whole and not start.closed_well:
            fault = audit.items(connection)
        if fault is not None:
            raise Damaged(fault)
        if start.losses:
            with connection:
                remember(connection, start.losses)
            start.losses.clear()
    except (apsw.Error, UnicodeDecodeError) as error:
        let_go(connection)
        if isinstance(error, apsw.Error) and _of_the_disk(error):
            raise
        raise Damaged(str(error)) from error
    except BaseException:
        let_go(connection)
        raise
    return Opened(connection, checked=whole or start.closed_well)


def _of_the_disk(error: apsw.Error) -> bool:
    """Whether an error says something of the disk rather than of the file."""
    if isinstance(error, apsw.IOError):
        return getattr(error, "extendedresult", 0) not in _BAD_SECTOR
    return isinstance(error, _DISK)


def _check_header(path: Path) -> None:
    """SQLite would take an empty file for a new one, and delete the log beside it. We never leave one empty."""
    with path.open("rb") as file:
        start = file.read(100)
    if start[:16] != _MAGIC:
        raise Damaged("it is not a database" if start else "its file is empty")
    if len(start) < 100 or start[18:24] not in (b"\x01\x01\0\x40\x20\x20", b"\x02\x02\0\x40\x20\x20"):
        raise Damaged("its header is damaged")


def _look_behind_the_log(connection: apsw.Connection, start: _Start) -> None:
    """Say so when synced commits were passed over: what they acknowledged is gone, and nobody would ever know."""
    connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # SQLite reads its log with the first question
    taken = connection.execute("PRAGMA wal_checkpoint(NOOP)").fetchall()[0][1]
    words = passed_over(start.folder / "spool.db-wal", max(int(taken or 0), 0))
    if words is None:
        return
    kept = ""
    try:
        folder = quarantine.new_folder(start.folder, start.now_ms)
        shutil.copyfile(start.folder / "spool.db-wal", folder / "spool.db-wal")
        kept = str(folder)
    except OSError as error:
        log.warning("the damaged write-ahead log could not be kept: %s", error)
    log.error("the spool's write-ahead log is damaged: %s. It was copied to %s", words, kept or "nowhere")
    start.losses.append(Unknown(start.now_ms, f"the spool's write-ahead log was damaged: {words}", kept))
    quarantine.bound(start.folder)


def _make_new(start: _Start) -> None:
    """An empty spool. It gets its name when it is whole: an empty file is always one that was damaged."""
    if (start.folder / "spool.db-wal").exists() and (start.folder / "spool.db-wal").stat().st_size:
        raise Damaged("its file is gone, and only its log is there")
    new = start.folder / "spool.new"
    new.unlink(missing_ok=True)
    connection = connect(new)
    try:
        connection.pragma("page_size", PAGE_BYTES)
        # Space freed by a drained backlog goes back to the disk, a little at a time. Only before the first table.
        connection.pragma("auto_vacuum", "incremental")
        connection.pragma("journal_mode", "off")
        with connection:
            layout.make(connection)
    except BaseException:
        connection.close()
        new.unlink(missing_ok=True)
        raise
    connection.close()
    _name(start.folder)


def _name(folder: Path) -> None:
    """The new file, synced, becomes the spool."""
    new = folder / "spool.new"
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.rename(folder / "spool.db")
    quarantine.sync_folder(folder)


def _replace(start: _Start, kept: Path, why: str) -> None:
    """A new spool in place of a damaged one: with what can be read of it or, if that fails, empty. Either is said."""
    folder = start.folder
    try:
        rescued = rescue(kept, folder / "spool.new", start.outputs, start.now_ms, why)
        _name(folder)
        log.error("the spool was damaged (%s): it was moved to %s. %s", why, kept, rescued)
    except Exception as error:
        words = f"the spool was damaged ({why}), and nothing of it could be taken over ({error})"
        log.exception("%s: it was moved to %s, and the agent starts with an empty one", words, kept)
        start.losses.append(Unknown(start.now_ms, words, str(kept)))
        (folder / "spool.new").unlink(missing_ok=True)
        if not (folder / "spool.db").exists():
            _make_new(start)
    quarantine.finished(kept)
    quarantine.bound(folder)
