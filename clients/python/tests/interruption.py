"""An exception as a signal handler raises it, at any line of the client that a test chooses."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from sendoff.sending.buffer import Waiting
from sendoff.sending.channel import Channel
from sendoff.tally import Tally

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sendoff.sending.contract import Stream

EVENTS = 6
"""Twice as many are delivered: in two requests over HTTP."""
SECONDS = 5.0


class Interrupted(BaseException):
    """What the handler raises."""


class Interruption:
    """Raises `Interrupted` at the line of `files` that is the `after`th to be reached, once."""

    def __init__(self, files: tuple[str, ...], after: int) -> None:
        self.files = files
        self.left = after
        self.where = ""

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.endswith(self.files):
            return None
        if event == "line":
            self.left -= 1
            if not self.left:
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                raise Interrupted
        return self._trace

    def run(self, work: Callable[[], None]) -> None:
        """`work`, which may be interrupted."""
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            work()
        except Interrupted:
            pass
        finally:
            sys.settrace(before)


def deliver(open_stream: Callable[[], Stream], interruption: Interruption, number: int) -> tuple[Channel, Tally]:
    """Events of a client of its own; gives up after SECONDS. Closes the connection."""
    tally = Tally()
    channel = Channel(
        open_stream,
        f"{number:032x}",
        {"service": "shop"},
        1,
        tally,
        random.random,
        longest_wait=0.01,
        patient=True,
        keeps_points=True,
    )
    waiting, end = Waiting(), time.monotonic() + SECONDS

    def turn() -> None:
        now = time.monotonic()
        channel.pump(now, 0, waiting, 100)
        channel.receive(now)

    def close() -> None:
        if channel.stream is not None:
            channel.stream.close()
            channel.stream = None

    for event in range(2 * EVENTS):
        payload = b'{"name":"e%d","fields":{"text":"%s"}}' % (event, random.randbytes(300).hex().encode())
        channel.add("event", f"{number:018x}{event:018x}", 1, payload, None)
        while event % EVENTS == EVENTS - 1 and channel.held.unfinished and time.monotonic() < end:
            interruption.run(turn)
            time.sleep(0.0002)
    interruption.run(close)
    close()
    return channel, tally
