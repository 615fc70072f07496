"""Reload and upgrade of the agent under load: nobody is refused, nothing is lost, nothing is counted twice."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time

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
