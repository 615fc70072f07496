"""libzmq in a process that is not ours: when it may be used at all, and the one context.

libzmq ends the process where it cannot get what it needs when a context starts (two threads, some descriptors), so
that is tried beforehand. A context is never terminated: that would wait for its threads, which may be looking a name
up. It ends with the process. What a fork brings into a child is left alone there, as its threads did not come along.
"""

from __future__ import annotations

import os
from collections import deque

from sendoff.sending.contract import Gone
from sendoff.sending.worker import native
from sendoff.settings import SettingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import zmq

DESCRIPTORS = 24
"""Descriptors that must be free before libzmq is asked for anything: a context takes 8, a connection 5."""
INSTALL = "pip install 'sendoff[zmq]'"

_contexts: dict[int, zmq.Context[Any]] = {}
"""The context of each process, by its id: in a child after a fork, its parent's as well."""


def require(curve: bool) -> None:
    """Raises `SettingError` where pyzmq is missing, or cannot do `curve`."""
    try:
        import zmq
    except (ImportError, OSError) as error:
        raise SettingError(
            f"sendoff.init: address asks for ZeroMQ, and pyzmq cannot be imported ({type(error).__name__}). "
            f"Install it: {INSTALL}"
        ) from None
    if curve and not zmq.has("curve"):
        raise SettingError(
            f"sendoff.init: address asks for zmq+curve, and the libzmq that pyzmq {zmq.__version__} was built with "
            f"cannot encrypt. Install the wheel: {INSTALL} --force-reinstall --only-binary pyzmq"
        )


def context() -> zmq.Context[Any]:
    """This process's context, made when it is first asked for. Raises `Gone` where the system gives no more threads or
    descriptors.
    """
    _try_descriptors()
    pid = os.getpid()
    found = _contexts.get(pid)
    if found is None:
        _try_threads()
        found = _contexts[pid] = _new_context()
    return found


def _new_context() -> zmq.Context[Any]:
    import zmq

    class Socket(zmq.Socket[bytes]):
        """Closed without a warning and without lingering when it is merely forgotten; pyzmq does nothing of the kind
        to a socket that another process made.
        """

        def __del__(self) -> None:
            self.close(0)

    class Context(zmq.Context[Socket]):
        """Never terminated."""

        _socket_class = Socket

        def __del__(self) -> None:
            pass

    made = Context()  # one thread for input and output: it is enough for 79,000 messages of 1 KB a second
    made.set(zmq.BLOCKY, 0)  # should anything terminate it after all, that waits for no unsent message
    return made


def _try_descriptors() -> None:
    """Raises `Gone` unless DESCRIPTORS are free. All are opened, and all are closed, in one call each, so that an
    exception from a signal handler cannot come in between and leave some open.
    """
    taken: list[int] = []
    opening = map(os.open, (os.devnull,) * DESCRIPTORS, (os.O_RDONLY | os.O_CLOEXEC,) * DESCRIPTORS)
    closing = map(os.close, taken)
    try:
        taken += opening
    except OSError as error:
        raise Gone(f"no descriptors left: {error.strerror}") from error
    finally:
        deque(closing, maxlen=0)


def _try_threads() -> None:
    """Raises `Gone` unless two threads can be started at the same time."""
    start, gate = native("_thread", "start_new_thread"), native("_thread", "allocate_lock")()
    gate.acquire()
    try:
        start(_pass, (gate,))
        start(_pass, (gate,))
    except RuntimeError as error:
        raise Gone("no threads left for ZeroMQ") from error
    finally:
        gate.release()


def _pass(gate: Any) -> None:
    with gate:
        return
