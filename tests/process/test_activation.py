"""Sockets held by systemd: nobody is refused while the agent is away, and what was written then is not lost."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from demo.accounts import Api
from demo.parts import BIN, Part, Stage, answers, get_json, wait_until
from tests.process.activation import held_sockets
from tests.process.conftest import PROJECT
from tests.process.load import assert_all_arrived, load_on

ROOT = Path(__file__).resolve().parent.parent.parent
RESTARTS = int(os.environ.get("RELOADS", "3"))
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None, reason="systemd-socket-activate is not installed"
)


def test_restarts_under_load_refuse_nobody_and_what_was_acknowledged_is_stored_once(
    stage: Stage, gateway: Part
) -> None:
    with held_sockets(stage) as held:
        agent = held.agent()
        with load_on(stage, streams=False) as load:
            time.sleep(0.3)  # they begin before there is an agent
            for _ in range(RESTARTS):
                agent.start(f"{stage.agent_url}/readyz")
                time.sleep(0.5)  # let some of everything pass
                agent.stop()
                assert agent.process is not None
                assert agent.process.returncode == 0
                time.sleep(0.2)  # nobody reads
            agent.start(f"{stage.agent_url}/readyz")
        try:
            assert_all_arrived(stage, load)
        finally:
            agent.stop()
            print(agent.log.read_text())
    assert (stage.folder / "agent.sock").exists(), "it is systemd's file"


def test_a_reload_keeps_the_sockets_of_systemd(stage: Stage, gateway: Part) -> None:
    with held_sockets(stage) as held:
        agent = held.agent()
        agent.start(f"{stage.agent_url}/readyz")
        try:
            for _ in range(2):
                began = get_json(f"{stage.agent_url}/status.json")["started"]
                assert agent.process is not None
                agent.process.send_signal(signal.SIGHUP)
                wait_until("reloaded", lambda began=began: started(stage) not in (None, began))
                with socket.create_connection(("127.0.0.1", stage.statsd_port)) as tcp:
                    tcp.sendall(b"here:1|c\n")
            wait_until("counted", lambda: Api(stage, PROJECT).total("here") == 2)
        finally:
            agent.stop()
        assert held.sockets["unix"].fileno() >= 0
        assert (stage.folder / "agent.sock").exists(), "it is systemd's file"


def started(stage: Stage) -> int | None:
    if not answers(f"{stage.agent_url}/readyz"):
        return None
    number: int = get_json(f"{stage.agent_url}/status.json")["started"]
    return number


@needs_systemd
def test_what_is_written_before_systemd_starts_the_agent_arrives(
    stage: Stage, gateway: Part, run_app: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    path = f"{stage.folder}/agent.sock"
    command = ["systemd-socket-activate", "-l", path, "--fdname=unix", *stage.agent().command]
    process = subprocess.Popen(command, env={**os.environ})
    try:
        wait_until("systemd listens", lambda: os.path.exists(path))
        # The first client has come and gone, perhaps before there is an agent.
        assert run_app('import sendoff; sendoff.init(linger=0); sendoff.event("early")').returncode == 0
        wait_until("stored", lambda: len(list(Api(stage, PROJECT).pages("events?name=early", "events"))) == 1)
    finally:
        process.terminate()
        process.wait(30)


@needs_systemd
def test_datagrams_before_systemd_starts_the_agent_arrive(stage: Stage, gateway: Part) -> None:
    listen = f"127.0.0.1:{stage.statsd_port}"
    command = ["systemd-socket-activate", "-d", "-l", listen, "--fdname=udp", *stage.agent().command]
    process = subprocess.Popen(command, env={**os.environ})
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.connect(("127.0.0.1", stage.statsd_port))
            wait_until("systemd listens", lambda: is_taken(stage.statsd_port))
            for _ in range(200):
                udp.send(b"early:1|c")
            wait_until("counted", lambda: Api(stage, PROJECT).total("early") == 200)
    finally:
        process.terminate()
        process.wait(30)


def is_taken(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    for unit in ("sendoff-agent.service", "sendoff-agent.socket"):
        text = (ROOT / "packaging/systemd" / unit).read_text()
        (tmp_path / unit).write_text(text.replace("/opt/sendoff/bin/sendoff", str(BIN / "sendoff")))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "sendoff" in line]
    assert (done.returncode, ours) == (0, []), done.stderr
