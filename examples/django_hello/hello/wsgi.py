"""A Django project's wsgi.py with Sendoff in it. Run it: `gunicorn --preload hello.wsgi`, in the folder above."""

from __future__ import annotations

import os

from django.core.signals import got_request_exception
from django.core.wsgi import get_wsgi_application

import sendoff
from sendoff.integrations.wsgi import SendoffMiddleware

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "hello.settings")
sendoff.init(service="django-hello")


def report(**_: object) -> None:
    """Django answers 500 by itself; while it sends this signal it is handling the exception."""
    sendoff.capture_exception()


got_request_exception.connect(report)
application = SendoffMiddleware(get_wsgi_application())
