"""Beginning and end: what `init` sets up once per process, and what happens when the interpreter ends."""

from __future__ import annotations

import atexit
import os

from sendoff import current, guard
from sendoff.client import Client, after_fork_in_child
from sendoff.integrations import excepthooks
from sendoff.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

REPLACED_LINGER = 0.5
"""Seconds that a second `init` may wait for what the first client still holds."""

_registered = False


def begin(given: Mapping[str, object]) -> None:
    """Replace the client of this process. Raises `SettingError`, and then leaves everything as it was."""
    global _registered
    settings = Settings(given, os.environ)
    guard.debug = settings.debug
    if not _registered:
        os.register_at_fork(after_in_child=after_fork_in_child)
        atexit.register(_at_exit)
        _registered = True
    before = current.client
    current.client = Client(settings) if settings.enabled else None
    if before is not None:
        before.close(min(settings.linger, REPLACED_LINGER))
    if settings.enabled and settings.excepthooks:
        excepthooks.install()
    else:
        excepthooks.uninstall()


def _at_exit() -> None:
    client = current.client
    if client is not None:
        client.close(None)
