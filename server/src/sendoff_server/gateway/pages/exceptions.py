"""What breaks most, what is new, and of one exception: why, since when, whom does it hit?"""

from typing import Any

from aiohttp import web

from sendoff_server.gateway import api, look, params
from sendoff_server.gateway.pages import charts, words
from sendoff_server.gateway.pages.scope import Scope
from sendoff_server.gateway.pages.stack import stacks

STEPS = 120
SORTS = {"count": "Events", "users": "Users", "last": "Last seen", "first": "First seen"}
Json = dict[str, Any]


async def listing(scope: Scope, request: web.Request) -> Json:
    query = request.query
    sort = params.choice(query, "sort", "count", tuple(SORTS))
    after = params.text(query, "cursor")
    filters = api.filters(query)
    found = await scope.read(look.exceptions, scope.within, filters, sort=sort, limit=50, after=after)
    groups = found["exceptions"]
    sparks = await scope.read(look.histograms, scope.within, 48, [group["group"] for group in groups])
    given = {name: query[name] for name in ("q", "service", "env", "release") if query.get(name)}
    return {
        "page": "exceptions",
        "heading": _heading(scope, groups, filtered=bool(given), more=found["next"] is not None),
        "groups": [_row(group, sparks, scope) for group in groups],
        "given": given,
        "sorts": [(name, label, scope.link("exceptions", **given, sort=name)) for name, label in SORTS.items()],
        "sort": sort,
        "next": found["next"] and scope.link("exceptions", **given, sort=sort, cursor=found["next"]),
        "newest": await _newest(scope) if not groups else None,
    }


async def one(scope: Scope, request: web.Request) -> Json:
    fingerprint = request.match_info["group"]
    group = await scope.read(look.exception, fingerprint, scope.within)
    event_id = request.match_info.get("event", group["newest"])
    events = await scope.read(look.occurrences, fingerprint, limit=8, after=None)
    if "event" not in request.match_info and event_id not in {event["id"] for event in events["events"]}:
        event_id = events["events"][0]["id"] if events["events"] else None
    event = await scope.read(look.event, event_id, fingerprint) if event_id else None
    counts = (await scope.read(look.histograms, scope.within, STEPS, [fingerprint]))[fingerprint]
    length = scope.within.length
    label = f"{sum(counts):,} events in {scope.range_words}"
    within = {"start": scope.within.start, "length": length}
    return {
        "page": "exceptions",
        "group": group,
        "folded": _folded(group),
        "title": words.plain(group["name"]),
        "first": words.when(group["first_seen"], scope.now),
        "first_release": min(group["releases"], key=lambda release: release["first_seen"], default=None),
        "last": words.ago(group["last_seen"], scope.now),
        "histogram": charts.histogram(counts, within["start"], length, label),
        "event": event,
        "stacks": stacks(event["chain"] or []) if event else [],
        "receipt": _receipt(event) if event else [],
        "facets": _facets(group),
        "others": [other | {"when": words.when(other["t"], scope.now)} for other in events["events"]],
        "request_rows": _request(event),
    }


def _heading(scope: Scope, groups: list[Json], *, filtered: bool, more: bool) -> str:
    if not groups:
        return "No exception matches" if filtered else f"No exceptions in {scope.range_words}"
    new = sum(group["first_seen"] >= scope.within.start for group in groups)
    many = "More than " if more else ""
    text = f"{many}{words.plural(len(groups), 'exception')} in {scope.range_words}"
    return f"{text}, {new} new" if new else text


async def _newest(scope: Scope) -> Any:
    newest = await scope.read(look.newest, "exception")
    return None if newest is None else words.when(newest, scope.now)


def _row(group: Json, sparks: dict[str, list[int]], scope: Scope) -> Json:
    new = group["first_seen"] >= scope.within.start
    label = f"{group['in_range']} events in {scope.range_words}"
    return group | {
        "new": new,
        "spark": charts.spark(sparks[group["group"]], label, hot=new),
        "last": words.ago(group["last_seen"], scope.now),
        "first": words.when(group["first_seen"], scope.now),
    }


def _folded(group: Json) -> str:
    """Of a storm only some are stored one by one: how many of them can be looked at, and how many are only counted."""
    total, folded = group["in_range"], group["folded_in_range"]
    return f"{total - folded:,} of {total:,} shown; {folded:,} folded" if folded else ""


def _receipt(event: Json) -> list[Json]:
    """The way of one event, as far as the gateway can know it: the times of three clocks."""
    made, received = event["delivery"]["made"], event["received"]
    origin = f"client {event['client'][:8]}, frame {event['seq']:,}" if event["client"] and event["seq"] else "StatsD"
    return [
        {"step": "Raised", "of": event["service"], "time": words.exact(event["t"]), "note": origin},
        {
            "step": "Sealed by the agent",
            "of": "",
            "time": _after(made - event["t"]),
            "note": f"agent {event['delivery']['agent'][:8]}",
        },
        {
            "step": "Stored by the gateway",
            "of": "",
            "time": _after(received - event["t"]),
            "note": f"batch {words.plain(event['delivery']['batch'], 60)}",
        },
    ]


def _after(ms: int) -> str:
    return f"+{words.span(ms)}" if ms >= 0 else f"−{words.span(-ms)}, clocks differ"


def _facets(group: Json) -> list[Json]:
    by_release: dict[str, int] = {}
    for release in group["releases"]:
        by_release[release["release"]] = by_release.get(release["release"], 0) + release["count"]
    return [
        {"name": name, "parts": _shares(parts)}
        for name, parts in (
            ("Release", list(by_release.items())),
            ("Host", [(host["host"], host["count"]) for host in group["hosts"]]),
        )
        if parts
    ]


def _shares(parts: list[tuple[str, int]]) -> list[Json]:
    """The four largest, and the others as one, with their places in the bar."""
    ranked = sorted(parts, key=lambda part: -part[1])
    if len(ranked) > 5:
        ranked = [*ranked[:4], ("others", sum(n for _, n in ranked[4:]))]
    total, at, found = sum(n for _, n in ranked), 0.0, []
    for i, (name, n) in enumerate(ranked):
        width = n / total * 100
        found.append({"name": name, "n": n, "at": f"{at:.2f}", "width": f"{width:.2f}", "series": i + 1})
        at += width
    return found


def _request(event: Json | None) -> list[tuple[str, str]]:
    request = (event or {}).get("request") or {}
    rows = []
    if request.get("method") or request.get("url"):
        rows.append((words.cut(request.get("method") or "URL", 20), words.cut(request.get("url") or "", 2_000)))
    named = [name for name in ("route", "query", "remote") if request.get(name)]
    rows += [(name.capitalize(), words.brief(request[name], 2_000)) for name in named]
    headers = request.get("headers")
    if isinstance(headers, dict):
        rows += [(words.cut(name, 60), words.brief(value, 1_000)) for name, value in list(headers.items())[:40]]
    return rows
