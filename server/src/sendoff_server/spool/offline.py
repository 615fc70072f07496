"""The spool's files without an agent: for who looks into it, or puts it in order, while none runs.

The lock is held meanwhile, so no agent can start. Unlike an agent's start this begins no new epoch, gives nothing up
and moves nothing aside: what is damaged is left for the agent to rescue, its write-ahead log included.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import apsw

from sendoff_server.spool.accounts import Tally
from sendoff_server.spool.database import connect
from sendoff_server.spool.errors import SpoolFailed
from sendoff_server.spool.layout import VERSION
from sendoff_server.spool.lock import Lock
from sendoff_server.spool.records import SpoolLimits
from sendoff_server.spool.usage import watch
from sendoff_server.spool.wal import commits
from sendoff_server.spool.writer import Transaction, plain, ran_ms

T = TypeVar("T")
START = "start the agent, which rescues what can be read"


class Files:
    """An open spool. Raises ``SpoolLocked`` when somebody else has it, ``SpoolFailed`` when it cannot be used."""

    def __init__(self, folder: Path) -> None:
        path = folder / "spool.db"
        if not path.is_file():
            raise SpoolFailed(f"there is no spool in {folder}: the agent makes one when it first starts")
        try:
            self._lock = Lock(folder / "spool.lock")
        except OSError as error:
            raise SpoolFailed(f"the spool in {folder} cannot be used: {error}") from error
        try:
            self._connection = _open(folder)
        except BaseException:
            self._lock.release()
            raise

    def look(self, work: Callable[[apsw.Connection], T]) -> T:
        """Read. Raises ``SpoolFailed``."""
        self._connection.pragma("query_only", True)
        try:
            return work(self._connection)
        except (apsw.Error, UnicodeDecodeError) as error:  # a text that is none
            raise SpoolFailed(plain(error)) from error

    def change(self, work: Callable[[Transaction], T]) -> T:
        """Change something, in one transaction that is synced when this returns. Raises ``SpoolFailed``."""
        connection = self._connection
        connection.pragma("query_only", False)
        try:
            with connection:
                now_ms = time.time_ns() // 1_000_000
                ran = ran_ms(connection)
                transaction = Transaction(connection, SpoolLimits(), False, frozenset(), ran, now_ms, Tally())
                answer = work(transaction)
                transaction.tally.write(connection)
            return answer
        except (apsw.Error, UnicodeDecodeError) as error:  # a text that is none
            raise SpoolFailed(plain(error)) from error

    def close(self) -> None:
        self._connection.close()
        self._lock.release()


def _open(folder: Path) -> apsw.Connection:
    logged = commits(folder / "spool.db-wal")
    connection = connect(folder / "spool.db")
    try:
        # Closing must not fold the log in: where it is damaged, it is the only proof of what is gone.
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.pragma("synchronous", "full")
        connection.pragma("cell_size_check", True)
        version = int(connection.pragma("user_version"))
        if version != VERSION:
            older = f"start the agent once, which brings it to layout {VERSION}"
            newer = f"use the version of Sendoff that wrote it (this one knows layout {VERSION})"
            raise SpoolFailed(f"the spool in {folder} has layout {version}: {older if version < VERSION else newer}")
        taken = int(connection.execute("PRAGMA wal_checkpoint(NOOP)").fetchall()[0][1] or 0)
        if len([number for number in logged if number > taken]) > 1:
            raise SpoolFailed(f"the write-ahead log of the spool in {folder} is damaged: {START}")
        watch(connection)
    except apsw.Error as error:
        connection.close()
        raise SpoolFailed(f"the spool in {folder} cannot be read ({error}): {START}") from error
    except BaseException:
        connection.close()
        raise
    return connection
