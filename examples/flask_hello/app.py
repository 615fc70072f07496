"""A Flask application with Sendoff in it. Run it: `gunicorn --preload app:app`, here in this folder."""

from __future__ import annotations

from flask import Flask, got_request_exception

import sendoff
from sendoff.integrations.wsgi import SendoffMiddleware

sendoff.init(service="flask-hello")

app = Flask(__name__)
app.wsgi_app = SendoffMiddleware(app.wsgi_app)  # type: ignore[method-assign]  # as Flask's own documentation does it


def report(_: Flask, exception: BaseException, **__: object) -> None:
    """Flask answers 500 by itself, so the exception has to be taken from its signal."""
    sendoff.capture_exception(exception)


got_request_exception.connect(report, app)


@app.get("/hello/<name>")
def hello(name: str) -> str:
    sendoff.increment("hello.greetings", framework="flask")
    sendoff.event("hello.said", name=name)
    return f"Hello, {name}!\n"


@app.get("/share/<int:people>")
def share(people: int) -> str:
    return f"{12 / people} pieces each\n"
