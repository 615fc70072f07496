"""WSGI middleware: exceptions of a request, with what the request was.

May:     read the environment's strings; send exceptions raised by the call, by the iteration of the answer, or by its
`close`. May not: read the body, change the environment, the answer or its chunks, or buffer any of them.
         keep an exception from the server: it is always raised on, as it was.
         let the user, tags or request of one request be seen by the next on the same thread.
         raise or wait: whatever fails in here is counted, and the request goes on.
"""

from __future__ import annotations

from sendoff import current, guard
from sendoff.scope import context, fresh_context, set_request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any


class SendoffMiddleware:
    """`app = SendoffMiddleware(app)`."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if current.client is None:
            return self.app(environ, start_response)
        scope = fresh_context()
        scope.__enter__()
        try:
            _describe(environ)
            answer = self.app(environ, start_response)
        except BaseException as error:
            report(error)
            scope.__exit__(None, None, None)
            raise
        wrapper = environ.get("wsgi.file_wrapper")
        file = isinstance(wrapper, type) and isinstance(answer, wrapper)  # wrapped again, it would lose its sendfile
        if file or type(answer) in (list, tuple):  # nothing of the application's runs any more
            scope.__exit__(None, None, None)
            return answer
        return _Answer(answer, scope)


class _Answer:
    """The application's iterable, watched. The request's context lives until `close`, in which servers always end."""

    def __init__(self, answer: Iterable[bytes], scope: context) -> None:
        self._answer = answer
        self._scope: context | None = scope
        self._chunks: Iterator[bytes] | None = None

    def __iter__(self) -> _Answer:
        return self

    def __next__(self) -> bytes:
        try:
            if self._chunks is None:
                self._chunks = iter(self._answer)
            return next(self._chunks)
        except StopIteration:
            raise
        except BaseException as error:
            report(error)
            raise

    def close(self) -> None:
        """Close the application's iterable, and end the request's context."""
        try:
            close = getattr(self._answer, "close", None)
            if close is not None:
                close()
        except BaseException as error:
            report(error)
            raise
        finally:
            scope, self._scope = self._scope, None
            if scope is not None:
                scope.__exit__(None, None, None)


def report(error: BaseException) -> None:
    """Send `error` once, unless it only ends something."""
    client = current.client
    if client is not None and not issubclass(type(error), (KeyboardInterrupt, SystemExit, GeneratorExit)):
        client.exception(error, again=False)


def _describe(environ: dict[str, Any]) -> None:
    try:
        text = {key: value for key, value in environ.items() if type(key) is str and type(value) is str}
        headers = {key[5:].replace("_", "-").title(): value for key, value in text.items() if key.startswith("HTTP_")}
        headers |= {name: text[key] for key, name in _OTHER_HEADERS if text.get(key)}
        path = (
            (text.get("SCRIPT_NAME", "") + text.get("PATH_INFO", ""))
            .encode("latin-1", "replace")
            .decode("utf-8", "replace")
        )
        host = text.get("HTTP_HOST") or text.get("SERVER_NAME", "")
        url = f"{text.get('wsgi.url_scheme', 'http')}://{host}{path}"
        method, query, remote = (text.get(key, "") for key in ("REQUEST_METHOD", "QUERY_STRING", "REMOTE_ADDR"))
        set_request(method=method, url=url, query=query, remote=remote, headers=headers)
    except Exception as error:  # noqa: BLE001 - a request goes on whatever it says about itself
        guard.keep(error, current.tally())


_OTHER_HEADERS = (("CONTENT_TYPE", "Content-Type"), ("CONTENT_LENGTH", "Content-Length"))
