"""The sockets: read fairly, bounded, to the end; what they carry is handed to one `Intake`."""

from sendoff_server.inputs.activated import assign
from sendoff_server.inputs.contract import InputError, Intake, Link, Session
from sendoff_server.inputs.datagram import DatagramInput
from sendoff_server.inputs.inherited import Inherited
from sendoff_server.inputs.open import Input, give_up, go_on, open_inputs
from sendoff_server.inputs.stream import StreamInput

__all__ = [
    "DatagramInput",
    "Inherited",
    "Input",
    "InputError",
    "Intake",
    "Link",
    "Session",
    "StreamInput",
    "assign",
    "give_up",
    "go_on",
    "open_inputs",
]
