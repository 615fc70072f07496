"""What the lines of a batch count for in the books, and where the batch came from."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from sendoff_server.spool.folding import weight
from sendoff_server.spool.items import EVENTS, unseal
from sendoff_server.spool.leasing import points_of


@dataclass(frozen=True, slots=True)
class Origin:
    """What the pieces of a batch have from it: its windows, and the running time when its data came in."""

    epoch: int
    window: int
    first: int
    born: int


@dataclass(frozen=True, slots=True)
class Kept:
    """What a batch's row says of it, beside its lines."""

    kind: int
    sources: str
    origin: Origin


Share = Callable[[Iterable[int]], dict[str, int]]
"""Line numbers to what they hold: events by source (with those that a line stands for), or points under ''."""


def sharer(kind: int, lines: int, n: int, sources: str, blob: bytes) -> Share:
    """How to count lines of a batch. All lines of a snapshot together are what its row says, without decoding it."""

    named = by_line(sources) if kind == EVENTS else []
    weights = [weight(line) for line in unseal(blob)[1]] if kind == EVENTS and n != lines else [1] * lines

    def events(numbers: Iterable[int]) -> dict[str, int]:
        found: Counter[str] = Counter()
        for number in numbers:
            found[named[number - 1]] += weights[number - 1]
        return found

    def points(numbers: Iterable[int]) -> dict[str, int]:
        wanted = list(numbers)
        if len(wanted) in (0, lines):
            return {"": n if wanted else 0}
        decoded = unseal(blob)[1]
        return {"": sum(points_of(decoded[number - 1]) for number in wanted)}

    return events if kind == EVENTS else points


def by_line(sources: str) -> list[str]:
    runs = msgspec.json.decode(sources, type=list[tuple[str, int]])
    return [source for source, n in runs for _ in range(n)]
