"""A thread that only reads: a long merge, or a look at the books, holds up neither commits nor each other."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import apsw

from sendoff_server.spool.database import connect_reader
from sendoff_server.spool.errors import SpoolFailed
from sendoff_server.spool.quarantine import suspect
from sendoff_server.spool.writer import DAMAGE, plain

T = TypeVar("T")


class Reading:
    """A thread with a connection that only reads."""

    def __init__(self, path: Path, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._connection = connect_reader(path)

    async def run(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run work in the thread. Raises ``SpoolFailed`` when the disk does not give back what is asked."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, self._connection)
        except DAMAGE as error:
            suspect(Path(self._connection.filename).parent, str(error))
            raise SpoolFailed(plain(error)) from error
        except apsw.Error as error:
            raise SpoolFailed(plain(error)) from error

    def close(self) -> None:
        self._pool.shutdown(wait=True)
        self._connection.close()


def look_once(path: Path, work: Callable[[apsw.Connection], T]) -> T:
    """Read by a connection of its own. Raises ``SpoolFailed``."""
    try:
        connection = connect_reader(path)
        try:
            return work(connection)
        finally:
            connection.close()
    except DAMAGE as error:
        suspect(path.parent, str(error))
        raise SpoolFailed(plain(error)) from error
    except apsw.Error as error:
        raise SpoolFailed(plain(error)) from error
