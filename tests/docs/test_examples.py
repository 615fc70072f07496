"""The examples of docs/frameworks.md, each under its own server, with a real agent and gateway behind it."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo.accounts import Api
from demo.parts import BIN, Part, Stage, free_port, get_json, wait_until
from tests.process.conftest import PROJECT

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@dataclass(frozen=True)
class Example:
    folder: str
    server: tuple[str, ...]
    """The command of its docstring, up to the address."""
    bind: str

    @property
    def service(self) -> str:
        return self.folder.replace("_", "-")

    @property
    def framework(self) -> str:
        return self.folder.removesuffix("_hello")


# One worker: one that gunicorn is just forking when it is told to end misses that, with or without Sendoff.
FLASK = Example("flask_hello", ("gunicorn", "app:app", "--workers=1", "--no-control-socket"), "--bind=127.0.0.1:{}")
FLASK_PRELOADED = Example("flask_hello", (*FLASK.server, "--preload"), FLASK.bind)
DJANGO = Example("django_hello", ("gunicorn", "--preload", "hello.wsgi", *FLASK.server[2:]), FLASK.bind)
ASGI = Example("asgi_hello", ("uvicorn", "app:app"), "--port={}")
EACH = pytest.mark.parametrize(
    "example", [FLASK, FLASK_PRELOADED, DJANGO, ASGI], ids=["flask", "flask preloaded", "django", "asgi"]
)


@dataclass(frozen=True)
class Answer:
    status: int
    body: str
    headers: list[str]


def ask(url: str) -> Answer:
    request = urllib.request.Request(url, headers={"Cookie": "session=abc", "X-Shown": "yes"})
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return Answer(reply.status, reply.read().decode(), sorted(reply.headers))
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read().decode(), sorted(error.headers))


@contextmanager
def served(example: Example, stage: Stage, log: str, **env: str) -> Iterator[tuple[Part, str]]:
    """The example under its server, and where it answers."""
    port = free_port()
    command, *arguments = example.server
    part = Part(
        example.folder,
        [str(BIN / command), *arguments, example.bind.format(port)],
        stage.folder / log,
        {"SENDOFF_SOCKET": f"{stage.folder}/agent.sock", "PYTHONDONTWRITEBYTECODE": "1", **env},
        EXAMPLES / example.folder,
    )
    part.start(f"http://127.0.0.1:{port}/hello/ready")
    try:
        yield part, f"http://127.0.0.1:{port}"
    finally:
        part.stop()
        print(part.log.read_text(errors="replace"))


def said(stage: Stage, example: Example) -> list[str]:
    events = Api(stage, PROJECT).pages(f"events?name=hello.said&service={example.service}", "events")
    return sorted(event["fields"]["name"] for event in events)


def groups(stage: Stage, example: Example) -> list[dict[str, object]]:
    return list(Api(stage, PROJECT).pages(f"exceptions?service={example.service}", "exceptions"))


@EACH
def test_an_exception_a_count_and_an_event_of_an_example_arrive_once_with_their_request(
    example: Example, stage: Stage, gateway: Part, agent: Part
) -> None:
    with served(example, stage, "app.log") as (_, url):
        assert ask(f"{url}/hello/Ada").body == "Hello, Ada!\n"
        assert ask(f"{url}/share/3").body == "4.0 pieces each\n"
        assert ask(f"{url}/share/0?table=4&token=abc").status == 500
    wait_until("the event stored", lambda: "Ada" in said(stage, example))
    wait_until("the exception stored", lambda: groups(stage, example))
    # The server's readiness was asked with a greeting of its own, at least once.
    wait_until("the counter stored", lambda: Api(stage, PROJECT).total("hello.greetings") == len(said(stage, example)))
    assert said(stage, example).count("Ada") == 1
    by_framework = Api(stage, PROJECT).totals_by("hello.greetings", "framework")
    assert set(by_framework) == {example.framework}

    (group,) = groups(stage, example)
    assert (group["name"], group["count"]) == ("ZeroDivisionError", 1)
    base = f"{stage.gateway_url}/api/v1/{PROJECT}/exceptions/{group['group']}"
    (short,) = get_json(base)["events"]
    whole = get_json(f"{base}/{short['id']}")
    request = whole["request"]
    assert request["method"] == "GET"
    assert request["url"] == f"{url}/share/0"
    assert request["query"] == "table=4&token=[scrubbed]"
    assert request["headers"]["X-Shown"] == "yes"
    assert request["headers"]["Cookie"] == "[scrubbed]"
    last = whole["chain"][0]["frames"][-1]
    assert last["func"] == ("hello" if example is ASGI else "share")
    assert last["in_app"] is True
    assert "12 /" in last["code"]


def without_what_differs_each_time(log: str) -> list[str]:
    """Lines of a log without times, process ids and ports; and without the frame of the middleware in a traceback."""
    log = re.sub(r'  File "[^"]*/sendoff/integrations/[a-z]+\.py", line .*\n    .*\n(?:    [~^ ]+\n)?', "", log)
    log = re.sub(
        r"\[[^\]]*[0-9]{4} [^\]]*\]|\[[0-9-]+ [0-9:.,]+( [+-]\d+)?\]|\[\d+\]|pid: ?\d+|127\.0\.0\.1:\d+", "#", log
    )
    return sorted(re.sub(r"\d{3,}", "#", log).splitlines())


@EACH
def test_an_example_answers_and_prints_the_same_as_without_sendoff(example: Example, stage: Stage, agent: Part) -> None:
    answers, logs = [], []
    for switch in ("on", "off"):
        with served(example, stage, f"{switch}.log", SENDOFF_ENABLED=switch) as (part, url):
            answers.append([ask(f"{url}{path}") for path in ("/hello/Ada", "/share/3", "/share/0")])
        logs.append(without_what_differs_each_time(part.log.read_text()))
    assert answers[0] == answers[1]
    assert logs[0] == logs[1]
    assert sum(line.startswith("ZeroDivisionError") for line in logs[0]) == 1, "the framework or the server prints it"
