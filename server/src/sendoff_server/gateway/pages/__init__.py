"""The pages, rendered on the server from the same answers that the JSON API gives. They work without JavaScript.

Each page is a function from a request to what its template shows; its heading is computed and answers the page's
question.
"""

from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any

import jinja2
from aiohttp import web

from sendoff_server.gateway.api import Api
from sendoff_server.gateway.pages import events, exceptions, ledger, metrics, overview, words
from sendoff_server.gateway.pages.scope import Scope
from sendoff_server.gateway.problems import Problem
from sendoff_server.version import __version__

__all__ = ["Pages"]

STATIC = {"tokens.css": "text/css", "pages.css": "text/css", "favicon.svg": "image/svg+xml"}
Page = Callable[[Scope, web.Request], Awaitable[dict[str, Any]]]


class Pages:
    """Routes and rendering. Templates escape every value unless it is markup that we made."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader(__name__),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= words.FILTERS
        self._templates.globals["version"] = __version__
        self._templates.globals["without"] = _without

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/", self._projects)
        router.add_get("/static/{file}", self._static)
        router.add_get("/favicon.ico", self._favicon)
        router.add_get("/{project}", self._with_slash)
        for path, template, page in (
            ("/", "overview.html", overview.page),
            ("/exceptions", "exceptions.html", exceptions.listing),
            ("/exceptions/{group}", "exception.html", exceptions.one),
            ("/exceptions/{group}/{event}", "exception.html", exceptions.one),
            ("/events", "events.html", events.page),
            ("/metrics", "metrics.html", metrics.page),
            ("/ledger", "ledger.html", ledger.page),
        ):
            router.add_get("/{project}" + path, self._handler(template, page))

    def problem(self, request: web.Request, problem: Problem) -> web.Response:
        """What went wrong, where a person looks."""
        return self._render("problem.html", problem.status, problem.headers, problem=problem)

    def _handler(self, template: str, page: Page) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            scope = await Scope.of(self._api, request)
            return self._render(template, 200, {}, scope=scope, now=scope.now, **await page(scope, request))

        return handle

    async def _projects(self, request: web.Request) -> web.Response:
        projects = await self._api.projects(request)
        if len(projects) == 1:
            raise web.HTTPFound(f"/{projects[0]['name']}/")
        now = self._api.now()
        heard = {project["name"]: words.ago(project["heard"], now) for project in projects if project["heard"]}
        return self._render("projects.html", 200, {}, projects=projects, heard=heard)

    async def _with_slash(self, request: web.Request) -> web.Response:
        raise web.HTTPFound(f"/{request.match_info['project']}/" if await self._api.project(request) else "/")

    async def _static(self, request: web.Request) -> web.Response:
        name = request.match_info["file"]
        if name not in STATIC:
            raise web.HTTPNotFound
        return _file(name)

    async def _favicon(self, request: web.Request) -> web.Response:
        return _file("favicon.svg")

    def _render(self, template: str, status: int, headers: dict[str, str], **context: Any) -> web.Response:
        text = self._templates.get_template(template).render(context)
        return web.Response(status=status, text=text, content_type="text/html", headers=headers)


def _without(given: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in given.items() if key != name}


def _file(name: str) -> web.Response:
    body = resources.files(__name__).joinpath("static", name).read_bytes()
    return web.Response(body=body, content_type=STATIC[name], headers={"Cache-Control": "max-age=300"})
