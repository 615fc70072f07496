"""What is wrong now, and how is business?"""

from typing import Any

from aiohttp import web

from sendoff_server.gateway import look, metrics
from sendoff_server.gateway.look import Filters
from sendoff_server.gateway.pages import charts, words
from sendoff_server.gateway.pages.scope import Scope

STEPS = 96
Json = dict[str, Any]


async def page(scope: Scope, request: web.Request) -> Json:
    within, before = scope.within, scope.within.before
    top = await scope.read(look.exceptions, within, Filters(), sort="count", limit=6, after=None)
    latest = await scope.read(look.event_list, "event", within, Filters(), limit=8, after=None)
    names = await scope.read(look.names, within, limit=4)
    stats = [await _stat(scope, "Exceptions", "exception", None)]
    stats += [await _stat(scope, name["name"], "event", name["name"]) for name in names]
    measured = (await scope.read(metrics.metric_names, None, limit=500, after=None))["metrics"]
    tracks = await _tracks(scope, stats, measured)
    groups = top["exceptions"]
    sparks = await scope.read(look.histograms, within, 48, [group["group"] for group in groups])
    alerts = _alerts(scope, groups)
    empty = not (groups or latest["events"] or measured or scope.agents)
    if empty:
        old = [await scope.read(look.newest, kind) for kind in ("event", "exception")]
        empty = not any(old)
    return {
        "page": "overview",
        "empty": empty,
        "heading": _heading(empty, alerts),
        "lede": _lede(scope, stats),
        "alerts": alerts,
        "stats": stats,
        "tracks": tracks,
        "axis": charts.axis(within.start, within.length),
        "groups": [_row(group, sparks, scope) for group in groups],
        "events": [_event(event, scope.now) for event in latest["events"]],
        "before": before,
    }


def _heading(empty: bool, alerts: list[Json]) -> str:
    if empty:
        return "Nothing has come in yet"
    if not alerts:
        return "Nothing needs attention"
    return f"{words.spelled(len(alerts))} {'thing needs' if len(alerts) == 1 else 'things need'} attention"


def _lede(scope: Scope, stats: list[Json]) -> str:
    exceptions = stats[0]["now"]
    said = words.plural(exceptions, "exception") if exceptions else "no exceptions"
    agents = words.plural(len(scope.agents), "agent")
    return f"In {scope.range_words} {said}; {agents} known to this project."


def _alerts(scope: Scope, groups: list[Json]) -> list[Json]:
    """What a person should look at, the worst first."""
    found: list[Json] = []
    if not scope.trust.balanced:
        found.append(
            {
                "bad": True,
                "title": "The books do not balance",
                "link": scope.link("ledger"),
                "text": "An agent's totals contradict each other. This is a fault of Sendoff, not of your application.",
            }
        )
    found += [_new_group(group, scope) for group in groups if group["first_seen"] >= scope.within.start]
    found += [_silent_agent(agent, scope) for agent in scope.silent[:5]]
    return found


def _new_group(group: Json, scope: Scope) -> Json:
    return {
        "bad": True,
        "title": words.plain(group["name"]),
        "link": scope.link(f"exceptions/{group['group']}"),
        "text": words.shown(group["message"] or group["place"], 200),
        "fact": words.count(group["in_range"]),
        "since": words.ago(group["first_seen"], scope.now),
    }


def _silent_agent(agent: Json, scope: Scope) -> Json:
    return {
        "bad": False,
        "title": f"{words.plain(agent['host']) or agent['agent'][:8]} is silent",
        "link": scope.link("ledger"),
        "text": "Its agent has not reported; what it holds is unknown, which is not zero.",
        "since": words.ago(agent["received"], scope.now),
    }


async def _stat(scope: Scope, label: str, kind: str, name: str | None) -> Json:
    now = await scope.read(look.histogram, scope.within, STEPS, kind=kind, name=name)
    before = sum(await scope.read(look.histogram, scope.within.before, 1, kind=kind, name=name))
    total = sum(now)
    worse = kind == "exception" and total > before
    title = f"{words.plain(label)} over {scope.range_words}"
    return {
        "label": words.shown(label, 60),
        "now": total,
        "value": words.count(total),
        "change": words.change(total, before),
        "worse": worse,
        "before": words.count(before),
        "spark": charts.spark(now, title, hot=False),
        "values": now,
        "link": scope.link("exceptions") if kind == "exception" else scope.link("events", name=name),
    }


async def _tracks(scope: Scope, stats: list[Json], names: list[Json]) -> list[Json]:
    """Rows of the one clock: what happened, then a counter and a distribution if there are any."""
    within = scope.within
    width = -(-within.length // STEPS)
    tracks = []
    for stat in stats[:3]:
        points = [(within.start + i * width, width, float(n)) for i, n in enumerate(stat["values"])]
        plot = charts.track(points, within.start, within.end, f"{stat['label'].striptags()} over time", line=False)
        note = f"per {words.span(width)}"
        tracks.append({"label": stat["label"], "note": note, "value": stat["value"], "of": "in all", "plot": plot})
    for kind, field in (("counter", "sum"), ("distribution", "p95")):
        chosen = [name for name in names if name["type"] == kind and name["last"] > within.start]
        if chosen:
            busiest = max(
                chosen, key=lambda name: (not name["name"].startswith("sendoff."), name["last"], name["series"])
            )
            tracks.append(await _metric_track(scope, busiest, field))
    return tracks


async def _metric_track(scope: Scope, name: Json, field: str) -> Json:
    within = scope.within
    metric = metrics.Metric(name["name"], name["type"], name["unit"])
    step = metrics.step_for(within, 150)
    found = await scope.read(metrics.series, metric, within, step=step, tags={}, by=None, percentiles=[0.95])
    points = charts.of_series(found["series"][0]["points"], field) if found["series"] else []
    label = f"{words.plain(metric.name)}, {field}"
    plot = charts.track(points, within.start, within.end, label, line=field != "sum")
    value = points[-1][2] if points else None
    return {
        "label": words.shown(metric.name, 60),
        "note": f"{field} per {words.span(step)}" if field == "sum" else f"{field} of {words.span(step)}",
        "value": words.quantity(value, metric.unit),
        "of": "newest",
        "plot": plot,
    }


def _row(group: Json, sparks: dict[str, list[int]], scope: Scope) -> Json:
    label = f"{group['in_range']} in {scope.range_words}"
    new = group["first_seen"] >= scope.within.start
    shape = charts.spark(sparks[group["group"]], label, hot=new)
    return group | {"spark": shape, "new": new, "last": words.ago(group["last_seen"], scope.now)}


def _event(event: Json, now: int) -> Json:
    return event | {"ago": words.ago(event["t"], now), "text": words.brief(event["fields"] or event["tags"] or "", 120)}
