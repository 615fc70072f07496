"""Where the spool is: where the settings say, or, if a run that goes on cannot have that, where it was; and control."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from sendoff_server.agent.handover import State
from sendoff_server.inputs import InputError
from sendoff_server.inputs.sockets import default_unix_path
from sendoff_server.settings import SpoolSettings
from sendoff_server.spool import ClassLimit, Spool, SpoolError, SpoolLimits

log = logging.getLogger(__name__)


def open_there(folder: Path, before: State | None, open_in: Callable[[Path, int | None], Spool]) -> Spool:
    """The spool in `folder`. `open_in` opens one, with a lock that was kept if that is of it. Raises SpoolError.

    A folder that cannot be had is no reason for a run that goes on to end: it is said, and it goes on in the old one.
    """
    if before is None or before.lock is None or not before.spool or Path(before.spool) == folder:
        return open_in(folder, before.lock if before else None)
    try:
        made = open_in(folder, None)
    except SpoolError as error:
        log.error("agent.data_dir: %s; it goes on in %s. Correct it and reload", error, before.spool)
        return open_in(Path(before.spool), before.lock)
    os.close(before.lock)
    log.warning("the spool is in %s now; what waits in %s stays there until agent.data_dir leads there again",
                folder, before.spool)  # fmt: skip
    return made


def limits_of(spool: SpoolSettings) -> SpoolLimits:
    """What may wait in it."""
    events, metrics = spool.events, spool.metrics
    return SpoolLimits(
        ClassLimit(events.limit, events.age, events.when_full),
        ClassLimit(metrics.limit, metrics.age, metrics.when_full),
        spool.receipts,
    )


def control_path(listens: str | None, configured: Path | Literal[False] | None) -> Path | None:
    """Where the control socket is: beside the Unix input's socket, or where that would be."""
    try:
        beside = listens or configured or default_unix_path(os.environ, os.getuid())
    except InputError as error:
        log.warning("no control socket: %s", error)
        return None
    return Path(beside).with_name("control.sock")
