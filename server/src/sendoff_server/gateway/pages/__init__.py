"""The pages, rendered on the server from the same answers that the JSON API gives."""

from aiohttp import web

from sendoff_server.gateway.api import Api
from sendoff_server.gateway.problems import Problem, as_response

__all__ = ["Pages"]


class Pages:
    def __init__(self, api: Api) -> None:
        self._api = api

    def add_routes(self, router: web.UrlDispatcher) -> None:
        pass

    def problem(self, request: web.Request, problem: Problem) -> web.Response:
        return as_response(request, problem)
