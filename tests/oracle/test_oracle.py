"""Short runs of the oracle with everything in them, and the proof that it can fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.oracle import direct_verdict, verdict
from tests.oracle.book import Pen, Sent, digest, read
from tests.oracle.tamper import DIRECT_WAYS, WAYS
from tests.oracle.verdict import survives
from tests.oracle.world import ROOT

pytestmark = pytest.mark.timeout(300)
SEED = "20"
"""Any would do: a schedule does each thing once before it does one again."""
Run = tuple[Path, str]
"""The folder that a run leaves, and what it printed."""


def play(folder: Path, *, path: str, seconds: int, rate: int) -> Run:
    command = [sys.executable, "-m", "tests.oracle", "--path", path, "--seed", SEED, "--folder", str(folder)]
    command += ["--seconds", str(seconds), "--rate", str(rate)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    return folder, done.stdout + done.stderr


@pytest.fixture(scope="module")
def by_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Apps send to an agent, which delivers by HTTP."""
    folder = tmp_path_factory.mktemp("by-agent")
    yield play(folder, path="agent", seconds=14, rate=20)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def directly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Apps send without an agent, on all paths at once."""
    folder = tmp_path_factory.mktemp("directly")
    yield play(folder, path="direct", seconds=13, rate=12)
    shutil.rmtree(folder, ignore_errors=True)


def test_through_kills_full_disks_and_lying_destinations_everything_arrives_once_and_the_books_say_so(
    by_agent: Run,
) -> None:
    folder, said = by_agent
    assert "The oracle finds nothing wrong." in said, said
    assert verdict.judge(folder).right


def test_an_agent_that_delivers_over_zeromq_through_a_bad_wire_loses_and_repeats_nothing(tmp_path: Path) -> None:
    _, said = play(tmp_path / "run", path="agent-zmq", seconds=6, rate=15)
    assert "The oracle finds nothing wrong." in said, said


def test_without_an_agent_what_is_acknowledged_or_in_a_file_arrives_once_with_its_own_customer_and_no_call_is_held_up(
    directly: Run,
) -> None:
    folder, said = directly
    assert "The oracle finds nothing wrong." in said, said
    assert direct_verdict.judge(folder).right


@pytest.mark.parametrize(("way", "complaint"), WAYS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_falsified_by_hand_the_oracle_sees(
    by_agent: Run, tmp_path: Path, way: Callable[[Path], None], complaint: str
) -> None:
    way(copied(by_agent, tmp_path))
    faults = verdict.judge(tmp_path / "copy").faults
    assert any(complaint in fault for fault in faults), faults


@pytest.mark.parametrize(("way", "complaint"), DIRECT_WAYS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_falsified_by_hand_in_a_run_without_an_agent_the_oracle_sees(
    directly: Run, tmp_path: Path, way: Callable[[Path], None], complaint: str
) -> None:
    way(copied(directly, tmp_path))
    faults = direct_verdict.judge(tmp_path / "copy").faults
    assert any(complaint in fault for fault in faults), faults


def copied(run: Run, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(run[0], folder, ignore=shutil.ignore_patterns("*.sock", "*.zmq", "logs", "gateway-disk", "kept"))
    return folder


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
