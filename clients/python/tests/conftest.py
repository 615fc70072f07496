from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import sendoff
from clients.python.tests.peer import Peer, listen
from sendoff import current, scope


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    return tmp_path / "agent.sock"


@pytest.fixture
def peer(socket_path: Path) -> Iterator[Peer]:
    """An agent's side that must have nothing to complain about in the end."""
    made = listen(socket_path)
    yield made
    sendoff.close(0.5)
    made.close()
    assert made.complaints == []


@pytest.fixture(autouse=True)
def no_client_left() -> Iterator[None]:
    """Each test begins and ends without a client."""
    current.client = None
    scope._scope.set(scope.EMPTY)
    yield
    if current.client is not None:
        current.client.close(0)
        assert current.client.stats()["internal_error"] == 0, "the client kept an error of its own from the test"
    current.client = None


@pytest.fixture
def address(socket_path: Path) -> str:
    return f"unix://{socket_path}"


@pytest.fixture
def run(address: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script in a process of its own, with the agent's address in its environment."""

    def run_script(script: str, *, check: bool = True, **environ: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "SENDOFF_ADDRESS": address, **environ},
        )
        if check:
            assert done.returncode == 0, done.stderr
        return done

    return run_script
