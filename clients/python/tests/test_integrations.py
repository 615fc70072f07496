"""Middlewares, handlers and hooks: what they report, and that the host does not notice."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

import sendoff
from sendoff.content.fingerprint import custom
from sendoff.integrations.asgi import SendoffMiddleware as Asgi
from sendoff.integrations.asyncio import install
from sendoff.integrations.logging import SendoffHandler
from sendoff.integrations.wsgi import SendoffMiddleware as Wsgi
from sendoff.testing import Recorder, recording


@pytest.fixture
def sent() -> Iterator[Recorder]:
    with recording() as recorder:
        yield recorder
        assert recorder.stats()["internal_error"] == 0


def environ(**more: Any) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/orders",
        "QUERY_STRING": "page=2&token=abc",
        "SERVER_NAME": "shop",
        "SERVER_PORT": "80",
        "REMOTE_ADDR": "10.0.0.9",
        "HTTP_HOST": "shop.example",
        "HTTP_COOKIE": "session=secret",
        "HTTP_AUTHORIZATION": "Basic abc",
        "HTTP_ACCEPT": "text/html",
        "CONTENT_TYPE": "application/json",
        "wsgi.url_scheme": "https",
        "wsgi.input": io.BytesIO(b"body"),
        **more,
    }


def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
    return lambda data: None


def test_wsgi_reports_an_exception_of_the_call_with_the_request_and_raises_it_on(sent: Recorder) -> None:
    def app(env: dict[str, Any], start: Any) -> Iterable[bytes]:
        sendoff.set_user(id=7)
        raise ValueError("in the call")

    given = environ()
    with pytest.raises(ValueError, match="in the call"):
        Wsgi(app)(given, start_response)
    got = sent.one("ValueError")
    assert got["user"] == {"id": 7}
    assert got["request"] == {
        "method": "POST",
        "url": "https://shop.example/orders",
        "query": "page=2&token=[scrubbed]",
        "remote": "10.0.0.9",
        "headers": {
            "Host": "shop.example",
            "Cookie": "[scrubbed]",
            "Authorization": "[scrubbed]",
            "Accept": "text/html",
            "Content-Type": "application/json",
        },
    }
    assert given["wsgi.input"].read() == b"body"
    sendoff.event("next request on this thread")
    assert "user" not in sent.one("next request on this thread")


def test_wsgi_reports_exceptions_of_the_iteration_and_of_close(sent: Recorder) -> None:
    class Answer:
        def __iter__(self) -> Iterator[bytes]:
            yield b"one"
            raise KeyError("in the iteration")

        def close(self) -> None:
            raise OSError("in close")

    answer = Wsgi(lambda env, start: Answer())(environ(), start_response)
    chunks = iter(answer)
    assert next(chunks) == b"one"
    with pytest.raises(KeyError):
        next(chunks)
    with pytest.raises(OSError, match="in close"):
        answer.close()  # type: ignore[attr-defined]
    assert [got["name"] for got in sent.exceptions] == ["KeyError", "OSError"]
    assert all("request" in got for got in sent.exceptions)


def test_wsgi_keeps_the_context_while_the_answer_is_made(sent: Recorder) -> None:
    def app(env: dict[str, Any], start: Any) -> Iterable[bytes]:
        sendoff.tag(step="call")
        yield b"one"
        sendoff.event("while streaming")

    answer = Wsgi(app)(environ(), start_response)
    assert list(answer) == [b"one"]
    answer.close()  # type: ignore[attr-defined]
    assert sent.one("while streaming")["tags"] == {"step": "call"}
    sendoff.event("afterwards")
    assert "tags" not in sent.one("afterwards")


def test_wsgi_leaves_complete_answers_and_files_as_they_are(sent: Recorder) -> None:
    class FileWrapper:
        def __iter__(self) -> Iterator[bytes]:
            yield b""

    complete = [b"x"]
    assert Wsgi(lambda env, start: complete)(environ(), start_response) is complete
    file = FileWrapper()
    assert Wsgi(lambda env, start: file)(environ(**{"wsgi.file_wrapper": FileWrapper}), start_response) is file
    assert sent.exceptions == []


def test_wsgi_serves_requests_that_describe_themselves_badly(sent: Recorder) -> None:
    odd = {"PATH_INFO": "/\udcff", "QUERY_STRING": 7, "HTTP_X": object(), 9: 9, "wsgi.url_scheme": None}
    assert list(Wsgi(lambda env, start: [b"fine"])(odd, start_response)) == [b"fine"]  # type: ignore[arg-type]


def test_an_exception_is_reported_once_by_whoever_sees_it_first(sent: Recorder) -> None:
    def app(env: dict[str, Any], start: Any) -> Iterable[bytes]:
        try:
            raise ValueError("once")
        except ValueError as error:
            sendoff.capture_exception(error)
            raise

    with pytest.raises(ValueError, match="once"):
        Wsgi(Wsgi(app))(environ(), start_response)
    assert len(sent.exceptions) == 1


async def test_asgi_reports_an_exception_with_the_request_and_raises_it_on(sent: Recorder) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        sendoff.set_user(id=8)
        assert await receive() == {"type": "http.request", "body": b"x"}
        raise ValueError("in the app")

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x"}

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/orders",
        "query_string": b"a=1&password=2",
        "scheme": "http",
        "headers": [(b"host", b"shop"), (b"x-api-key", b"k")],
        "client": ("10.0.0.1", 1234),
    }
    with pytest.raises(ValueError, match="in the app"):
        await Asgi(app)(scope, receive, None)  # type: ignore[arg-type]
    got = sent.one("ValueError")
    assert got["request"] == {
        "method": "GET",
        "url": "http://shop/orders",
        "query": "a=1&password=[scrubbed]",
        "remote": "10.0.0.1",
        "headers": {"Host": "shop", "X-Api-Key": "[scrubbed]"},
    }
    assert got["user"] == {"id": 8}


async def test_asgi_passes_lifespan_and_cancellation_through(sent: Recorder) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])
        raise asyncio.CancelledError

    for kind in ("lifespan", "websocket", "http"):
        with pytest.raises(asyncio.CancelledError):
            await Asgi(app)({"type": kind}, None, None)  # type: ignore[arg-type]
    assert seen == ["lifespan", "websocket", "http"]
    assert sent.exceptions == []


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    made = logging.getLogger("shop.orders")
    made.propagate = False
    handler = SendoffHandler()
    made.addHandler(handler)
    yield made
    made.removeHandler(handler)


def test_logging_reports_errors_by_template_and_exceptions_as_such(sent: Recorder, logger: logging.Logger) -> None:
    logger.warning("not sent")
    logger.error("order %d failed", 17)
    logger.error("order %d failed", 18)
    first, second = sent.exceptions
    assert first["name"] == "log"
    assert first["chain"][0]["message"] == "order 17 failed"
    assert [frame["func"] for frame in first["chain"][0]["frames"]] == [
        "test_logging_reports_errors_by_template_and_exceptions_as_such"
    ]
    assert first["fingerprint"] == second["fingerprint"] == custom(["log", "shop.orders", "order %d failed"])
    try:
        raise KeyError("k")
    except KeyError:
        logger.exception("while importing")
    got = sent.one("KeyError")
    assert got["tags"] == {"logger": "shop.orders"}
    assert got["fields"] == {"message": "while importing"}


def test_logging_survives_messages_that_cannot_be_made_and_does_not_recurse(
    sent: Recorder, logger: logging.Logger
) -> None:
    handler = SendoffHandler()

    def log(template: str, *args: object) -> None:
        handler.handle(logger.makeRecord(logger.name, logging.ERROR, __file__, 1, template, args, None))

    class Loud:
        def __str__(self) -> str:
            log("from within")
            raise RuntimeError

    log("bad %s", Loud())
    log("%d", "x")
    assert [got["chain"][0]["message"] for got in sent.exceptions] == ["bad %s", "%d"]


async def test_asyncio_reports_what_nobody_awaited_and_hands_on(sent: Recorder) -> None:
    handed: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda where, report: handed.append(report))
    install()
    install()
    loop.call_soon(lambda: 1 / 0)
    await asyncio.sleep(0.01)
    assert [got["name"] for got in sent.exceptions] == ["ZeroDivisionError"]
    assert len(handed) == 1


@pytest.mark.parametrize(
    "odd",
    [{"name": None}, {"exc_info": True}, {"exc_info": ("a", "b", "c")}, {"pathname": None, "lineno": "x", "module": 7}],
)
def test_logging_takes_records_of_any_making(sent: Recorder, odd: dict[str, Any]) -> None:
    SendoffHandler().handle(logging.makeLogRecord({"name": "shop", "msg": "odd", "levelno": 40, **odd}))
    assert [got["chain"][0]["message"] for got in sent.exceptions] == ["odd"]


def test_a_request_that_cannot_be_described_is_counted_and_served() -> None:
    class Odd(dict[str, Any]):
        def items(self) -> Any:
            raise RuntimeError("no items")

    with recording() as sent:
        assert list(Wsgi(lambda env, start: [b"fine"])(Odd(), start_response)) == [b"fine"]
        assert sent.stats()["internal_error"] == 1
