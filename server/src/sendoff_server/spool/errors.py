"""What can go wrong with the spool, by who can do something about it.

SpoolError
├── SpoolLocked    another agent runs on this directory: stop it, or use another data_dir
├── SpoolFull      the configured limit is reached: nothing was stored; senders hold what they have
├── SpoolFailed    the disk refused: nothing was stored; the spool goes on and works again when the disk does
├── SpoolTooNew    a later version of Sendoff wrote it: upgrade, or move it away
└── SpoolClosed    asked after close(): a mistake of the program
"""


class SpoolError(Exception):
    """Something is wrong with the spool."""


class SpoolLocked(SpoolError):
    """Another process holds the spool. ``pid`` is its process id, or None where it could not be read."""

    def __init__(self, path: str, pid: int | None) -> None:
        who = f"process {pid}" if pid is not None else "another process"
        super().__init__(
            f"the spool in {path} is in use by {who}. Stop that agent first, or give this one its own agent.data_dir"
        )
        self.pid = pid


class SpoolFull(SpoolError):
    """The spool has reached ``spool.events.limit``. Nothing was stored, nothing may be acknowledged."""


class SpoolFailed(SpoolError):
    """The disk refused a read or a commit. Nothing was stored, nothing may be acknowledged; trying again is right."""


class SpoolTooNew(SpoolError):
    """A later version wrote this spool. It is left as it is."""


class SpoolClosed(SpoolError):
    """The spool was closed before."""
