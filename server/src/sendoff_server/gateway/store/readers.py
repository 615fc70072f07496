"""Reading: a few threads, each with its own read-only connection, and a time limit on every query."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import apsw

from sendoff_server.gateway.store.database import open_for_reading

P = ParamSpec("P")
T = TypeVar("T")


class TooSlow(Exception):
    """A query took longer than the limit (seconds in ``limit``)."""

    def __init__(self, limit: float) -> None:
        super().__init__(f"the query took longer than {limit:g} s")
        self.limit = limit


class Readers:
    def __init__(self, folder: Path, *, threads: int = 3, limit: float = 10.0) -> None:
        self._folder = folder
        self._limit = limit
        self._local = threading.local()
        self._open: list[apsw.Connection] = []
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="gateway-reader")

    async def read(self, query: Callable[Concatenate[apsw.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``query(db, …)`` in one read transaction, so that all it sees is of one moment. Raises ``TooSlow``."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: self._run(query, *args, **kwargs))

    def close(self) -> None:
        self._pool.shutdown()
        for db in self._open:
            db.close()

    def _run(self, query: Callable[Concatenate[apsw.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        db = self._connection()
        end = time.monotonic() + self._limit
        db.set_progress_handler(lambda: time.monotonic() > end, 10_000)
        try:
            with db:
                found = query(db, *args, **kwargs)
        except apsw.InterruptError:
            raise TooSlow(self._limit) from None
        return found

    def _connection(self) -> apsw.Connection:
        db: apsw.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = self._local.db = open_for_reading(self._folder)
            self._open.append(db)
        return db
