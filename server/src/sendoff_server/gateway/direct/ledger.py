"""The direct path in the ledger: its books and memos in the form of an agent's, read from the store."""

from collections import defaultdict
from typing import Any

import apsw

from sendoff_server.gateway.direct.storing import read_state
from sendoff_server.gateway.store.sql import DIRECT

Json = dict[str, Any]
NAME = "direct"
"""What the path is called where an agent has the name of its host."""
OUTPUT = "gateway"
MOST_CLIENTS = 1_000
Counts = dict[str, dict[str, int]]
"""Numbers by source and name."""


def read(db: apsw.Connection, project: int) -> Json | None:
    """What agents report of themselves; None when nothing came this way. Nothing is pending: what is not stored is not
    received, and its client holds it.
    """
    found = db.execute(DIRECT["agent"], (project,)).fetchall()
    if not found:
        return None
    ((agent, epoch, number),) = found
    ((heard,),) = db.execute(DIRECT["heard"], (project,)).fetchall()
    counts: defaultdict[str, Counts] = defaultdict(lambda: defaultdict(dict))
    for book, source, name, n in db.execute(DIRECT["books"], (project,)):
        counts[str(book)][str(source)][str(name)] = int(str(n))
    return {
        "agent": agent,
        "host": NAME,
        "ordinal": number,
        "made": heard or epoch,
        "received": heard or epoch,
        "books": _books(counts),
        "memos": [*_clients(db, project), *_memos(counts)],
    }


def _books(counts: defaultdict[str, Counts]) -> list[Json]:
    books: list[Json] = []
    for source, own in counts["events"].items():
        n = own.get("received", 0)
        books.append({"book": "events", "source": source, "output": OUTPUT, "received": n, **_rest(own, "lost")})
    points = counts["points_in"]
    for source, own in points.items():
        lost = _by_reason(own, "lost")
        n, journaled = own.get("received", 0), own.get("journaled", 0)
        books.append({"book": "points_in", "source": source, "received": n, "journaled": journaled, "lost": lost})
    if points:
        out = {"journaled": sum(own.get("journaled", 0) for own in points.values())}
        stored = counts["points_out"].get("", {}).get("delivered", 0)
        books.append({"book": "points_out", "output": OUTPUT} | out | {"delivered": stored, **_nothing(), "lost": {}})
    for source, own in counts["lines"].items():
        n, accepted = own.get("received", 0), own.get("accepted", 0)
        rejected = _by_reason(own, "rejected")
        books.append({"book": "lines", "source": source, "received": n, "accepted": accepted, "rejected": rejected})
    return books


def _rest(own: dict[str, int], reasons: str) -> Json:
    return {"delivered": own.get("delivered", 0), "folded": 0, **_nothing(), reasons: _by_reason(own, reasons)}


def _nothing() -> Json:
    return {"pending": 0, "dead": 0, "not_routed": 0}


def _by_reason(own: dict[str, int], prefix: str) -> dict[str, int]:
    return {name.removeprefix(f"{prefix}."): n for name, n in own.items() if name.startswith(f"{prefix}.")}


def _clients(db: apsw.Connection, project: int) -> list[Json]:
    names = ("client", "service", "env", "release", "host", "pid", "lib", "state", "since", "seen")
    numbers = ("events", "points", "gap", "dropped")
    states = [read_state(state) for (state,) in db.execute(DIRECT["clients"], (project, MOST_CLIENTS))]
    return [{"memo": "client"} | {name: getattr(state, name) for name in names + numbers} for state in states]


def _memos(counts: defaultdict[str, Counts]) -> list[Json]:
    memos: list[Json] = []
    for service, own in counts["folded"].items():
        numbers = {name: own.get(name, 0) for name in ("clients", "events", "points", "gap")}
        memos.append({"memo": "folded", "service": service, **numbers, "dropped": _by_reason(own, "dropped")})
    memos += [{"memo": "frames", "input": origin, "refused": own} for origin, own in counts["frames"].items()]
    memos += [{"memo": "later", "reasons": own} for own in counts["later"].values()]
    return memos
