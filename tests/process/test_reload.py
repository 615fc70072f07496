"""Reload and upgrade of the agent under load: nobody is refused, nothing is lost, nothing is counted twice."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sendoff_server
from demo.parts import BIN, Part, Stage, get_json, wait_until
from tests.process.load import assert_all_arrived, load_on, log_of

RELOADS = int(os.environ.get("RELOADS", "5"))


def reload(stage: Stage) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "sendoff"), "reload", "--config", str(stage.config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


def test_reloading_under_load_refuses_nobody_and_loses_and_doubles_nothing(
    stage: Stage, gateway: Part, agent: Part
) -> None:
    assert agent.process is not None
    good = stage.config.read_text()
    with load_on(stage) as load:
        for number in range(RELOADS):
            time.sleep(0.5)  # let some of everything pass
            done = reload(stage)
            assert (done.returncode, done.stderr) == (0, ""), done.stderr
            assert f"process {agent.process.pid}" in done.stdout
            if number == 1:
                stage.config.write_text(good.replace("interval = 2", "interval = 0.5"))
                faulty = reload(stage)
                assert faulty.returncode == 2
                assert "outputs.main.interval" in faulty.stderr
                stage.config.write_text(good)
    assert agent.process.poll() is None
    assert_all_arrived(stage, load)
    gaps = [int(ms) for ms in re.findall(r"nothing was read for (\d+) ms", log_of(agent.log))]
    assert len(gaps) == RELOADS
    print(f"{RELOADS} reloads under load, {load.events} events, {sum(load.sent.values())} points in lines;")
    print(f"nothing was read for {min(gaps)} to {max(gaps)} ms")


def test_a_hangup_with_a_faulty_file_names_the_field_and_changes_nothing(stage: Stage, agent: Part) -> None:
    assert agent.process is not None
    before = get_json(f"{stage.agent_url}/status.json")
    stage.config.write_text(stage.config.read_text().replace("interval = 2", "interval = 0.5"))
    agent.process.send_signal(signal.SIGHUP)
    wait_until("refused", lambda: "not reloaded, everything goes on as before" in log_of(agent.log))
    assert "outputs.main.interval" in log_of(agent.log)
    after = get_json(f"{stage.agent_url}/status.json")
    assert (after["started"], after["pid"], after["ready"]) == (before["started"], agent.process.pid, True)


def test_an_upgrade_goes_on_with_the_new_code_and_a_broken_one_changes_nothing(stage: Stage) -> None:
    code = stage.folder / "code/sendoff_server"
    shutil.copytree(Path(sendoff_server.__file__).parent, code, ignore=shutil.ignore_patterns("__pycache__"))
    agent = stage.agent()
    agent.env = {"PYTHONPATH": str(code.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    agent.start(f"{stage.agent_url}/readyz")
    try:
        with socket.create_connection(("127.0.0.1", stage.statsd_port)) as tcp:
            tcp.sendall(b"upgraded:1|c\nupgr")
            version = (code / "version.py").read_text()
            (code / "version.py").write_text("this is no Python\n")
            assert "SyntaxError" in refused(stage)
            (code / "version.py").write_text(version)
            layout = (code / "spool/layout.py").read_text()
            older = re.sub(r"VERSION = \d+", "VERSION = 1", layout)
            (code / "spool/layout.py").write_text(older)
            assert "written by a later version" in refused(stage)
            (code / "spool/layout.py").write_text(layout)
            (code / "version.py").write_text('__version__ = "99.0"\n')
            done = reload(stage)
            assert (done.returncode, done.stderr) == (0, "")
            assert "version 99.0" in done.stdout
            tcp.sendall(b"aded:2|c\n")
            wait_until("both counted", lambda: points_in(stage) == 2)
    finally:
        agent.stop()
        print(log_of(agent.log))


def refused(stage: Stage) -> str:
    before = get_json(f"{stage.agent_url}/status.json")
    done = reload(stage)
    assert done.returncode == 2
    after = get_json(f"{stage.agent_url}/status.json")
    assert (after["started"], after["ready"]) == (before["started"], True)
    return done.stderr


def points_in(stage: Stage) -> int:
    books = get_json(f"{stage.agent_url}/status.json")["books"]
    return sum(row["journaled"] for row in books["points_in"])


def test_signals_while_the_process_is_replaced_are_heard_by_the_next_run(stage: Stage, agent: Part) -> None:
    assert agent.process is not None
    for _ in range(3):  # none of them ends it
        before = log_of(agent.log).count("goes on after")
        for _ in range(30):
            agent.process.send_signal(signal.SIGHUP)
            time.sleep(0.03)
        wait_until("reloaded", lambda before=before: log_of(agent.log).count("goes on after") > before)
    wait_until("no reload is under way", lambda: reload(stage).returncode == 0)
    agent.process.send_signal(signal.SIGHUP)
    replaced = log_of(agent.log).count("is replaced now")
    wait_until("replaced", lambda: log_of(agent.log).count("is replaced now") > replaced)
    agent.process.send_signal(signal.SIGTERM)
    assert agent.process.wait(30) == 0
    assert "SIGTERM: stopping" in log_of(agent.log)
    assert not (stage.folder / "agent.sock").exists(), "it ended in order"


def test_no_thread_that_outlives_the_loop_can_take_a_signal_from_the_next_run(stage: Stage, agent: Part) -> None:
    pytest.importorskip("uvloop")
    assert agent.process is not None
    held = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    workers = 0
    for task in Path(f"/proc/{agent.process.pid}/task").iterdir():
        status = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines() if ":" in line)
        if status["Name"].strip() == "libuv-worker":
            workers += 1
            blocked = int(status["SigBlk"], 16)
            assert all(blocked & 1 << number - 1 for number in held)
    assert workers


GARBAGE = """
import os, socket, sys
path, *command = sys.argv[1:]
listening = socket.socket(socket.AF_UNIX)
listening.bind(path)
listening.listen()
memory = os.memfd_create("garbage", 0)
os.write(memory, b"\\xc1 from a version that is not known here")
for number in (memory, listening.fileno()):
    os.set_inheritable(number, True)
os.environ["SENDOFF_HANDOVER"] = f"{os.getpid()} {memory} {listening.fileno()}"
os.execv(command[0], command)
"""


def test_an_agent_that_does_not_understand_what_was_handed_over_starts_with_new_sockets(stage: Stage) -> None:
    agent = stage.agent()
    agent.command = [sys.executable, "-c", GARBAGE, f"{stage.folder}/agent.sock", *agent.command]
    agent.start(f"{stage.agent_url}/readyz")
    try:
        with socket.socket(socket.AF_UNIX) as unix:
            unix.connect(f"{stage.folder}/agent.sock")
            unix.sendall(b"here:1|c\n")
        wait_until("counted", lambda: points_in(stage) == 1)
        assert "beginning with new sockets" in log_of(agent.log)
    finally:
        agent.stop()
