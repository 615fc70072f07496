"""docs/operating.md: every reason, key and metric there is, and no other; and a backup that can be restored."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

from demo.accounts import Api
from demo.parts import Part, Stage, wait_until
from sendoff.tally import REASONS
from sendoff_server.agent.status import KEYS
from sendoff_server.gateway.store.database import open_whole
from sendoff_server.ledger import LOST, REJECTED
from tests.docs.pages import page, sections, table_keys
from tests.process.conftest import PROJECT

PAGE = page("docs/operating.md")
SECTIONS = sections(PAGE)
WIRE = sections(page("protocol/wire-format.md"))["9. Reasons"]


def in_wire_format(title: str) -> set[str]:
    """The reasons of one paragraph of the wire format, up to the next bold title."""
    text = re.sub(r"\([^()]*\)", "", WIRE.partition(f"**{title}")[2].partition("**")[2].partition("**")[0])
    return set(re.findall(r"`([a-z0-9_]+)`", text))


def test_what_clients_drop_is_explained() -> None:
    ours = {reason.partition(".")[2] for reason in REASONS}
    assert set(table_keys(SECTIONS["What clients drop"])) == in_wire_format("Client drops") == ours


def test_every_reason_to_refuse_a_frame_is_explained() -> None:
    assert set(table_keys(SECTIONS["Frames refused"])) == in_wire_format("Frames")


def test_every_reason_to_reject_a_line_is_explained() -> None:
    assert set(table_keys(SECTIONS["Lines rejected"])) == in_wire_format("Lines") == set(REJECTED)


def test_every_note_is_explained() -> None:
    assert set(table_keys(SECTIONS["Notes"])) == in_wire_format("Notes")


def test_every_reason_of_a_loss_is_explained() -> None:
    in_wire = in_wire_format("Points lost in the agent") | in_wire_format("Events lost in the agent")
    assert set(table_keys(SECTIONS["Lost in the agent"])) == in_wire == set(LOST)


def test_every_code_of_a_refused_line_is_explained() -> None:
    assert set(table_keys(SECTIONS["Dead letters"])) == in_wire_format("Refused lines of a batch")


def test_every_key_of_the_status_is_explained() -> None:
    table = SECTIONS["What to watch"].partition("**`/status.json`**")[2]
    assert set(table_keys(table)) == set(KEYS)


def test_the_metrics_are_those_that_an_agent_has(
    stage: Stage, agent: Part, run_app: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    assert run_app("import sendoff; sendoff.init(); sendoff.event('x'); sendoff.increment('y')").returncode == 0
    with urllib.request.urlopen(f"{stage.agent_url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    # As a scraper sees them: counters of the older text format carry _total in their names.
    there = {
        name if kind == "gauge" else f"{name.removesuffix('_total')}_total"
        for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE)
        if not name.endswith("_created")
    }
    table = SECTIONS["What to watch"].partition("**`/metrics`**")[2].partition("**Alerts")[0]
    assert set(table_keys(table)) == there
    alerts = PAGE.partition("**Alerts worth having**")[2].partition("**The gateway**")[0]
    assert set(re.findall(r"sendoff_\w+", alerts)) <= there


def test_the_command_of_the_backup_makes_a_whole_copy_of_a_running_gateway(
    stage: Stage,
    gateway: Part,
    agent: Part,
    run_app: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    done = run_app("import sendoff; sendoff.init(); sendoff.event('kept')")
    assert done.returncode == 0, done.stderr
    wait_until("stored", lambda: list(Api(stage, PROJECT).pages("events?name=kept", "events")))
    command = PAGE.partition("<!-- backup: tests/docs runs this -->\n```\n")[2].partition("\n```")[0]
    assert command.startswith("python -c ")
    (tmp_path / "backup").mkdir()
    command = command.replace("/var/lib/sendoff/", f"{stage.folder}/").replace("/backup/", f"{tmp_path}/backup/")
    subprocess.run(["/bin/sh", "-c", command.replace("python", sys.executable, 1)], check=True, timeout=60)
    db = open_whole(tmp_path / "backup")  # checks it through, and changes nothing of a layout it knows
    try:
        assert list(db.execute("SELECT count(*) FROM events")) == [(1,)]
        assert db.pragma("auto_vacuum") == 2, "the copy gives room back as the original does"
    finally:
        db.close()
