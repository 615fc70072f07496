"""The receipt of one event: where it is, and waiting for it to be on the agent's disk (without one, the gateway's).

A receipt is held by the frame that it belongs to, which is bounded, and by whoever asked for it; nobody has to wait.
Whoever holds the client's lock settles it, once; from then on it never changes.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from collections.abc import Generator

    from sendoff.sending.outbox import Outbox

PENDING, SPOOLED, REFUSED, DROPPED, UNKNOWN = "pending", "spooled", "refused", "dropped", "unknown"
FIRST_PAUSE = 0.0005
LONGEST_PAUSE = 0.02
"""Seconds between two looks of a thread that waits."""
LOOK_AGAIN = 0.5
"""Seconds after which a coroutine looks by itself; it is woken before, unless the client's thread does not run."""


class Receipt:
    """Where one event is. `id` is the event's id, None if it was dropped before it got one."""

    __slots__ = ("_fate", "_outbox", "_waiters", "id")

    def __init__(self) -> None:
        self.id: str | None = None
        self._fate = (PENDING, "")
        self._outbox: Outbox | None = None
        self._waiters: list[tuple[AbstractEventLoop, Future[None]]] | None = None

    @property
    def state(self) -> str:
        """`pending`; `spooled` (on the agent's disk); `refused` by the agent; `dropped` by the client; `unknown`: the
        receipt is another process's, or the client closed, before the agent had answered.
        """
        return self._now()[0]

    @property
    def reason(self) -> str:
        """Why it was refused or dropped, or is unknown (`forked`, `closed`, or `kept` in the spool for the next
        process); empty otherwise.
        """
        return self._now()[1]

    def wait(self, timeout: float = 2.0) -> bool:
        """Wait until the event is on the agent's disk, at most `timeout` seconds. False if it is not: see `state`.

        Waits in short sleeps, so greenlets go on, and does the sending itself where the client's thread does not run.
        """
        deadline = time.monotonic() + _seconds(timeout)
        pause = FIRST_PAUSE
        while self._look(drive=True):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(pause, left))
            pause = min(pause * 2, LONGEST_PAUSE)
        return self.state == SPOOLED

    async def spooled(self, timeout: float = 2.0) -> bool:  # noqa: ASYNC109 - an answer in time, no exception
        """The same for asyncio, without holding up the loop. `await receipt` is `await receipt.spooled()`."""
        if self.state == PENDING:
            from asyncio import get_running_loop, wait

            loop = get_running_loop()
            deadline = loop.time() + _seconds(timeout)
            waiter = loop, loop.create_future()
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)
            try:
                while self._look(drive=False) and (left := deadline - loop.time()) > 0:
                    await wait([waiter[1]], timeout=min(left, LOOK_AGAIN))
            finally:
                with suppress(ValueError):
                    self._waiters.remove(waiter)
                waiter[1].cancel()
        return self.state == SPOOLED

    def __await__(self) -> Generator[object, None, bool]:
        return self.spooled().__await__()

    def __copy__(self) -> Receipt:
        return self  # only the one that its frame knows is ever settled

    def __deepcopy__(self, memo: object) -> Receipt:
        return self

    def __reduce__(self) -> tuple[object, tuple[str | None, str, str]]:
        state, reason = self._now()
        return _elsewhere, (self.id, *((UNKNOWN, "forked") if state == PENDING else (state, reason)))

    def _now(self) -> tuple[str, str]:
        fate, outbox = self._fate, self._outbox
        if fate[0] == PENDING and outbox is not None and outbox.pid != os.getpid():
            return UNKNOWN, "forked"  # it was the parent's to send, and is the parent's to know
        return fate

    def _look(self, *, drive: bool) -> bool:
        """Whether there is still something to wait for. With `drive`, or where no thread does it: write what is to be
        written, and take what the agent has said.
        """
        outbox = self._outbox
        if outbox is None or self.state != PENDING:
            return False
        if drive or not outbox.thread_runs:
            outbox.confirm()
        return self.state == PENDING

    def settle(self, state: str, reason: str = "") -> None:
        """Not for the application. For the holder of the client's lock; only the first call counts."""
        if self._fate[0] != PENDING:
            return
        self._fate = (state, reason)
        self._outbox = None
        for loop, future in list(self._waiters or ()):
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_wake, future)

    def belongs_to(self, outbox: Outbox, event_id: str) -> None:
        """Not for the application. From here on `outbox` sends the event."""
        self.id = event_id
        self._outbox = outbox

    def __repr__(self) -> str:
        state, reason = self._now()
        return f"Receipt(id={self.id}, {state}{f': {reason}' if reason else ''})"


def dropped(reason: str) -> Receipt:
    """The receipt of an event that was dropped at once."""
    receipt = Receipt()
    receipt.settle(DROPPED, reason)
    return receipt


def _elsewhere(event_id: str | None, state: str, reason: str) -> Receipt:
    """What is left of a receipt that was pickled: the client that would settle it is not there."""
    receipt = Receipt()
    receipt.id = event_id
    receipt.settle(state, reason)
    return receipt


def _seconds(timeout: object) -> float:
    """What is no number of seconds is none: nobody waits for ever, and nothing is raised."""
    return timeout if isinstance(timeout, (int, float)) and timeout == timeout else 0.0  # not NaN


def _wake(future: Future[None]) -> None:
    if not future.done():
        future.set_result(None)
