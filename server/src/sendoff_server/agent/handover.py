"""What one run of the agent leaves to the next in the same process, beside the spool: a value, and its bytes.

Sockets and connections with their half-read rests, the lock, which clients are there and which of their points may
still come. Everything else is on the disk by then, or is forgotten: rates, what `uptime` counts from, answers of
destinations that had not come (their batches are sent again under the same id).
"""

import logging

import msgspec

from sendoff_server.inputs import Inherited
from sendoff_server.inputs.kept import KeptConnection, KeptSocket
from sendoff_server.intake.clients import KeptClient
from sendoff_server.process import Handover
from sendoff_server.version import __version__

log = logging.getLogger(__name__)

VERSION = 1


class State(msgspec.Struct):
    """A later version that a run does not know makes it begin with new sockets, as after a restart."""

    version: int = VERSION
    code: str = __version__
    held_ms: int = 0
    """When reading stopped, monotonic ms."""
    lock: int | None = None
    spool: str = ""
    """The folder that the lock is of."""
    sockets: list[KeptSocket] = []
    connections: list[KeptConnection] = []
    clients: list[KeptClient] = []
    in_kernel: dict[str, int] = {}
    kernel_dropped_at: dict[str, float] = {}
    """When the kernel last dropped datagrams, by input, monotonic seconds: what is missing is charged later."""

    def inherited(self) -> Inherited:
        return Inherited(self.sockets, self.connections, going_on=True)


def pack(state: State) -> Handover:
    """The state with all its descriptors."""
    numbers = [each.descriptor for each in state.sockets] + [each.descriptor for each in state.connections]
    return Handover(msgspec.msgpack.encode(state), (*numbers, *([state.lock] if state.lock is not None else [])))


def unpack(handover: Handover | None) -> State | None:
    """What the run before left; None if there was none, or if it cannot be understood: then all of it is closed."""
    if handover is None:
        return None
    try:
        state = msgspec.msgpack.decode(handover.state, type=State)
        if state.version != VERSION:
            raise ValueError(f"it has version {state.version}, and this is {VERSION}")
    except (msgspec.MsgspecError, ValueError) as error:
        log.error("what the run before handed over is not understood (%s): beginning with new sockets", error)
        handover.close_but(())
        return None
    handover.close_but(pack(state).descriptors)
    return state
