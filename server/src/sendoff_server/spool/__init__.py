"""The durable store of what is not delivered yet."""

from sendoff_server.spool.errors import SpoolClosed, SpoolError, SpoolFailed, SpoolFull, SpoolLocked, SpoolTooNew
from sendoff_server.spool.layout import check_layout
from sendoff_server.spool.records import (
    UNASSIGNED,
    ClassLimit,
    ClientState,
    Dead,
    Delivered,
    EventIn,
    OutputSpec,
    Refusal,
    RefusedLine,
    Sealed,
    Settlement,
    Split,
    SpoolLimits,
)
from sendoff_server.spool.spool import Spool

__all__ = [
    "UNASSIGNED",
    "ClassLimit",
    "ClientState",
    "Dead",
    "Delivered",
    "EventIn",
    "OutputSpec",
    "Refusal",
    "RefusedLine",
    "Sealed",
    "Settlement",
    "Split",
    "Spool",
    "SpoolClosed",
    "SpoolError",
    "SpoolFailed",
    "SpoolFull",
    "SpoolLimits",
    "SpoolLocked",
    "SpoolTooNew",
    "check_layout",
]
