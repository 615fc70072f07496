"""Batches that a destination did not take, and how each is to be tried next. No I/O, no clock of its own.

Two kinds, since they rest on different evidence:
- *refused* (400, 413, 422): sent alone, or set *aside* until the destination has accepted something else. From then on
  it is *proven* that the batch is at fault (and so are the pieces it is split into).
- *failing* (5xx, no answer, nonsense) while it was alone: tried again, then the others have their *turn*. Once one of
  them is accepted the batch is to *blame*, and is *shelved*, with a growing wait of its own, until it is taken.

Only what was begun after a batch had failed says anything about it: requests are numbered in the order they begin.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from sendoff_server.spool import Sealed

REMEMBERED = 1_000
"""Roots of refused batches, and batches that failed, remembered; an older one has to fail again."""
PROVEN = -1


@dataclass(slots=True)
class _Aside:
    item: int
    made_ms: int
    until_s: float


@dataclass(slots=True)
class _Failing:
    item: int
    made_ms: int
    since: int
    """The number of the last request begun when it failed first."""
    failures: int = 0
    turned: bool = False
    """Others are to be tried before it."""
    blamed: bool = False
    shelved: bool = False
    until_s: float = 0.0
    """On the shelf until then, if it is to blame; else when it failed last."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One way to lease: what to leave out, and whether to send no more than one batch of the rest."""

    without: frozenset[int]
    single: bool = False


class Suspects:
    """One output's."""

    def __init__(self) -> None:
        self._alone: set[str] = set()
        self._aside: dict[str, _Aside] = {}
        self._times: dict[str, int] = {}
        self._roots: dict[str, int] = {}
        """Refused roots: the last request begun when they were refused first, or ``PROVEN``."""
        self._failing: dict[str, _Failing] = {}
        self._again = False
        """While parked: whether the next probe is one that was refused before."""

    @property
    def aside(self) -> int:
        """How many refused batches wait for something else to be accepted."""
        return len(self._aside)

    @property
    def shelved(self) -> int:
        """How many batches the destination fails on while it takes others."""
        return sum(one.shelved for one in self._failing.values())

    @property
    def turning(self) -> bool:
        """Whether one failed so often that others are being tried before it."""
        return any(one.turned for one in self._failing.values())

    @property
    def oldest_ms(self) -> int | None:
        """When the oldest of those held back was made, Unix ms."""
        made = [one.made_ms for held in (self._aside, self._failing) for one in held.values()]
        return min(made, default=None)

    def proven(self, batch: Sealed) -> bool:
        """Whether something else was accepted since this was first refused."""
        return self._roots.get(batch.root, 0) == PROVEN

    def blamed(self, batch: Sealed) -> bool:
        """Whether something else was accepted since this failed first."""
        return batch.id in self._failing and self._failing[batch.id].blamed

    def failures(self, batch: Sealed) -> int:
        """How often it failed while it was alone."""
        return self._failing[batch.id].failures if batch.id in self._failing else 0

    def aside_beside(self, batch: Sealed) -> int:
        """How many others are aside."""
        return len(self._aside) - (batch.id in self._aside)

    def times(self, batch: Sealed) -> int:
        """How often it was set aside since anything was accepted."""
        return self._times.get(batch.id, 0)

    def send_alone(self, ids: Iterable[str]) -> None:
        self._alone.update(ids)

    def refused(self, batch: Sealed, begun: int) -> None:
        """It was refused while alone. ``begun``: how many requests have been begun so far."""
        self._roots.setdefault(batch.root, begun)
        while len(self._roots) > REMEMBERED:
            del self._roots[next(iter(self._roots))]

    def set_aside(self, batch: Sealed, begun: int, until_s: float) -> None:
        """Not to be tried again before, unless something else is accepted."""
        self.refused(batch, begun)
        self._aside[batch.id] = _Aside(batch.item, batch.made_ms, until_s)
        self._times[batch.id] = self.times(batch) + 1

    def failed(self, batch: Sealed, begun: int, now_s: float, *, turn: bool = False) -> None:
        """It failed while alone. ``turn``: others are to be tried first from now on."""
        failing = self._failing.setdefault(batch.id, _Failing(batch.item, batch.made_ms, begun))
        failing.failures += 1
        failing.turned |= turn
        failing.until_s = now_s
        while len(self._failing) > REMEMBERED:
            del self._failing[next(iter(self._failing))]

    def shelve(self, batch: Sealed, begun: int, until_s: float) -> bool:
        """It failed once more though others are taken: not to be tried again before. Whether this is the first time."""
        self.failed(batch, begun, until_s)
        failing = self._failing[batch.id]
        first, failing.shelved = not failing.shelved, True
        return first

    def accepted(self, batch: Sealed, number: int) -> None:
        """Request ``number`` brought this one in: whatever had failed before it was begun is at fault itself.

        What was refused or failed without proof is tried again at once, alone.
        """
        self.settled(batch)
        for root, since in self._roots.items():
            if since < number:
                self._roots[root] = PROVEN
        self._alone.update(self._aside)
        self._aside.clear()
        self._times.clear()
        for failing in self._failing.values():
            if failing.since < number:
                failing.blamed, failing.turned = True, False

    def settled(self, batch: Sealed) -> None:
        """It is gone."""
        self._alone.discard(batch.id)
        self._aside.pop(batch.id, None)
        self._times.pop(batch.id, None)
        self._failing.pop(batch.id, None)

    def passes(self, now_s: float, busy: Collection[int], *, parked: bool) -> list[Pass]:
        """What to lease: first of those that nothing is held against; if there are none, the one held back longest.

        While parked that one has every second turn: it may be a single line, and each of the others may hold a bad one.
        ``busy``: items under way. Of those to blame one is tried at a time, so that they hold up one lane at most.
        """
        blamed = [one for one in self._failing.values() if one.blamed]
        busy_with_one = any(one.item in busy for one in blamed)
        shelf = {one.item for one in blamed if busy_with_one or one.until_s > now_s}
        turned = [one for one in self._failing.values() if one.turned]
        back = {one.item for held in (self._aside.values(), turned) for one in held}
        if not back:
            return [Pass(frozenset(shelf))]
        free: list[_Aside | _Failing] = [one for one in self._aside.values() if parked or one.until_s <= now_s]
        free = [one for one in (*free, *turned) if one.item not in busy]
        next_one = {min(free, key=lambda one: one.until_s).item} if free else set()
        held_back = Pass(frozenset(shelf | back - next_one), single=True)
        self._again = parked and not self._again
        if parked and not self._again:
            return [held_back]
        return [Pass(frozenset(shelf | back)), held_back]

    def nothing_left(self, last: Pass, busy: Collection[int]) -> None:
        """The last pass brought nothing: what it asked for and is not under way is not in the spool any more."""
        for held in (self._aside, self._failing):
            for name in [name for name, one in held.items() if one.item not in last.without and one.item not in busy]:
                del held[name]
                self._times.pop(name, None)
        if not self._aside and not self._failing and not busy:
            self._alone.clear()

    def group(
        self, leased: Sequence[Sealed], size: int, most_bytes: int, weigh: Callable[[Sealed], int]
    ) -> list[list[Sealed]]:
        """Requests, in order: one that must go alone goes alone, the others up to ``size`` and ``most_bytes``.

        Of those to blame only the first is taken.
        """
        requests: list[list[Sealed]] = []
        room, blamed, open_ended = 0, False, False
        for batch in leased:
            if self.blamed(batch):
                if blamed:
                    continue
                blamed = True
            alone = batch.id in self._alone or batch.id in self._failing
            room -= weigh(batch)
            if alone or not open_ended or len(requests[-1]) == size or room < 0:
                requests.append([])
                room = most_bytes - weigh(batch)
            requests[-1].append(batch)
            open_ended = not alone
        return requests

    def next_s(self, now_s: float) -> float:
        """Seconds until one that is held back is to be tried again; infinite if none is."""
        times = [one.until_s for one in self._aside.values()]
        times += [one.until_s for one in self._failing.values() if one.blamed]
        return max(0.05, min(times, default=float("inf")) - now_s)
