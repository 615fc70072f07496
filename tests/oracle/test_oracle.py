"""A short run of the oracle with everything in it, and the proof that it can fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.oracle.book import Pen, Sent, digest, read
from tests.oracle.tamper import WAYS
from tests.oracle.verdict import judge, survives
from tests.oracle.world import ROOT

pytestmark = pytest.mark.timeout(300)
SEED = "20"
"""Any would do: a schedule does each thing once before it does one again."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The folder that a short run leaves, and what it printed."""
    folder = tmp_path_factory.mktemp("oracle")
    command = [
        sys.executable,
        "-m",
        "tests.oracle",
        "--path",
        "agent",
        "--seconds",
        "21",
        "--rate",
        "25",
        "--seed",
        SEED,
        "--folder",
        str(folder),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    yield folder, done.stdout + done.stderr
    shutil.rmtree(folder, ignore_errors=True)


def test_through_kills_full_disks_and_lying_destinations_everything_arrives_once_and_the_books_say_so(
    run: tuple[Path, str],
) -> None:
    folder, said = run
    assert "The oracle finds nothing wrong." in said, said
    assert judge(folder).right


@pytest.mark.parametrize(("way", "complaint"), WAYS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_falsified_by_hand_the_oracle_sees(
    run: tuple[Path, str], tmp_path: Path, way: Callable[[Path], None], complaint: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run[0], folder, ignore=shutil.ignore_patterns("*.sock", "logs"))
    way(folder)
    faults = judge(folder).faults
    assert any(complaint in fault for fault in faults), faults


def test_an_event_that_the_client_dropped_must_not_arrive_and_one_that_was_written_must(tmp_path: Path) -> None:
    pen = Pen(tmp_path / "app-1.jsonl")
    for ref, event_id in (("app-1-1", "an id"), ("app-1-2", None)):
        pen.write(op="try", ref=ref, digest=digest("x", {}))
        pen.write(op="sent", ref=ref, id=event_id, written=event_id is not None, t=5.0)
    with (tmp_path / "app-1.jsonl").open("a") as torn:
        torn.write('{"op": "try", "ref": "app-1')
    account = read(tmp_path / "app-1.jsonl")
    assert account.events["app-1-1"].written == 5.0
    assert account.events["app-1-2"].returned
    assert account.events["app-1-2"].event_id is None


@pytest.mark.parametrize(
    ("timeline", "safe"),
    [
        ([], True),
        ([(6.0, "agent killed")], False),
        ([(3.5, "agent killed"), (3.5, "agent down"), (4.5, "agent up"), (16.0, "agent killed")], True),
        ([(6.0, "agent stopped"), (14.0, "agent goes on"), (17.0, "agent killed")], False),
        ([(6.0, "disk full"), (14.0, "disk free"), (25.0, "agent killed")], True),
        ([(1.0, "agent killed")], True),
    ],
)
def test_what_a_killed_app_has_written_is_certain_unless_the_agent_ends_before_it_could_read_it(
    timeline: list[tuple[float, str]], safe: bool
) -> None:
    events = [{"t": t, "what": what} for t, what in timeline]
    assert survives(Sent("", "id", True, 5.0), events) is safe
