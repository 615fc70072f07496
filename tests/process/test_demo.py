"""The demo's accounts: right when nothing is wrong, and not to be fooled when something is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def demo(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "demo", "--seconds", "1.5", "--rate", "40", *options]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=110, stdin=subprocess.DEVNULL, check=False
    )


def test_the_demo_ends_by_itself_and_its_accounts_agree() -> None:
    done = demo("--seconds", "6", "--rate", "60")  # as `make demo`: enough exceptions for a storm
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The accounts agree." in done.stdout


@pytest.mark.parametrize(("way", "complaint"), [("lose", "never arrived"), ("double", "arrived more than once")])
def test_one_event_taken_out_of_the_store_or_put_in_twice_makes_the_demo_fail(way: str, complaint: str) -> None:
    done = demo("--tamper", way)
    assert done.returncode == 1, done.stdout + done.stderr
    assert complaint in done.stdout
