"""Everything that goes wrong is said as ``application/problem+json``: what happened, to which field, what to do."""

import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Middleware

from sendoff_server.gateway.store import Busy, DiskFailed, TooSlow
from sendoff_server.wire.batch import BodyError

log = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Render = Callable[[web.Request, "Problem"], web.Response]


class Problem(Exception):
    """An answer that is not 2xx. ``headers`` go with it."""

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        remedy: str,
        field: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(f"{title}: {detail}")
        self.status = status
        self.title = title
        self.detail = detail
        self.remedy = remedy
        self.field = field
        self.headers = headers or {}

    def as_json(self) -> dict[str, Any]:
        return {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "remedy": self.remedy,
            "field": self.field,
        }


def retry_later(title: str, detail: str, seconds: int, status: int = 503) -> Problem:
    """The sender keeps its data and comes back."""
    remedy = f"try again in {seconds} s; nothing was acknowledged"
    return Problem(status, title, detail, remedy, headers={"Retry-After": str(seconds)})


def invalid(field: str, detail: str, remedy: str) -> Problem:
    """A parameter of a request is wrong."""
    return Problem(422, f"{field} is not valid", detail, remedy, field)


def not_found(what: str, remedy: str) -> Problem:
    return Problem(404, "Not found", what, remedy)


def as_response(request: web.Request, problem: Problem) -> web.Response:
    return web.Response(
        status=problem.status,
        body=msgspec.json.encode(problem.as_json()),
        content_type="application/problem+json",
        headers=problem.headers,
    )


def middleware(page: Render) -> Middleware:
    """Turns every failure into an answer: ``page`` renders it where a person looks, JSON answers everyone else."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            problem = _of_http(request, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the sender is answered and the log has the trace
            problem = problem_of(error)
        machine = request.path.startswith(("/api/", "/v1/", "/healthz", "/readyz")) or request.method not in (
            "GET",
            "HEAD",
        )
        return as_response(request, problem) if machine else page(request, problem)

    return answer


def soften(record: logging.LogRecord) -> bool:
    """For what aiohttp logs, its only argument being who asked: somebody who speaks no HTTP is told so (400), and it is
    no failure of ours. Says that the record is wanted.
    """
    if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
        record.levelno, record.levelname = logging.INFO, "INFO"
        record.msg, record.exc_info = "%s does not speak HTTP as it should", None
    return True


def problem_of(error: Exception) -> Problem:
    """What a sender is told about a failure, whatever it is; what is unexpected stands in the log."""
    match error:
        case Problem():
            return error
        case BodyError():
            return Problem(error.status, error.title, error.detail, error.remedy, error.field)
        case Busy():
            return retry_later("The gateway is busy", str(error), 2)
        case DiskFailed():
            log.error("nothing can be stored: %s", error)
            return retry_later("The gateway cannot store", str(error), 30)
        case TooSlow():
            return Problem(
                503, "That took too long", str(error), "choose a shorter range, fewer tags or a longer step", "from"
            )
        case ConnectionError():  # in the middle of a request: nobody hears this, and nothing is wrong here
            return Problem(400, "The connection broke", "the request was not whole", "send it again")
    reference = secrets.token_hex(6)
    log.error(f"unexpected failure, reference {reference}", exc_info=error)  # in the text: each is a line of its own
    return Problem(
        500,
        "The gateway failed",
        f"an unexpected failure; its trace is in the gateway's log under {reference}",
        f"try again; if it comes back, report it with the reference {reference}",
    )


def _of_http(request: web.Request, error: web.HTTPException) -> Problem:
    if error.status == 404:
        return not_found(f"there is nothing at {request.path[:200]}", "docs/api.md lists every address")
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        detail = f"{request.method[:20]} is not possible at {request.path[:200]}"
        return Problem(405, "Method not allowed", detail, f"use {allowed}", headers={"Allow": allowed})
    return Problem(error.status, error.reason, error.text or error.reason, "docs/api.md describes every request")
