"""Modules that the client's thread loads late, while the application may fork.

A child would find a module half loaded, by a thread that it does not have: it could never load it, nor could the
application, which may wait for that for ever. So it is with the authorities of the system, which OpenSSL reads under
locks of its own. A fork waits until such a thing is done, some milliseconds. What it
touches: `os.register_at_fork`, once, when `init` is called first.
"""

from __future__ import annotations

import codecs
import os

from sendoff.sending.worker import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

LONGEST = 2.0
"""Seconds that a fork waits at most, and that loading waits for a fork."""

_loaded: set[str] = set()
_lock = native("_thread", "allocate_lock")()
_held = False
"""Whether it is who forks that holds it."""


def alone(work: Callable[[], T]) -> T:
    """`work`, while nobody forks."""
    mine = _lock
    got = mine.acquire(timeout=LONGEST)
    try:
        return work()
    finally:
        if got:
            mine.release()


def module(name: str) -> None:
    """See to it that a module of the standard library is there, for an `import`. Raises `ImportError`."""
    if name not in _loaded:
        alone(lambda: __import__(name))
        _loaded.add(name)


def names() -> None:
    """What Python loads by itself when a host's name is looked up, or is compared with that in a certificate."""
    if "idna" not in _loaded:
        alone(lambda: codecs.lookup("idna"))
        _loaded.add("idna")


def _before_fork() -> None:
    global _held, _lock
    _held = _lock.acquire(timeout=LONGEST)
    if not _held:  # whoever has it for so long may never let go of it
        _lock = native("_thread", "allocate_lock")()


def _after_fork() -> None:
    global _held
    if _held:
        _held = False
        _lock.release()


def _after_fork_in_child() -> None:
    global _lock, _held
    _lock, _held = native("_thread", "allocate_lock")(), False


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
