"""How much, how fast?"""

from itertools import groupby
from typing import Any

from aiohttp import web

from sendoff_server.gateway import metrics, params
from sendoff_server.gateway.pages import charts, words
from sendoff_server.gateway.pages.scope import Scope

Json = dict[str, Any]
LISTED = 500
FIELDS = {"counter": "sum", "gauge": "last", "distribution": "p95", "set": "est"}


async def page(scope: Scope, request: web.Request) -> Json:
    query = request.query
    names = (await scope.read(metrics.metric_names, params.pattern(query, "q"), limit=LISTED, after=None))["metrics"]
    wanted = params.text(query, "m")
    if wanted is None and not names:
        searched = bool(query.get("q"))
        heading = "No metric matches" if searched else "No metric has come in yet"
        return {"page": "metrics", "heading": heading, "folders": [], "metric": None, "searched": query.get("q", "")}
    if wanted is None:
        newest = max(names, key=lambda name: (not name["name"].startswith("sendoff."), name["last"], name["series"]))
        metric, also = await scope.read(metrics.find, newest["name"], newest["type"], newest["unit"])
    else:
        metric, also = await scope.read(metrics.find, wanted, query.get("type") or None, query.get("unit"))
    return {
        "page": "metrics",
        "folders": _folders(scope, names, metric),
        "metric": metric,
        "also": also,
        "searched": query.get("q", ""),
        **await _chart(scope, metric, params.tags(query), params.text(query, "by")),
    }


async def _chart(scope: Scope, metric: metrics.Metric, tags: dict[str, str], by: str | None) -> Json:
    within, shares = scope.within, [0.5, 0.95, 0.99]
    step = metrics.step_for(within)
    found = await scope.read(metrics.series, metric, within, step=step, tags=tags, by=by, percentiles=shares)
    totals = await scope.read(metrics.total, metric, within, tags=tags, by=by, percentiles=shares)
    keys = await scope.read(metrics.tag_keys, metric)
    series = found["series"]
    return {
        "heading": _heading(scope, metric, totals["totals"], by),
        "plot": _plot(scope, metric, series, step),
        "legend": _legend(metric, series, by),
        "totals": totals["totals"],
        "columns": _columns(metric),
        "tags": tags,
        "by": by,
        "keys": keys,
        "step": words.span(step),
        "rests": totals,
    }


def _heading(scope: Scope, metric: metrics.Metric, totals: list[Json], by: str | None) -> str:
    name = words.plain(metric.name)
    if not totals:
        return f"{name}: nothing known in {scope.range_words}"
    if by is not None:
        return f"{name} by {words.plain(by)}"
    total = totals[0]
    match metric.type:
        case "counter":
            return f"{name}: {words.quantity_text(total['sum'], metric.unit)} in {scope.range_words}"
        case "gauge":
            return f"{name} is {words.quantity_text(total['last'], metric.unit)}"
        case "set":
            return f"{name}: {words.quantity_text(total['est'])} different in {scope.range_words}"
    p95, p50 = (words.quantity_text(total[name], metric.unit) for name in ("p95", "p50"))
    return f"{name}: {p50} in the middle, {p95} at the 95th percentile"


def _plot(scope: Scope, metric: metrics.Metric, series: list[Json], step: int) -> Any:
    within = scope.within
    known = sum(len(one["points"]) for one in series)
    label = f"{words.plain(metric.name)} over {scope.range_words}: {words.plural(known, 'known point')}"
    if metric.type == "distribution" and len(series) == 1:
        points = series[0]["points"]
        lines = [charts.Line(name, charts.of_series(points, name)) for name in ("p50", "p95", "p99")]
        return charts.lines(lines, within.start, within.end, label, metric.unit)
    field = FIELDS[metric.type]
    if metric.type in ("counter", "set") and len(series) <= 1:
        points = [_per_step(point, step, field, metric) for point in series[0]["points"]] if series else []
        return charts.bars(charts.of_series(points, field), within.start, within.end, label, metric.unit)
    lines = [charts.Line(one["by"] or "", charts.of_series(one["points"], field)) for one in series[:5]]
    return charts.lines(lines, within.start, within.end, label, metric.unit)


def _per_step(point: Json, step: int, field: str, metric: metrics.Metric) -> Json:
    """A window longer than the step, merged by an outage, is drawn as high as its average step and as wide as it is."""
    if metric.type != "counter":
        return point
    return point | {field: point[field] * step / point["length"]}


def _legend(metric: metrics.Metric, series: list[Json], by: str | None) -> list[Json]:
    if metric.type == "distribution" and len(series) == 1:
        return [{"label": name, "series": i + 1} for i, name in enumerate(("p50", "p95", "p99"))]
    if by is None:
        return []
    return [{"label": one["by"] or "(without)", "series": i + 1} for i, one in enumerate(series[:5])]


def _columns(metric: metrics.Metric) -> list[tuple[str, str, bool]]:
    """Head, field and whether the unit applies."""
    return {
        "counter": [("Sum", "sum", True), ("Points", "n", False)],
        "gauge": [("Last", "last", True), ("Least", "min", True), ("Most", "max", True), ("Points", "n", False)],
        "set": [("Different", "est", False), ("Points", "n", False)],
        "distribution": [
            ("p50", "p50", True),
            ("p95", "p95", True),
            ("p99", "p99", True),
            ("Mean", "mean", True),
            ("Least", "min", True),
            ("Most", "max", True),
            ("Points", "n", False),
        ],
    }[metric.type]


def _folders(scope: Scope, names: list[Json], chosen: metrics.Metric) -> list[Json]:
    """Names by what stands before their first dot."""

    def entry(name: Json) -> Json:
        current = (name["name"], name["type"], name["unit"]) == (chosen.name, chosen.type, chosen.unit)
        link = scope.link("metrics", m=name["name"], type=name["type"], unit=name["unit"])
        return {"name": name["name"], "note": name["unit"] or name["type"], "link": link, "current": current}

    found = []
    for folder, members in groupby(names, key=lambda name: name["name"].partition(".")[0]):
        found.append({"folder": folder, "entries": [entry(name) for name in members]})
    return found
