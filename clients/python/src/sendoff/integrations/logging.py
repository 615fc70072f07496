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
        name = _text(record.name)
        if client is None or _inside.get() or name.split(".", 1)[0] == "sendoff":
            return
        token = _inside.set(True)
        try:
            message = _message(record)
            error = record.exc_info[1] if type(record.exc_info) is tuple else None
            if issubclass(type(error), BaseException):
                client.exception(error, tags={"logger": name}, fields={"message": message}, again=False)
                return
            place: dict[str, object] = {
                "file": _text(record.pathname),
                "line": record.lineno if type(record.lineno) is int else 0,
                "func": _text(record.funcName),
                "module": _text(record.module),
            }
            template = record.msg if type(record.msg) is str else type(record.msg).__name__
            client.log(template, message, name, place)
        finally:
            _inside.reset(token)


def _text(value: object) -> str:
    """A part of a record, which may have been made by anybody."""
    return value if type(value) is str else ""


def _message(record: logging.LogRecord) -> str:
    try:
        return str.__str__(record.getMessage())
    except Exception as error:
        if guard.from_signal_handler(error):
            raise
        return record.msg if type(record.msg) is str else f"<unprintable {type(record.msg).__name__}>"
