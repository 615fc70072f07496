"""Exceptions that an asyncio event loop reports: those of tasks nobody awaited, of callbacks, of transports.

May:     look at the exception in the loop's report and send a copy.
May not: change whether or how it is reported: the handler that was there before, or the loop's default, is always
called.
         hold up the loop: one encode and one non-blocking write.
         report an exception twice, or cancellations at all.
         raise: an error of its own is counted and forgotten.
"""

from __future__ import annotations

from sendoff import current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from typing import Any

    Handler = Any


def install(loop: AbstractEventLoop | None = None) -> None:
    """Put our handler before the loop's own; by default of the running loop. Raises `RuntimeError` if there is none."""
    import asyncio

    loop = loop or asyncio.get_running_loop()
    before = loop.get_exception_handler()
    if isinstance(before, _Reporter):
        return
    loop.set_exception_handler(_Reporter(before))


class _Reporter:
    """Reports, then hands on."""

    def __init__(self, before: Handler) -> None:
        self._before = before

    def __call__(self, loop: AbstractEventLoop, report: dict[str, Any]) -> None:
        error = report.get("exception")
        client = current.client
        if client is not None and isinstance(error, Exception):
            client.exception(error, fields={"message": str(report.get("message", ""))[:500]}, again=False)
        if self._before is not None:
            self._before(loop, report)
        else:
            loop.default_exception_handler(report)
