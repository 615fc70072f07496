"""Real processes for the tests of what crosses them: a gateway, an agent, apps that use the client."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.parts import Part, Stage

PROJECT = "demo"


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """Free ports, a configuration and a key below the test's folder; nothing runs yet."""
    made = Stage(tmp_path)
    made.write_config(key=None)
    made.write_config(key=made.make_key(PROJECT))
    return made


def running(part: Part, ready_url: str) -> Iterator[Part]:
    """The part, started; what it printed stands in the report of a test that fails."""
    part.start(ready_url)
    yield part
    ended = part.process.poll() if part.process else None
    part.stop()
    print(f"{part.name}, {'running until the end' if ended is None else f'ended with {ended}'}:")
    print(part.log.read_text(errors="replace"))


@pytest.fixture
def gateway(stage: Stage) -> Iterator[Part]:
    yield from running(stage.gateway(), f"{stage.gateway_url}/readyz")


@pytest.fixture
def agent(stage: Stage) -> Iterator[Part]:
    yield from running(stage.agent(), f"{stage.agent_url}/readyz")


@pytest.fixture
def run_app(stage: Stage) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a few lines of Python as an app of its own, with the client finding the stage's agent."""

    def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "SENDOFF_SOCKET": f"{stage.folder}/agent.sock", **env},
            check=False,
        )

    return run
