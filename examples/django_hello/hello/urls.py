"""Two views: one that greets, one that fails for 0 people."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import path

import sendoff


def hello(request: HttpRequest, name: str) -> HttpResponse:
    sendoff.increment("hello.greetings", framework="django")
    sendoff.event("hello.said", name=name)
    return HttpResponse(f"Hello, {name}!\n", content_type="text/plain")


def share(request: HttpRequest, people: int) -> HttpResponse:
    return HttpResponse(f"{12 / people} pieces each\n", content_type="text/plain")


urlpatterns = [path("hello/<str:name>", hello), path("share/<int:people>", share)]
