"""How much came in lately: running totals, remembered for ten seconds."""

from collections import deque
from collections.abc import Callable, Mapping

SPAN = 10


class Rates:
    """Note totals once a second; ask what they grew by. `running` gives monotonic seconds."""

    def __init__(self, running: Callable[[], float]) -> None:
        self._running = running
        self._noted: deque[tuple[float, Mapping[str, int]]] = deque(maxlen=SPAN + 1)

    def note(self, totals: Mapping[str, int]) -> None:
        self._noted.append((self._running(), totals))

    def per_second(self, name: str) -> float:
        """Growth of one total over the span, per second; 0 as long as there is nothing to compare."""
        if len(self._noted) < 2:
            return 0.0
        (begun, first), (ended, last) = self._noted[0], self._noted[-1]
        return (last.get(name, 0) - first.get(name, 0)) / max(ended - begun, 0.001)
