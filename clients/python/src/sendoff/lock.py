"""A lock that is tried, never waited for, and that no interruption can lose.

A signal handler may interrupt a thread anywhere, even between taking a lock and entering the `try` that gives it
back, and may raise there. So the right to enter is a key object in a deque: taking it is one atomic `pop`, and a key
that is thrown away with the frame that held it puts a new one in its place. Nothing here depends on `threading`, so
no monkey patching changes it either.
"""

from __future__ import annotations

import weakref
from collections import deque


class Key:
    """The right to be inside. It is returned by `TryLock.give_back`, or by its own end."""

    __slots__ = ("__weakref__", "_home")

    def __init__(self, home: deque[Key]) -> None:
        self._home = weakref.ref(home)

    def __del__(self) -> None:
        home = self._home()
        if home is not None:  # the lock lives on, but its key was lost on the way
            home.append(Key(home))


class TryLock:
    """At most one holder at a time; whoever comes second is told so at once."""

    __slots__ = ("_keys",)

    def __init__(self) -> None:
        self._keys: deque[Key] = deque()
        self._keys.append(Key(self._keys))

    def take(self) -> Key | None:
        """The key, or None if somebody else is inside (perhaps this very thread, below a signal handler)."""
        try:
            return self._keys.pop()
        except IndexError:
            return None

    def give_back(self, key: Key) -> None:
        """Let the next one in."""
        self._keys.append(key)

    def __repr__(self) -> str:
        return f"TryLock({'free' if self._keys else 'taken'})"
