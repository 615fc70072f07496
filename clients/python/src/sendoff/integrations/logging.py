"""A logging handler: records of level ERROR and above become exceptions.

May:     render the record's message, as any handler does.
May not: change the record, keep it, or hold up other handlers: nothing is awaited or locked for longer than an append.
         log, or report what Sendoff itself logged: no recursion.
         report an exception that was reported already, by a middleware for example.
         raise: a message that cannot be rendered is sent as its template.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar

from sendoff import current, guard

_inside: ContextVar[bool] = ContextVar("sendoff.logging", default=False)


class SendoffHandler(logging.Handler):
    """`logging.getLogger().addHandler(SendoffHandler())`. `level` is the lowest that is sent."""

    def __init__(self, level: int = logging.ERROR) -> None:
        super().__init__(level)

    def createLock(self) -> None:
        """No lock: `emit` is safe from any thread, and a signal handler that logs must not wait for itself."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record: its exception if it has one, else a `log` exception whose group is the logger and the
        template.
        """
        client = current.client
        if client is None or _inside.get() or record.name.split(".", 1)[0] == "sendoff":
            return
        token = _inside.set(True)
        try:
            error = record.exc_info[1] if record.exc_info else None
            message = _message(record)
            if error is not None:
                client.exception(error, tags={"logger": record.name}, fields={"message": message}, again=False)
                return
            place: dict[str, object] = {
                "file": record.pathname,
                "line": record.lineno,
                "func": record.funcName or "",
                "module": record.module,
            }
            template = record.msg if type(record.msg) is str else type(record.msg).__name__
            client.log(template, message, record.name, place)
        finally:
            _inside.reset(token)


def _message(record: logging.LogRecord) -> str:
    try:
        return str.__str__(record.getMessage())
    except Exception as error:
        if guard.from_signal_handler(error):
            raise
        return record.msg if type(record.msg) is str else f"<unprintable {type(record.msg).__name__}>"
