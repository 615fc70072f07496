"""Storms of one exception: those beyond a limit in a minute are only counted, and one of them goes out for all.

Pure state: `now` is monotonic seconds. A minute begins with the first exception of its kind (source, service,
environment, fingerprint). Its first `limit` exceptions are kept one by one. Those beyond are *folded*: they name the
same `Fold`, the first of them brings its line, the others are not even written out, so a storm costs the disk nothing.

A fold may only be taken off the disk when nothing that names it is still on its way there, or the rest would find no
line to stand for it. So a fold whose minute is over waits until the committer has stored all that it had been given.
"""

from collections import deque
from collections.abc import Sequence

MINUTE_S = 60.0
MOST_KINDS = 10_000
"""Kinds of exception that are counted at a time. When there are more, the minute that began first ends early."""

Kind = tuple[str, str, str, str]
"""Source, service, environment, fingerprint."""


class Fold:
    """What the exceptions beyond a minute's limit are counted under. ``has_line``: the one for all was given."""

    __slots__ = ("has_line", "key")

    def __init__(self, key: str) -> None:
        self.key = key
        self.has_line = False

    def __repr__(self) -> str:
        return f"<Fold {self.key}{'' if self.has_line else ', no line yet'}>"


class _Minute:
    __slots__ = ("began", "fold", "n")

    def __init__(self, began: float) -> None:
        self.began = began
        self.n = 0
        self.fold: Fold | None = None


class Storms:
    """Says of each exception whether it is one too many. `limit` 0: none is. `run` tells this run's folds apart."""

    def __init__(self, limit: int, run: int, most: int = MOST_KINDS) -> None:
        self._limit = limit
        self._run = run
        self._most = most
        self._minutes: dict[Kind, _Minute] = {}  # in the order in which they began
        self._numbers = 0
        self._over: deque[tuple[str, int | None]] = deque()  # a fold's key, and what must be stored before it may go

    def __repr__(self) -> str:
        return f"<Storms {len(self._minutes)} kinds, {len(self._over)} folds to take off>"

    def count(self, kind: Kind, now: float) -> Fold | None:
        """Count one exception: None if it is kept by itself, else the fold it belongs to."""
        if not self._limit:
            return None
        minute = self._minutes.get(kind)
        if minute is None or now - minute.began >= MINUTE_S:
            minute = self._begin(kind, now)
        minute.n += 1
        if minute.n <= self._limit:
            return None
        if minute.fold is None:
            self._numbers += 1
            minute.fold = Fold(f"{self._run}-{self._numbers}")
        return minute.fold

    def over(self, now: float, given: int, stored: int) -> list[str]:
        """Keys of folds that may be taken off the disk now.

        `given`: how many entries the committer had been given so far, `stored`: how many of them it has stored.
        """
        while self._minutes:
            kind, minute = next(iter(self._minutes.items()))
            if now - minute.began < MINUTE_S:
                break
            self._end(kind)
        self._over = deque((key, given if mark is None else mark) for key, mark in self._over)
        found = []
        while self._over and (mark := self._over[0][1]) is not None and mark <= stored:
            found.append(self._over.popleft()[0])
        return found

    def again(self, keys: Sequence[str]) -> None:
        """They could not be taken off: they come again with the next `over`."""
        self._over.extendleft((key, 0) for key in reversed(keys))

    def _begin(self, kind: Kind, now: float) -> _Minute:
        if kind in self._minutes:
            self._end(kind)
        elif len(self._minutes) >= self._most:
            self._end(next(iter(self._minutes)))
        minute = self._minutes[kind] = _Minute(now)
        return minute

    def _end(self, kind: Kind) -> None:
        fold = self._minutes.pop(kind).fold
        if fold is not None and fold.has_line:
            self._over.append((fold.key, None))
