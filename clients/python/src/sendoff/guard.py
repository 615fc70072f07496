"""Which errors are ours to keep from the application, and which only passed by.

Nothing of ours may raise into the application. But a signal handler of the application can interrupt our code and
raise through it (a job's time limit is made that way), and swallowing that would be far worse than any error of ours.
"""

from __future__ import annotations

import sys
from types import CodeType, FunctionType, MethodType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sendoff.tally import Tally


debug = False
"""Whether errors of ours are printed; the setting of that name."""


def keep(error: Exception, tally: Tally | None) -> None:
    """Count an error of ours; raise it on if a signal handler of the application raised it."""
    if from_signal_handler(error):
        raise error
    if tally is not None:
        tally.one("internal_error")
    if debug:
        from traceback import print_exception

        print_exception(error)


def from_signal_handler(error: BaseException) -> bool:
    """Whether a handler that the application registered with `signal` is among the frames that raised `error`."""
    signal = sys.modules.get("_signal")
    trace = error.__traceback__
    if signal is None or trace is None:
        return False
    handlers = set()
    for number in signal.valid_signals():
        code = _code(signal.getsignal(number))
        if code is not None:
            handlers.add(code)
    while trace is not None and handlers:
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def _code(handler: object) -> CodeType | None:
    if type(handler) is MethodType:
        handler = handler.__func__
    if type(handler) is not FunctionType and not callable(handler):
        return None
    if type(handler) is not FunctionType:
        handler = vars(type(handler)).get("__call__")
    return handler.__code__ if type(handler) is FunctionType else None
