"""What happened in business?"""

from typing import Any

from aiohttp import web

from sendoff_server.gateway import api, look, params
from sendoff_server.gateway.pages import charts, words
from sendoff_server.gateway.pages.scope import Scope

STEPS = 120
Json = dict[str, Any]


async def page(scope: Scope, request: web.Request) -> Json:
    query = request.query
    filters = api.filters(query)
    found = await scope.read(
        look.event_list, "event", scope.within, filters, limit=50, after=params.text(query, "cursor")
    )
    given = {name: query[name] for name in ("q", "name", "service", "env", "release") if query.get(name)}
    names = await scope.read(look.names, scope.within, limit=12)
    # Only all events, or those of one name, are counted; beside any other filter that number would not be true.
    counted = not any(name in given for name in ("q", "service", "env", "release"))
    counts: list[int] = []
    if counted:
        counts = await scope.read(look.histogram, scope.within, STEPS, kind="event", name=filters.name)
    total = sum(counts)
    newest = None if total else await scope.read(look.newest, "event")
    return {
        "page": "events",
        "heading": _heading(scope, total, counted=counted, found=bool(found["events"])),
        "histogram": charts.histogram(
            counts, scope.within.start, scope.within.length, f"{total:,} events in {scope.range_words}"
        ),
        "events": [_row(event, scope.now) for event in found["events"]],
        "total": total,
        "names": names,
        "given": given,
        "next": found["next"] and scope.link("events", **given, cursor=found["next"]),
        "newest": None if newest is None else words.when(newest, scope.now),
    }


def _heading(scope: Scope, total: int, *, counted: bool, found: bool) -> str:
    if counted:
        many = words.plural(total, "event") if total else "No events"
        return f"{many} in {scope.range_words}"
    return f"Events that match in {scope.range_words}" if found else "No event matches"


def _row(event: Json, now: int) -> Json:
    user = event["user"] or {}
    shown = user.get("id") or user.get("email") or user.get("name") or ""
    return event | {
        "when": words.when(event["t"], now),
        "who": words.brief(shown, 80) if shown else "",
        "pairs": [(name, words.brief(value, 200)) for name, value in list(event["fields"].items())[:30]],
        "tag_pairs": [(name, words.cut(value, 200)) for name, value in list(event["tags"].items())[:30]],
    }
