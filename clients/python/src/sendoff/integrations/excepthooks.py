"""Uncaught exceptions of the process and of its threads. Installed by `sendoff.init`.

May:     look at the exception and send a copy.
May not: change whether or how it is printed: the hook that was there before is always called, with the same arguments.
         keep the exception, its frames or the thread alive after the call.
         report an exception twice, or `SystemExit` and `KeyboardInterrupt` at all.
         raise: an error of its own is counted and forgotten.
"""

from __future__ import annotations

import sys

from sendoff import current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

_before: Callable[[type[BaseException], BaseException, TracebackType | None], Any] | None = None
_threads_before: Callable[[Any], Any] | None = None
_on = False
"""Whether to report: somebody's hook on top of ours can keep ours in place after `uninstall`."""


def install() -> None:
    """Put our hooks before those that are there. Harmless when they are in place already."""
    global _before, _threads_before, _on
    import threading

    _on = True

    if _before is None:
        _before = sys.excepthook
        sys.excepthook = _hook
    if _threads_before is None:
        _threads_before = threading.excepthook
        threading.excepthook = _thread_hook


def uninstall() -> None:
    """Put back what was there, unless somebody else has put theirs on top: then ours stays and hands on."""
    global _before, _threads_before, _on
    _on = False
    threading: Any = sys.modules.get("threading")
    if _before is not None and sys.excepthook is _hook:
        sys.excepthook, _before = _before, None
    if threading is not None and _threads_before is not None and threading.excepthook is _thread_hook:
        threading.excepthook, _threads_before = _threads_before, None


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _report(error)
    before = _before or sys.__excepthook__
    before(kind, error, trace)


def _thread_hook(args: Any) -> None:
    if args.exc_value is not None:
        _report(args.exc_value)
    if _threads_before is not None:
        _threads_before(args)


def _report(error: BaseException) -> None:
    client = current.client
    if _on and client is not None and not issubclass(type(error), (KeyboardInterrupt, SystemExit, GeneratorExit)):
        client.exception(error, again=False)
