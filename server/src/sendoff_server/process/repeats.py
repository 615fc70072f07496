"""Keeping a log readable when one thing goes wrong a thousand times a second: repeats are held back and counted."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Key = tuple[str, int, str]


@dataclass(slots=True)
class _Seen:
    since: float
    shown: int = 1
    held: int = 0


def text_of(record: logging.LogRecord) -> str:
    """The message with its arguments. A fault of theirs is told in it: nobody may fail because he logs."""
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001 - an argument's own code may raise anything
        return f"{record.msg} (its arguments do not fit: {error!r})"


class Repeats(logging.Filter):
    """Lets ``burst`` records of one kind through in ``window_s`` seconds and counts the others.

    One kind is one logger, level and message before its arguments are put in. The count is told with the next record of
    the kind after the window, or by `overdue` when none comes.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        burst: int = 5,
        window_s: float = 10.0,
        most_kinds: int = 500,
    ) -> None:
        super().__init__()
        self._clock = clock
        self._burst = burst
        self._window_s = window_s
        self._most_kinds = most_kinds
        self._lock = threading.Lock()
        self._seen: dict[Key, _Seen] = {}
        self._owed: list[tuple[Key, int]] = []

    def filter(self, record: logging.LogRecord) -> bool:
        key = (record.name, record.levelno, str(record.msg))
        now = self._clock()
        with self._lock:
            seen = self._seen.get(key)
            if seen is not None and now - seen.since < self._window_s:
                if seen.shown >= self._burst:
                    seen.held += 1
                    return False
                seen.shown += 1
                return True
            self._begin(key, now)
        if seen is not None and seen.held:
            record.msg, record.args = f"{text_of(record)} (and {seen.held} more like it before)", None
        return True

    def overdue(self, *, everything: bool = False) -> Iterator[logging.LogRecord]:
        """What was held back in windows that are over, as records to be written."""
        now = self._clock()
        with self._lock:
            for key, seen in list(self._seen.items()):
                if everything or now - seen.since >= self._window_s:
                    self._forget(key)
            owed, self._owed = self._owed, []
        for (name, level, message), held in owed:
            text = f"{held} more like this were not shown: {message}"
            yield logging.LogRecord(name, level, __file__, 0, text, None, None)

    def _begin(self, key: Key, now: float) -> None:
        self._seen.pop(key, None)
        if len(self._seen) >= self._most_kinds:
            self._forget(next(iter(self._seen)))
        self._seen[key] = _Seen(now)

    def _forget(self, key: Key) -> None:
        seen = self._seen.pop(key)
        if seen.held:
            self._owed.append((key, seen.held))
