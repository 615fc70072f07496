"""docs/api.md describes every address, and its examples have the shape of real answers."""

import json
import re
from pathlib import Path
from typing import Any

from . import direct
from .support import NOW, Running, batch, counter, event, exception

DOC = (Path(__file__).parents[3] / "docs/api.md").read_text("utf-8")


def examples() -> dict[str, Any]:
    """By the address in the heading above it."""
    sections = re.split(r"^### `(?:GET|POST) ([^`]+)`$", DOC, flags=re.MULTILINE)[1:]
    found = {}
    for address, text in zip(sections[::2], sections[1::2], strict=True):
        match = re.search(r"```json\n(.*?)```", text, re.DOTALL)
        assert match, address
        found[address] = json.loads(match[1])
    return found


def test_every_address_of_the_api_is_documented(gateway: Running) -> None:
    router = gateway.gateway._runner.app.router
    known = {resource.canonical for resource in router.resources()}
    documented = set(examples())
    assert documented == {address for address in known if address.startswith(("/api/", "/v1/"))}
    for address in ("/healthz", "/readyz"):
        assert address in known
        assert address in DOC


async def test_the_examples_have_the_shape_of_real_answers(gateway: Running) -> None:
    sent, failed = event(), exception()
    posted = batch("events", [sent, failed, b"{}"]) + batch("events", [], schema=2)
    answers = {"/v1/batches": (await gateway.post(posted))[1]}
    wrong = direct.frame("event", direct.Sender("x", "a" * 32).name, {}, seq=1, id=direct.event_id(), t=NOW)
    answers["/v1/frames"] = (await direct.post(gateway, [direct.Sender("x", "a" * 32).hello(), wrong]))[1]
    await gateway.post(batch("snapshot", [counter("shop.orders", NOW - 60_000, 1, worker="1")]))
    await gateway.post(batch("ledger", [{"book": "events", "source": "s", "output": "o", "received": 0}]))
    for address in set(examples()) - set(answers):
        path = address.replace("{project}", "shop").replace("{group}", "f" * 32)
        path = path.replace("{event}", failed["id"] if "exceptions" in address else sent["id"])
        query = {"name": "shop.orders"} if path.endswith(("series", "total")) else {}
        status, answers[address] = await gateway.ask(path, **query)
        assert status == 200, path
    for address, example in examples().items():
        assert example.keys() == answers[address].keys(), address
        for name, value in example.items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                assert answers[address][name], (address, name)
                if "totals" not in name:
                    assert value[0].keys() == answers[address][name][0].keys(), (address, name)
