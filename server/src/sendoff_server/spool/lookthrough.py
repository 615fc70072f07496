"""Looks through all of a great spool while it is used already: at its start only what takes no time was checked.

Damage that is found, then or by anybody who reads or writes, is noted in a file ``suspect`` beside the spool. The next
start sets the spool apart and rescues what can be read; until then everything that can be done with it goes on.
"""

import logging
import threading
from pathlib import Path

import apsw

from sendoff_server.spool import audit
from sendoff_server.spool.database import connect_reader
from sendoff_server.spool.quarantine import suspect
from sendoff_server.spool.writer import DAMAGE

log = logging.getLogger(__name__)


class LookThrough(threading.Thread):
    """One look through the spool in ``folder``, which ``stop`` ends early."""

    def __init__(self, folder: Path) -> None:
        super().__init__(name="sendoff-check", daemon=True)
        self._folder = folder
        self._connection = connect_reader(folder / "spool.db")
        self._stopped = False

    def run(self) -> None:
        try:
            fault = audit.structure(self._connection, whole=True) or audit.items(self._connection)
        except DAMAGE as error:
            fault = str(error)
        except apsw.Error as error:
            if not self._stopped:
                log.warning("the spool could not be looked through: %s", error)
            return
        if fault is not None:
            suspect(self._folder, fault)

    def stop(self) -> None:
        """Returns when the thread has ended."""
        self._stopped = True
        self._connection.interrupt()
        if self.ident is not None:
            self.join()
        self._connection.close()
