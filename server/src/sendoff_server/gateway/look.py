"""What the store knows about exceptions, events and agents: one function a question, for the JSON API and the pages.

Each takes a reading connection first and gives plain data that can be written as JSON. Times are Unix ms.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import apsw
import msgspec

from sendoff_server.gateway import books, cursor, events
from sendoff_server.gateway.direct import ledger as direct
from sendoff_server.gateway.params import FARTHEST, Range
from sendoff_server.gateway.problems import not_found
from sendoff_server.gateway.store.sql import LOOK

Json = dict[str, Any]
FARTHEST_PAGE = 100_000
PAGE_BYTES = 8_388_608
"""A page of events ends early once its events are that large; whoever wants more follows ``next``."""


@dataclass(frozen=True, slots=True)
class Filters:
    """What is searched for; None is everything. ``q`` is a pattern of LIKE."""

    q: str | None = None
    name: str | None = None
    service: str | None = None
    env: str | None = None
    release: str | None = None


def projects(db: apsw.Connection, only: int | None) -> list[Json]:
    names = ("id", "name", "created", "events", "exceptions", "points", "heard")
    return [dict(zip(names[1:], row[1:], strict=True)) for row in db.execute(LOOK["projects"], (only,))]


def project_id(db: apsw.Connection, name: str) -> int:
    """Raises ``Problem`` 404."""
    for (number,) in db.execute(LOOK["project"], (name,)):
        return int(number)
    raise not_found(f"there is no project {name[:64]!r}", "sendoff gateway keys create PROJECT makes one")


def counts(db: apsw.Connection, project: int) -> Json:
    """What the gateway counted while it took batches in, since the project began."""
    found: dict[str, int] = dict(db.execute(LOOK["counts"], (project,)))

    def group(prefix: str) -> dict[str, int]:
        return {name.removeprefix(prefix): n for name, n in found.items() if name.startswith(prefix)}

    return {
        "events": found.get("events.stored", 0),
        "exceptions": found.get("exceptions.stored", 0),
        "repeats": found.get("exceptions.repeats", 0) + found.get("events.repeats", 0),
        "points": found.get("points.stored", 0),
        "duplicates": found.get("events.duplicate", 0),
        "conflicts": found.get("events.conflict", 0),
        "batches": {
            "stored": found.get("batches.stored", 0),
            "duplicates": found.get("batches.duplicate", 0),
            "conflicts": found.get("batches.conflict", 0),
            "refused": group("batches.refused."),
        },
        "lines_refused": group("lines.refused."),
    }


def exceptions(
    db: apsw.Connection, project: int, within: Range, filters: Filters, *, sort: str, limit: int, after: str | None
) -> Json:
    """Groups that happened in the range, with how often they did."""
    offset = min(max(cursor.decode(after, tuple[int])[0], 0), FARTHEST_PAGE) if after else 0
    wanted = (filters.q, filters.service, filters.env, filters.release)
    key = (project, within.start, within.end, *wanted, sort, limit + 1, offset)
    found = [_group(row) for row in db.execute(LOOK["groups"], key)]
    more = cursor.encode(offset + limit) if len(found) > limit and offset + limit <= FARTHEST_PAGE else None
    return {"exceptions": found[:limit], "next": more}


def exception(db: apsw.Connection, project: int, fingerprint: str, within: Range) -> Json:
    """One group: its counts, releases and hosts, how often it happened over time. Raises ``Problem`` 404."""
    rows = list(db.execute(LOOK["group"], (project, fingerprint)))
    if not rows:
        raise not_found(
            f"no exceptions have the fingerprint {fingerprint[:64]!r}", "it may be older than the retention"
        )
    found = _group(rows[0])
    key = (project, fingerprint, within.start, within.end)
    ((found["in_range"], found["folded_in_range"]),) = db.execute(LOOK["group_in_range"], key)
    names = ("release", "service", "env", "first_seen", "last_seen", "count")
    found["releases"] = [
        dict(zip(names, row, strict=True)) for row in db.execute(LOOK["releases"], (project, fingerprint))
    ]
    found["hosts"] = [{"host": host, "count": n} for host, n in db.execute(LOOK["group_hosts"], (project, fingerprint))]
    return found


def occurrences(db: apsw.Connection, project: int, fingerprint: str, *, limit: int, after: str | None) -> Json:
    """Stored events of a group, the latest first, without their stacks."""
    place = cursor.decode(after, tuple[int, int]) if after else (FARTHEST, FARTHEST)
    return _page(db.execute(LOOK["of_group"], (project, fingerprint, *place, limit + 1)), limit)


def event(db: apsw.Connection, project: int, event_id: str, fingerprint: str | None = None) -> Json:
    """One event, whole. Raises ``Problem`` 404."""
    for row in db.execute(LOOK["event"], (project, event_id)):
        found = _whole(row)
        if fingerprint is None or found["fingerprint"] == fingerprint:
            if found["fingerprint"] is not None:
                key = (project, found["fingerprint"], row[1], row[0])
                found["older"] = next((older for (older,) in db.execute(LOOK["older"], key)), None)
                found["newer"] = next((newer for (newer,) in db.execute(LOOK["newer"], key)), None)
            return found
    raise not_found(f"there is no event {event_id[:100]!r} here", "it may be older than the retention")


def event_list(
    db: apsw.Connection, project: int, kind: str, within: Range, filters: Filters, *, limit: int, after: str | None
) -> Json:
    """Events of a kind, the latest first. Exceptions come without their stacks."""
    place = cursor.decode(after, tuple[int, int]) if after else (FARTHEST, FARTHEST)
    wanted = (filters.name, filters.service, filters.env, filters.release, filters.q)
    key = (project, kind, within.start, within.end, *place, *wanted, limit + 1)
    return _page(db.execute(LOOK["events"], key), limit)


def histogram(
    db: apsw.Connection, project: int, within: Range, steps: int, *, kind: str = "event", name: str | None = None
) -> list[int]:
    """How often events of a kind (and name) happened, in equal steps of the range."""
    width = -(-within.length // steps)
    rows = db.execute(LOOK["histogram"], (project, kind, name, within.start, within.end, width))
    return _dense(rows, steps)


def histograms(
    db: apsw.Connection, project: int, within: Range, steps: int, fingerprints: list[str]
) -> dict[str, list[int]]:
    """The same of several exception groups."""
    width = -(-within.length // steps)
    found = {fingerprint: [0] * steps for fingerprint in fingerprints}
    key = (project, within.start, within.end, width, msgspec.json.encode(fingerprints).decode())
    for fingerprint, step, n in db.execute(LOOK["histograms_of_groups"], key):
        found[fingerprint][step] += n
    return found


def names(db: apsw.Connection, project: int, within: Range, *, kind: str = "event", limit: int = 20) -> list[Json]:
    """Names of events in the range, the most frequent first."""
    rows = db.execute(LOOK["names"], (project, kind, within.start, within.end, limit))
    return [{"name": name, "count": n} for name, n in rows]


def newest(db: apsw.Connection, project: int, kind: str) -> int | None:
    """When the latest event of a kind happened, whatever the range."""
    ((t,),) = db.execute(LOOK["newest_event"], (project, kind))
    return None if t is None else int(t)


def ledger(db: apsw.Connection, project: int) -> Json:
    """Agents with their newest books, memos and whether each book balances."""
    agents = []
    for agent, host, ordinal, made, received, lines in db.execute(LOOK["ledgers"], (project,)):
        found = [msgspec.json.decode(line) for line in lines.split(b"\n") if line]
        own = [book for book in found if book.get("book") in books.PARTS]
        told = {"agent": agent, "host": host, "ordinal": ordinal, "made": made, "received": received}
        agents.append(
            _judged(told | {"direct": False, "books": own, "memos": [memo for memo in found if "memo" in memo]})
        )
    if (directly := direct.read(db, project)) is not None:
        agents.append(_judged(directly | {"direct": True}))
    return {"agents": agents}


def _judged(agent: Json) -> Json:
    """With whether its books balance."""
    off = [{"book": book, "off": books.imbalance(book)} for book in agent["books"] if books.imbalance(book)]
    return agent | {"balanced": not off, "imbalances": off}


def _group(row: tuple[Any, ...]) -> Json:
    names = ("group", "name", "message", "place", "service", "first_seen", "last_seen", "count", "users", "newest")
    return dict(zip((*names, "in_range", "folded_in_range"), row, strict=True))


def _page(rows: Iterable[tuple[Any, ...]], limit: int) -> Json:
    """Events from ``rows``, which has one more than the limit if there is another page."""
    found: list[Json] = []
    size, last = 0, (0, 0)
    for row in rows:
        if len(found) == limit or size > PAGE_BYTES:
            return {"events": found, "next": cursor.encode(*last)}
        found.append(_brief(row))
        size, last = size + len(row[-1]), (row[1], row[0])
    return {"events": found, "next": None}


def _brief(row: tuple[Any, ...]) -> Json:
    whole = _whole(row)
    chain = whole.pop("chain")
    if chain:
        whole["message"] = chain[0].get("message", "")[: events.MESSAGE_SHOWN]
    return whole


def _whole(row: tuple[Any, ...]) -> Json:
    _, _, received, made, batch, agent, line = row
    found: Json = msgspec.to_builtins(events.read(line))
    return found | {"received": received, "delivery": {"agent": agent, "batch": batch, "made": made}}


def _dense(rows: Any, steps: int) -> list[int]:
    found = [0] * steps
    for step, n in rows:
        found[step] += n
    return found
