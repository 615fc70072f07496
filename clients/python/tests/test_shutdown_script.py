"""A plain script ended by SIGTERM, without an agent: that alone runs no `atexit`; with the recipe's line it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from clients.python.tests.shutdown import LIMIT
from clients.python.tests.test_direct_process import Way, dead_address

SCRIPT = """
import signal, sys, time
import sendoff

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
sendoff.init(service="shop", linger=1)
for number in range(50):
    sendoff.event("done", number=number)
    sendoff.increment("done")
print("ready", flush=True)
while True:
    time.sleep(60)
"""


@pytest.fixture(params=["http", "zmq"])
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    made = Way(request.param)
    yield made
    made.peer.close()
    assert made.peer.complaints == []


def ended(address: str) -> tuple[int, float]:
    """Run the script, end it, and give its exit status and how long it took."""
    env = {**os.environ, "SENDOFF_ADDRESS": address}
    with subprocess.Popen([sys.executable, "-c", SCRIPT], env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        return process.wait(20), time.monotonic() - began


def test_a_script_that_is_told_to_end_sends_everything(way: Way) -> None:
    status, took = ended(way.address)
    assert status == 143
    assert took < LIMIT
    assert [got.body["fields"]["number"] for got in way.peer.durable] == list(range(50))
    assert way.sums() == {"done": 50}
    assert len(way.peer.of("bye")) == 1


@pytest.mark.parametrize("path", ["http", "zmq"])
def test_a_script_that_is_told_to_end_ends_in_time_though_the_gateway_is_dead(path: str) -> None:
    status, took = ended(dead_address(path))
    assert status == 143
    assert took < LIMIT
