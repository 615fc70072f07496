"""How long calls took, on the thread that made them, and how much of that was the machine's doing.

Where more threads want to run than there are cores, a call also waits for its turn, and so does the thread that holds
the interpreter's lock. The kernel says how long the threads of a process were ready to run and did not (schedstat,
second figure): what is left after that is the call's own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.oracle.book import Pen

NOTED_S = 0.02
"""Calls that took longer are written down, each."""


def starved() -> float:
    """Seconds that the threads of this process, all together, were ready and not run."""
    total = 0
    for task in os.listdir("/proc/self/task"):
        with suppress(OSError, IndexError), open(f"/proc/self/task/{task}/schedstat", "rb") as found:
            total += int(found.read().split()[1])
    return total / 1e9


class Calls:
    """Makes calls and remembers the longest. What a call was held up is measured since `begin`, which is generous."""

    def __init__(self, pen: Pen) -> None:
        self.pen = pen
        self.longest = 0.0
        self.number = 0
        self._starved = starved()

    def begin(self) -> None:
        """Some calls follow, one after the other."""
        self._starved = starved()

    def made(self, call: Callable[..., Any], *args: Any, limit: float = 0.0, **named: Any) -> Any:
        """What the call returns. `limit`: seconds that it was allowed to wait for."""
        began = time.monotonic()
        result = call(*args, **named)
        took = time.monotonic() - began
        self.number += 1
        self.longest = max(self.longest, took - limit)
        if took - limit > NOTED_S:
            held_up = starved() - self._starved
            self.pen.write(op="slow", call=call.__name__, began=began, took=took, limit=limit, starved=held_up)
        return result
