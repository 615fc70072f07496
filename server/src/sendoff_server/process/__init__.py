"""What every long-lived command shares: signals, exit codes, logging, the word to systemd."""

from sendoff_server.process.activation import activated
from sendoff_server.process.handover import Handover, received
from sendoff_server.process.renewal import Refused, Renewable, Renewal
from sendoff_server.process.serve import CUT_SHORT, ENDED, FAILED, FORCED, SETTINGS, Part, Watched, serve

__all__ = [
    "CUT_SHORT",
    "ENDED",
    "FAILED",
    "FORCED",
    "SETTINGS",
    "Handover",
    "Part",
    "Refused",
    "Renewable",
    "Renewal",
    "Watched",
    "activated",
    "received",
    "serve",
]
