"""Batches that a destination did not want, and how each is to be tried next. No I/O, no clock of its own.

A batch is here while it is to be sent *alone*, or set *aside* until the destination has accepted something else. From
then on it is *proven* that the batch is at fault (and so are the pieces it is split into).
"""

from collections.abc import Iterable, Sequence

from sendoff_server.spool import Sealed

REMEMBERED = 1_000
"""Roots of refused batches remembered as proven; an older one has to be proven again."""


class Suspects:
    """One output's."""

    def __init__(self) -> None:
        self._alone: set[str] = set()
        self._aside: dict[str, float] = {}
        self._times: dict[str, int] = {}
        self._roots: dict[str, bool] = {}
        """Refused roots, and whether they are proven to be at fault."""

    @property
    def count(self) -> int:
        """How many batches are not to be sent with others now."""
        return len(self._aside)

    def proven(self, batch: Sealed) -> bool:
        """Whether something else was accepted since this was first refused."""
        return self._roots.get(batch.root, False)

    def aside_beside(self, batch: Sealed) -> int:
        """How many others are aside."""
        return len(self._aside) - (batch.id in self._aside)

    def times(self, batch: Sealed) -> int:
        """How often it was set aside since anything was accepted."""
        return self._times.get(batch.id, 0)

    def send_alone(self, ids: Iterable[str]) -> None:
        self._alone.update(ids)

    def refused(self, batch: Sealed) -> None:
        """It was refused while alone."""
        self._roots.setdefault(batch.root, False)
        while len(self._roots) > REMEMBERED:
            del self._roots[next(iter(self._roots))]

    def set_aside(self, batch: Sealed, until_s: float) -> None:
        """Not to be tried again before, unless something else is accepted."""
        self.refused(batch)
        self._aside[batch.id] = until_s
        self._times[batch.id] = self.times(batch) + 1

    def accepted(self, batch: Sealed) -> None:
        """The destination took this one: whatever it refused before is at fault itself, and is tried again, alone."""
        self.settled(batch)
        self._roots = dict.fromkeys(self._roots, True)
        self._alone.update(self._aside)
        self._aside.clear()
        self._times.clear()

    def settled(self, batch: Sealed) -> None:
        """It is gone."""
        self._alone.discard(batch.id)
        self._aside.pop(batch.id, None)
        self._times.pop(batch.id, None)

    def forget(self) -> None:
        """Nothing is waiting at all."""
        self._alone.clear()
        self._aside.clear()
        self._times.clear()

    def choose(self, leased: Sequence[Sealed], most: int, now_s: float, *, parked: bool) -> list[Sealed]:
        """What to send next: one that must go alone goes alone, at its turn; those aside last, when it is time."""
        ready = [batch for batch in leased if batch.id not in self._aside]
        if not ready:
            due = [batch for batch in leased if parked or self._aside[batch.id] <= now_s]
            return sorted(due, key=lambda batch: self._aside[batch.id])[:1]
        if parked or ready[0].id in self._alone:
            return ready[:1]
        chosen: list[Sealed] = []
        for batch in ready[:most]:
            if batch.id in self._alone:
                break
            chosen.append(batch)
        return chosen

    def next_s(self, now_s: float) -> float:
        """Seconds until one that is aside is to be tried again; infinite if none is."""
        return max(0.05, min(self._aside.values(), default=float("inf")) - now_s)
