"""Losses that cannot be counted. They are said as such, with a time and a reason, and never as a number."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import apsw
import msgspec

from sendoff_server.spool.sql import ask

KEPT = 100
"""How many are remembered; the oldest go."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Something is gone, and nobody can say how much. ``at``: Unix ms at which that was found; ``why``: a sentence;
    ``kept``: the folder of what was found damaged."""

    at: int
    why: str
    kept: str = ""


def unknown_losses(connection: apsw.Connection) -> list[Unknown]:
    """What is remembered, oldest first; nothing where the memory itself cannot be read."""
    rows = ask(connection, "get_meta", {"key": "unknown"})
    try:
        return msgspec.json.decode(rows[0][0], type=list[Unknown]) if rows else []
    except (msgspec.MsgspecError, TypeError):
        return []


def remember(connection: apsw.Connection, losses: Sequence[Unknown]) -> None:
    """Add to what is remembered, inside the caller's transaction."""
    if losses:
        every = [asdict(loss) for loss in [*unknown_losses(connection), *losses][-KEPT:]]
        ask(connection, "set_meta", {"key": "unknown", "value": msgspec.json.encode(every).decode()})
