"""A lock that is tried, never waited for, and that an exception raised by a signal handler cannot lose.

A signal handler may interrupt a thread between any two steps, and may raise there: also between taking a lock and the
`try` that would give it back, and inside the `finally` that does. So who is inside is a matter of record: a slot that
names the holder, filled by one atomic `setdefault`, cleared only by whoever it names, and cleared twice, as the first
time may be what is interrupted. Nothing here depends on `threading`, so no monkey patching changes it either.
"""

from __future__ import annotations

from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class TryLock:
    """At most one holder at a time; whoever comes second is told so at once."""

    __slots__ = ("_slot",)

    def __init__(self) -> None:
        self._slot: dict[int, list[int]] = {}

    def run(self, work: Callable[..., object], *args: object) -> bool:
        """Call `work(*args)` as the only holder and return True; False if somebody is inside, perhaps this very
        thread.
        """
        me = [get_ident()]  # known by its identity; the number is for `mine`
        slot = self._slot
        try:
            try:
                if slot.setdefault(0, me) is not me:
                    return False
                work(*args)
                return True
            finally:
                if slot.get(0) is me:
                    slot.pop(0, None)
        finally:
            if slot.get(0) is me:
                slot.pop(0, None)

    @property
    def holder(self) -> object:
        """Who is inside, known by its identity: another one each time. None: nobody."""
        return self._slot.get(0)

    @property
    def mine(self) -> bool:
        """Whether this very thread is inside: a signal handler has interrupted it there."""
        holder = self._slot.get(0)
        return holder is not None and holder[0] == get_ident()

    def __repr__(self) -> str:
        return f"TryLock({'taken' if self._slot else 'free'})"
