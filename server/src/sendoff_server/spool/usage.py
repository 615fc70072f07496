"""How many bytes each class of data takes, in the connection that writes (``usage.sql``)."""

from dataclasses import dataclass
from typing import Literal

import apsw

from sendoff_server.spool.sql import ask, usage

Class = Literal["events", "metrics"]


@dataclass(frozen=True, slots=True)
class Used:
    """Bytes of disk by class, dead letters included, and how much of each is dead letters."""

    events: int
    metrics: int
    dead_events: int
    dead_metrics: int

    def of(self, name: Class) -> int:
        return self.events if name == "events" else self.metrics

    def dead(self, name: Class) -> int:
        return self.dead_events if name == "events" else self.dead_metrics


def watch(connection: apsw.Connection) -> None:
    """Begin to keep the totals that ``used`` reads, on the connection that writes."""
    connection.execute(usage())


def used(connection: apsw.Connection) -> Used:
    """What each class takes now, as of the transaction under way."""
    rows = {name: int(n) for name, n in ask(connection, "used")}
    dead_events, dead_metrics = rows["dead_events"], rows["dead_metrics"]
    return Used(rows["events"] + dead_events, rows["metrics"] + dead_metrics, dead_events, dead_metrics)
