"""Modules that the client's thread loads late, while the application may fork.

A child would find a module half loaded, by a thread that it does not have: it could never load it, nor could the
application, which may wait for that for ever. So it is with the authorities of the system, which OpenSSL reads under
locks of its own. A fork waits until such a thing is done, some milliseconds; else this costs it a microsecond. What it
touches: `os.register_at_fork`, once, when `init` is called first.
"""

from __future__ import annotations

import codecs
import os

from sendoff.sending.worker import native

LONGEST = 2.0
"""Seconds that a fork waits at most."""

lock = native("_thread", "allocate_lock")()
"""Held while a module is loaded, and while somebody forks."""
_held = False
"""Whether it is who forks that holds it."""


def load_names() -> None:
    """What Python loads by itself when a host's name is looked up, or is compared with that in a certificate."""
    with lock:
        codecs.lookup("idna")


def _before_fork() -> None:
    global _held
    _held = lock.acquire(timeout=LONGEST)


def _after_fork() -> None:
    global _held
    if _held:
        _held = False
        lock.release()


def _after_fork_in_child() -> None:
    global lock, _held
    lock, _held = native("_thread", "allocate_lock")(), False


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
