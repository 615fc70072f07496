"""docs/python-client.md: its examples run and send what it says; its tables are those of the code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sendoff
from sendoff.client import Client
from sendoff.content import scrub
from sendoff.settings import DECLARED, Settings
from tests.docs.pages import Block, blocks, page, sections, table_keys

PAGE = page("docs/python-client.md")
BLOCKS = blocks(PAGE)
RECORDED = """
import json, sys
from sendoff.testing import recording
with recording() as sent:
    exec(compile(sys.argv[1], "example", "exec"), {"__name__": "__main__"})
sys.stdout.write("\\n" + json.dumps({
    "dropped": sent.dropped,
    "points": [f"{p.name}|{p.kind}" + "".join(f"|{tag}" for tag in p.tags) for p in sent.points],
    "events": sent.events,
    "exceptions": sent.exceptions,
}))
"""


def run(tmp_path: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Where there is no agent. Warnings are errors here too."""
    nowhere = {"SENDOFF_SOCKET": "", "XDG_RUNTIME_DIR": "", "PYTHONWARNINGS": "error"}
    env = {key: value for key, value in os.environ.items() if not key.startswith("SENDOFF_")} | nowhere
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path, env=env
    )


def sent_by(heading: str, tmp_path: Path) -> dict[str, Any]:
    """What the one example below a heading sends."""
    (block,) = [block for block in BLOCKS if block.heading == heading]
    done = run(tmp_path, "-c", RECORDED, block.code)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.rpartition("\n")[2])
    assert found["dropped"] == {}
    return found


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_example_runs_without_an_agent(block: Block, tmp_path: Path) -> None:
    if "def test_" in block.code:
        (tmp_path / "test_example.py").write_text(block.code)
        done = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "test_example.py")
        assert "1 passed" in done.stdout, done.stdout
        return
    done = run(tmp_path, "-c", block.code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("heading", "points"),
    [
        (
            "Counters",
            ["orders.placed|c", "orders.placed|c|country:PL", "revenue|c|currency:EUR", "cache.hits|c"],
        ),
        ("Gauges", ["queue.length|g|queue:mail"]),
        (
            "Distributions and timings",
            ["cart.items|d", "db.query|ms|table:orders", "checkout|ms|step:payment", "render|ms"],
        ),
        ("Sets", ["visitors|s"]),
        (
            "Bound instruments",
            [
                "orders.placed|c|shop:north",
                "queue.length|g",
                "cart.items|d",
                "db.query|ms",
                "db.query|ms",
                "visitors|s",
            ],
        ),
    ],
)
def test_the_examples_of_metrics_send_what_they_say(heading: str, points: list[str], tmp_path: Path) -> None:
    assert sent_by(heading, tmp_path)["points"] == points


def test_the_example_of_an_event_sends_it(tmp_path: Path) -> None:
    (event,) = sent_by("Events", tmp_path)["events"]
    assert event["fields"] == {"order": 17, "total": 49.0, "articles": ["kettle", "mug"]}


def test_the_example_of_exceptions_sends_one_for_each_call(tmp_path: Path) -> None:
    plain, own = sent_by("Exceptions", tmp_path)["exceptions"]
    assert plain["name"] == own["name"] == "ZeroDivisionError"
    assert plain["fingerprint"] != own["fingerprint"]
    assert (own["tags"], own["fields"]) == ({"job": "nightly"}, {"row": 17})


def test_the_example_of_context_sends_the_users_and_tags_it_says(tmp_path: Path) -> None:
    done, reported = sent_by("Context", tmp_path)["events"]
    assert (done["user"], done["tags"]) == ({"id": 1}, {"tenant": "acme", "job": "nightly"})
    assert (reported["user"], reported["tags"]) == ({"id": 5120, "plan": "gold"}, {"tenant": "acme"})


def test_the_examples_of_values_and_secrets_send_what_they_say(tmp_path: Path) -> None:
    (placed,) = sent_by("Values", tmp_path)["events"]
    assert placed["fields"] == {"total": "49.90", "share": "NaN", "order": "<__main__.Order>"}
    (login,) = sent_by("Secrets", tmp_path)["events"]
    assert login["fields"] == {
        "user_name": "ada",
        "password": "[scrubbed]",
        "note": "see https://[scrubbed]@example.com",
    }


def test_the_examples_of_logging_and_asyncio_send_exceptions(tmp_path: Path) -> None:
    assert [error["name"] for error in sent_by("Logging", tmp_path)["exceptions"]] == ["log", "KeyError"]
    assert [error["name"] for error in sent_by("asyncio", tmp_path)["exceptions"]] == ["ValueError"]


def settings_table() -> str:
    rows = ["| setting | environment variable | default | what it is |", "| --- | --- | --- | --- |"]
    for setting in DECLARED:
        default = json.dumps(setting.default) if setting.default not in (None, "", ()) else "none"
        rows.append(f"| `{setting.name}` | `{setting.variable}` | {default} | {setting.help} |")
    return "\n".join(rows)


def test_the_table_of_settings_is_the_declaration() -> None:
    table = PAGE.partition("DECLARED -->\n")[2].partition("\n<!-- settings end")[0]
    assert table == settings_table()


def test_the_words_that_are_scrubbed_are_those_of_the_code() -> None:
    words = sorted(scrub.WORDS | {" ".join(pair) for pair in scrub.PAIRS})
    assert ", ".join(f"`{word}`" for word in words) in PAGE


def test_the_keys_of_stats_are_those_that_are_explained() -> None:
    client = Client(Settings({}, {}))
    try:
        assert sorted(table_keys(sections(PAGE)["What happened so far"])) == sorted(client.stats())
    finally:
        client.close(0)


def test_every_public_name_is_on_the_page() -> None:
    missing = [name for name in sendoff.__all__ if name != "__version__" and f"sendoff.{name}" not in PAGE]
    assert missing == []
