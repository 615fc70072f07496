"""At the start: bring the rows in line with the outputs that are configured now."""

import logging
from collections.abc import Sequence

import apsw
import msgspec

from sendoff_server.spool import receipts
from sendoff_server.spool.accounts import Tally
from sendoff_server.spool.items import EVENTS
from sendoff_server.spool.records import UNASSIGNED, OutputSpec
from sendoff_server.spool.sql import ask

log = logging.getLogger(__name__)


def reconcile(connection: apsw.Connection, outputs: Sequence[OutputSpec], now_ms: int) -> None:
    """Hand what is unassigned to the outputs there are now, and give up what waits for one that is gone.

    While no output at all is configured nothing is given up: a settings file not found is likelier than a wish.
    """
    if not outputs:
        return
    tally = Tally()
    with connection:
        configured = {output.name for output in outputs}
        for (name,) in ask(connection, "outputs_with_rows"):
            if name == UNASSIGNED:
                _assign(connection, tally, outputs)
                receipts.hand_over(connection, UNASSIGNED, outputs, now_ms)
            elif name not in configured:
                _give_up(connection, tally, name)
                receipts.lose_output(connection, name, "output_removed", now_ms)
        ask(connection, "drop_orphans")
        tally.write(connection)


def _contents(connection: apsw.Connection, output: str) -> list[tuple[bool, str, int]]:
    rows = ask(connection, "contents_of_output", {"output": output})
    return [(kind == EVENTS, source, n) for kind, source, n in rows]


def _assign(connection: apsw.Connection, tally: Tally, outputs: Sequence[OutputSpec]) -> None:
    """What was kept while there was no output counts as received for those there are, and for them only."""
    for is_events, source, n in _contents(connection, UNASSIGNED):
        if is_events:
            tally.events(source, UNASSIGNED, "received", -n)
        else:
            tally.points_out(UNASSIGNED, "journaled", -n)
        for output in outputs:
            if is_events:
                tally.events(source, output.name, "received", n)
                tally.events(source, output.name, "not_routed", 0 if output.events else n)
            else:
                tally.points_out(output.name, "journaled", n)
                tally.points_out(output.name, "not_routed", 0 if output.metrics else n)
    for output in outputs:
        kinds = [0] * output.events + [1, 2] * output.metrics
        values = {"heir": output.name, "output": UNASSIGNED, "kinds": msgspec.json.encode(kinds).decode()}
        ask(connection, "hand_over", values)
    ask(connection, "drop_output", {"output": UNASSIGNED})


def _give_up(connection: apsw.Connection, tally: Tally, output: str) -> None:
    for is_events, source, n in _contents(connection, output):
        log.error("%d %s waited for the removed output %s and are lost", n, "events" if is_events else "points", output)
        if is_events:
            tally.events(source, output, "lost", n, "output_removed")
        else:
            tally.points_out(output, "lost", n, "output_removed")
    ask(connection, "drop_output", {"output": output})
