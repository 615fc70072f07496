"""What the kernel drops before the agent reads it is counted, to the point, also when it is the last that was sent."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from demo.parts import Part, Stage, get_json, wait_until
from tests.process.conftest import running

DATAGRAMS = 2_000
BLAST = """
import sys, sendoff
sendoff.init(sys.argv[1], service="till")
sendoff.increment("opened")
sendoff.flush(5)
print("opened", flush=True)
sys.stdin.readline()
for number in range(20_000):
    sendoff.unique("visitors", f"{number:0100}")
sendoff.flush(5)
stats = sendoff.stats()
print(stats["points"], sum(stats["dropped"].values()), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def deaf(stage: Stage) -> Iterator[Part]:
    """An agent with next to no receive buffer."""
    small = stage.config.read_text().replace("[inputs.udp]\n", "[inputs.udp]\nreceive_buffer = 4096\n")
    stage.config.write_text(small)
    yield from running(stage.agent(), f"{stage.agent_url}/readyz")


def status(stage: Stage) -> dict[str, Any]:
    found: dict[str, Any] = get_json(f"{stage.agent_url}/status.json")
    return found


def signal_to(part: Part, number: signal.Signals) -> None:
    assert part.process is not None
    part.process.send_signal(number)


def test_of_foreign_datagrams_those_received_and_those_dropped_are_those_sent(stage: Stage, deaf: Part) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", stage.statsd_port))
        signal_to(deaf, signal.SIGSTOP)
        for _ in range(DATAGRAMS):
            sock.send(b"a:1|c")
        signal_to(deaf, signal.SIGCONT)

        def adds_up() -> bool:
            found = status(stage)
            received = sum(int(book["received"]) for book in found["books"]["lines"])
            dropped = int(found["kernel_drops"]["udp"])
            assert received + dropped <= DATAGRAMS
            return received > 0 and dropped > 0 and received + dropped == DATAGRAMS

        wait_until("received and dropped make what was sent", adds_up)


@pytest.mark.parametrize("stopped_for", [0.0, 2.0])  # after two seconds two of the client's sayings are lost as well
def test_of_sendoffs_points_those_received_and_the_gap_are_those_sent_also_at_the_end_of_a_blast(
    stage: Stage, deaf: Part, stopped_for: float
) -> None:
    app = subprocess.Popen(
        [sys.executable, "-c", BLAST, f"udp://127.0.0.1:{stage.statsd_port}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ),
    )  # fmt: skip
    assert app.stdin is not None
    assert app.stdout is not None
    try:
        assert app.stdout.readline() == "opened\n"
        wait_until("the first point", lambda: [memo["points"] for memo in status(stage)["clients"]] == [1])
        signal_to(deaf, signal.SIGSTOP)
        app.stdin.write("\n")
        app.stdin.flush()
        sent, dropped = map(int, app.stdout.readline().split())
        assert (sent, dropped) == (20_001, 0)
        time.sleep(stopped_for)
        signal_to(deaf, signal.SIGCONT)

        def memo() -> dict[str, Any]:
            [found] = status(stage)["clients"]
            assert found["points"] + found["gap"] <= sent
            return dict(found)

        wait_until("received and missing make what was sent", lambda: memo()["points"] + memo()["gap"] == sent)
        assert 0 < memo()["gap"] < sent
        found = status(stage)
        assert found["kernel_drops"]["udp"] > 0
        assert found["kernel_points"] == {"udp": memo()["gap"]}, "one loss, said by two witnesses"
        app.stdin.write("\n")
        app.stdin.flush()
        assert app.wait(30) == 0
        wait_until("the goodbye by datagram", lambda: memo()["state"] == "ended")
        assert memo()["points"] + memo()["gap"] == sent
    finally:
        app.kill()
        app.communicate(timeout=20)
