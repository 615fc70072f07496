"""Receipts: what became of each event whose sender asked for one, by output; kept and moved with the rows.

A receipt is written in the transaction that stores its event, and says where the event stands from then on. While it
waits, its standing names the item that it waits in, so that whoever settles or moves an item finds those it concerns by
an index. Where nobody asks for receipts that index is empty, and a look into it is all that they cost.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import apsw
import msgspec

from sendoff_server.spool.records import EventIn, OutputSpec, Refusal
from sendoff_server.spool.sql import ask, tell

PRUNE_EVERY_MS = 60_000
PRUNE_ROWS = 2_000
"""Receipts that one look takes out at most: a commit must not be held up by them."""
DETAIL = 300
"""Characters of a destination's words that are kept."""


class _Named(msgspec.Struct):
    id: str = ""


def keep(
    connection: apsw.Connection,
    events: Iterable[EventIn],
    item: int | None,
    outputs: Sequence[OutputSpec],
    now_ms: int,
    ran_ms: int,
) -> None:
    """Receipts for those of these events that want one. One that came before keeps its first receipt.

    ``item``: where they wait for the outputs that want events; None if there is none.
    """
    for event in events:
        if not event.confirm:
            continue
        row = {"event": event.id, "client": event.client, "at": now_ms, "born": ran_ms, "refused": ""}
        if ask(connection, "add_receipt", row):
            standing = [
                (event.id, output.name, *((item, "pending") if output.events else (None, "not_routed")), now_ms, "")
                for output in outputs
            ]
            tell(connection, "add_standing", standing)


def refuse(connection: apsw.Connection, refusals: Iterable[Refusal], now_ms: int, ran_ms: int) -> None:
    """Receipts for events that the agent did not take."""
    for refusal in refusals:
        row = {"event": refusal.event, "client": refusal.client, "at": now_ms, "born": ran_ms}
        ask(connection, "add_receipt", {**row, "refused": refusal.reason})


def waiting(connection: apsw.Connection, output: str, item: int) -> set[str]:
    """The events of an item whose receipts say that they wait for this output; nearly always none."""
    return {event for (event,) in ask(connection, "standing_in", {"output": output, "item": item})}


def settle(
    connection: apsw.Connection,
    output: str,
    item: int,
    state: str,
    now_ms: int,
    detail: str = "",
    *,
    among: Iterable[bytes] | None = None,
) -> None:
    """What waits in an item for one output has come to its end: delivered, refused, or lost for a reason.

    ``among``: the lines that this is said of, if not all; read only where there are receipts.
    """
    events = waiting(connection, output, item)
    if events and among is not None:
        events &= set(ids(among))
    rows = [(None, state, now_ms, detail[:DETAIL], event, output) for event in events]
    tell(connection, "set_standing", rows)


def lose(connection: apsw.Connection, output: str, item: int, reason: str, now_ms: int) -> None:
    """An item is given up for one output: expired, purged, damaged, output_removed, spool_full, disk_failed."""
    settle(connection, output, item, "lost", now_ms, reason)


def move(connection: apsw.Connection, output: str, item: int, heir: int | Mapping[int, Sequence[bytes]]) -> None:
    """What waited for one output in an item waits in another one now, or in several: by item the lines it holds."""
    events = waiting(connection, output, item)
    if not events:
        return
    places = dict.fromkeys(events, heir) if isinstance(heir, int) else {}
    if not isinstance(heir, int):
        for place, lines in heir.items():
            places.update((event, place) for event in ids(lines) if event in events)
    tell(connection, "move_standing", [(place, event, output) for event, place in places.items()])


def hand_over(connection: apsw.Connection, output: str, heirs: Sequence[OutputSpec], now_ms: int) -> None:
    """What stood for one output stands for others instead."""
    for heir in heirs:
        values = {"heir": heir.name, "output": output, "wanted": heir.events, "at": now_ms}
        ask(connection, "hand_over_standing", values)
    ask(connection, "drop_standing", {"output": output})


def lose_output(connection: apsw.Connection, output: str, reason: str, now_ms: int) -> None:
    """All that waited for one output is given up."""
    ask(connection, "lose_standing", {"output": output, "detail": reason, "at": now_ms})


def again(connection: apsw.Connection, output: str, item: int, lines: Sequence[bytes], now_ms: int) -> None:
    """Lines of a dead letter wait for an output once more, in a new item."""
    if ask(connection, "any_receipt"):
        tell(connection, "stand_again", [(event, output, item, now_ms) for event in ids(lines)])


def prune(connection: apsw.Connection, before_ms: int, most: int) -> bool:
    """Take out receipts that were made before a running time, and the oldest beyond a number; True if more are left."""
    beyond = ask(connection, "count_receipts")[0][0] - most
    gone = len(ask(connection, "prune_receipts", {"before": before_ms, "most": PRUNE_ROWS}))
    if beyond > gone:
        rows = min(beyond, PRUNE_ROWS) - gone
        gone += len(ask(connection, "prune_oldest_receipts", {"most": max(rows, 0)}))
    return gone >= PRUNE_ROWS


def read(connection: apsw.Connection, event: str) -> dict[str, Any] | None:
    """One event's receipt: its client, when it was stored (or refused, and why), and where it stands by output."""
    with connection:
        rows = ask(connection, "receipt", {"event": event})
        standing = ask(connection, "standing", {"event": event})
    if not rows:
        return None
    client, at, refused = rows[0]
    names = ("output", "state", "at", "detail", "item")
    return {
        "event": event,
        "client": client,
        "state": "refused" if refused else "spooled",
        "at": at,
        "reason": refused,
        "outputs": [dict(zip(names, row, strict=True)) for row in standing],
    }


def ids(lines: Iterable[bytes]) -> list[str]:
    """The ids of event lines; "" for one that cannot be read."""
    found = []
    for line in lines:
        try:
            found.append(msgspec.json.decode(line, type=_Named).id)
        except (msgspec.MsgspecError, ValueError):
            found.append("")
    return found
