"""The JSON API, version 1: each address asks ``look`` or ``metrics`` one question. Described in docs/api.md."""

from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import apsw
import msgspec
from aiohttp import web

from sendoff_server.gateway import access, look, metrics, params
from sendoff_server.gateway.problems import Problem, invalid
from sendoff_server.gateway.store import Store

P = ParamSpec("P")
T = TypeVar("T")
Json = dict[str, Any]
Answer = Callable[[web.Request, int], Awaitable[Json]]
PERCENTILES = "50,95,99"


class Api:
    """Answers questions over the store. ``loopback``: every address that is listened on is a loopback one."""

    def __init__(self, store: Store, *, loopback: bool, now: Callable[[], int]) -> None:
        self._store = store
        self._loopback = loopback
        self.now = now

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/api/v1/projects", self._projects)
        base = "/api/v1/{project}"
        answers: dict[str, Answer] = {
            "/counts": self._counts,
            "/exceptions": self._exceptions,
            "/exceptions/{group}": self._exception,
            "/exceptions/{group}/{event}": self._occurrence,
            "/events": self._events,
            "/events/{event}": self._event,
            "/metrics": self._metrics,
            "/metrics/series": self._series,
            "/metrics/total": self._total,
            "/ledger": self._ledger,
        }
        for path, answer in answers.items():
            router.add_get(base + path, self._handler(answer))

    async def read(self, query: Callable[Concatenate[apsw.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._store.readers.read(query, *args, **kwargs)

    async def visible(self, request: web.Request) -> int | None:
        """None when the reader may see every project, else the number of the one. Raises ``Problem`` 401 or 403."""
        holder = await access.reader(request, self._store.keys, loopback=self._loopback)
        return None if holder is None else holder.project

    async def projects(self, request: web.Request) -> list[Json]:
        """The projects that the reader may see. Raises ``Problem`` 401 or 403."""
        return await self.read(look.projects, await self.visible(request))

    async def project(self, request: web.Request) -> int:
        """The number of the project in the address. Raises ``Problem`` 401, 403 or 404."""
        only = await self.visible(request)
        number = await self.read(look.project_id, request.match_info["project"])
        if only is not None and number != only:
            detail = "this key belongs to another project"
            raise Problem(403, "Not this project's key", detail, "use a key of this project", "Authorization")
        return number

    def _handler(self, answer: Answer) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            return _json(await answer(request, await self.project(request)))

        return handle

    async def _projects(self, request: web.Request) -> web.Response:
        return _json({"projects": await self.projects(request)})

    async def _counts(self, request: web.Request, project: int) -> Json:
        return await self.read(look.counts, project)

    async def _exceptions(self, request: web.Request, project: int) -> Json:
        query = request.query
        within = params.time_range(query, self.now())
        sort = params.choice(query, "sort", "last", ("last", "first", "count", "users"))
        limit, after = _page(query)
        found = await self.read(look.exceptions, project, within, filters(query), sort=sort, limit=limit, after=after)
        return {"from": within.start, "to": within.end, **found}

    async def _exception(self, request: web.Request, project: int) -> Json:
        group = request.match_info["group"]
        within = params.time_range(request.query, self.now())
        limit, after = _page(request.query)
        found = await self.read(look.exception, project, group, within)
        events = await self.read(look.occurrences, project, group, limit=limit, after=after)
        return {"from": within.start, "to": within.end, **found, **events}

    async def _occurrence(self, request: web.Request, project: int) -> Json:
        return await self.read(look.event, project, request.match_info["event"], request.match_info["group"])

    async def _events(self, request: web.Request, project: int) -> Json:
        query = request.query
        within = params.time_range(query, self.now())
        kind = params.choice(query, "kind", "event", ("event", "exception"))
        limit, after = _page(query)
        found = await self.read(look.event_list, project, kind, within, filters(query), limit=limit, after=after)
        return {"from": within.start, "to": within.end, **found}

    async def _event(self, request: web.Request, project: int) -> Json:
        return await self.read(look.event, project, request.match_info["event"])

    async def _metrics(self, request: web.Request, project: int) -> Json:
        limit, after = _page(request.query)
        return await self.read(
            metrics.metric_names, project, params.pattern(request.query, "q"), limit=limit, after=after
        )

    async def _series(self, request: web.Request, project: int) -> Json:
        query = request.query
        within = params.time_range(query, self.now())
        step = params.number(query, "step", metrics.step_for(within), 1_000, 86_400_000)
        metric, also = await self._metric(request, project)
        found = await self.read(metrics.series, project, metric, within, step=step, **_grouping(query))
        return _named(metric, also) | found

    async def _total(self, request: web.Request, project: int) -> Json:
        within = params.time_range(request.query, self.now())
        metric, also = await self._metric(request, project)
        found = await self.read(metrics.total, project, metric, within, **_grouping(request.query))
        return _named(metric, also) | found

    async def _metric(self, request: web.Request, project: int) -> tuple[metrics.Metric, list[Json]]:
        query = request.query
        name = params.text(query, "name")
        if name is None:
            raise invalid("name", "missing", "say which metric, as ?name=")
        return await self.read(metrics.find, project, name, query.get("type") or None, query.get("unit"))

    async def _ledger(self, request: web.Request, project: int) -> Json:
        return await self.read(look.ledger, project)


def filters(query: params.Query) -> look.Filters:
    return look.Filters(
        q=params.pattern(query, "q"),
        name=params.text(query, "name"),
        service=params.text(query, "service"),
        env=params.text(query, "env"),
        release=params.text(query, "release"),
    )


def percentiles(text: str) -> list[float]:
    """``50,95,99`` as shares. Raises ``Problem`` 422."""
    try:
        found = sorted({float(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not 1 <= len(found) <= 10 or not all(0 <= q <= 100 for q in found):
        raise invalid("percentiles", f"{text[:50]!r}", "give 1 to 10 numbers from 0 to 100, such as 50,95,99")
    return [q / 100 for q in found]


def _grouping(query: params.Query) -> Json:
    wanted = percentiles(query.get("percentiles") or PERCENTILES)
    return {"tags": params.tags(query), "by": params.text(query, "by"), "percentiles": wanted}


def _named(metric: metrics.Metric, also: list[Json]) -> Json:
    return {"name": metric.name, "type": metric.type, "unit": metric.unit, "also": also}


def _page(query: params.Query) -> tuple[int, str | None]:
    return params.number(query, "limit", 100, 1, 1_000), params.text(query, "cursor")


def _json(answer: Json) -> web.Response:
    return web.Response(body=msgspec.json.encode(answer), content_type="application/json")
