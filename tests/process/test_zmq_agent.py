"""ZeroMQ on both sides of a real agent: apps with the real client before it, a real gateway behind it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

import pytest

from demo.parts import BIN, Part, Stage, free_port, get_json, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROJECT = "demo"


class Zmq(Stage):
    """The gateway has a ZeroMQ port, and the agent delivers to it and listens itself."""

    def __init__(self, folder: Path, listen: str) -> None:
        super().__init__(folder)
        self.zmq_port = free_port()
        self.listen = listen.format(folder=folder, port=free_port())
        self.write()
        app = re.fullmatch(r"zmq\+curve://([\w-]+)@(.+)", self.make_key(PROJECT, curve=True))
        assert app
        self.output = f'[outputs.main]\nurl = "zmq+curve://{app[2]}"\nkey = "{app[1]}"\ninterval = 1\n'
        self.write()

    def write(self, *, clients: str = "") -> None:
        self.write_config(key=None)
        port = f"127.0.0.1:{self.zmq_port}"
        with self.config.open("a") as file:
            file.write(f'[gateway.zmq]\nlisten = "{port}"\npublic = "{port}"\n')
            file.write(f'[inputs.zmq]\nlisten = "{self.listen}"\n{clients}{getattr(self, "output", "")}')

    @property
    def address(self) -> str:
        """For applications."""
        return f"zmq+{self.listen}"

    def run(self, code: str, address: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), address or self.address],
            capture_output=True,
            text=True,
            timeout=60,
            env=dict(os.environ),
            check=False,
        )

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = get_json(f"{self.agent_url}/status.json")
        assert found["books"]["balanced"], found["books"]["imbalances"]
        return found

    def stored(self) -> tuple[int, float]:
        """Events that the gateway has, and the sum of the counter `sold`."""
        found = get_json(f"{self.gateway_url}/api/v1/{PROJECT}/counts")
        if not found["points"]:
            return found["events"], 0
        sums = get_json(f"{self.gateway_url}/api/v1/{PROJECT}/metrics/total?name=sold&range=24h")["totals"]
        return found["events"], sum(each["sum"] for each in sums)

    def doctor(self) -> dict[str, Any]:
        done = subprocess.run(
            [BIN / "sendoff", "doctor", "--json", "--config", self.config],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "SENDOFF_SOCKET": f"{self.folder}/agent.sock"},
            check=False,
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture
def stage(tmp_path: Path) -> Zmq:
    return Zmq(tmp_path, "ipc://{folder}/agent.zmq")


@pytest.fixture
def gateway(stage: Zmq) -> Iterator[Part]:
    part = stage.gateway()
    part.start(f"{stage.gateway_url}/readyz")
    yield part
    if part.process and part.process.poll() is None:
        part.process.send_signal(signal.SIGCONT)
    part.stop()
    print(part.log.read_text(errors="replace"))


@pytest.fixture
def agent(stage: Zmq) -> Iterator[Part]:
    part = stage.agent()
    part.start(f"{stage.agent_url}/readyz")
    yield part
    part.stop(5)
    print(part.log.read_text(errors="replace"))


SEND = """
    import sendoff, sys
    sendoff.init(sys.argv[1], service="shop")
    for number in range({n}):
        sendoff.event("order", number=number)
        sendoff.increment("sold", 2)
    assert sendoff.flush(20), sendoff.stats()
"""


TRY = "import sendoff, sys; sendoff.init(sys.argv[1]); sendoff.event('x'); print(sendoff.flush(2))"


@pytest.mark.parametrize("listen", ["ipc://{folder}/agent.zmq", "tcp://127.0.0.1:{port}"])
def test_what_an_app_sends_by_zeromq_gets_to_the_gateway_by_zeromq(listen: str, tmp_path: Path) -> None:
    stage = Zmq(tmp_path, listen)
    gateway, agent = stage.gateway(), stage.agent()
    gateway.start(f"{stage.gateway_url}/readyz")
    agent.start(f"{stage.agent_url}/readyz")
    try:
        done = stage.run(SEND.format(n=200))
        assert done.returncode == 0, done.stderr
        wait_until("all stored", lambda: stage.stored() == (200, 400))
        (memo,) = (each for each in stage.status()["clients"] if each["service"] == "shop")
        assert (memo["events"], memo["gap"], memo["state"]) == (200, 0, "ended")
        ledgers = get_json(f"{stage.gateway_url}/api/v1/{PROJECT}/ledger")
        assert ledgers, "the agent's books came along"
    finally:
        agent.stop(5)
        gateway.stop()


def test_a_named_client_sends_by_curve_and_a_reload_lets_another_one_in(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "curve").mkdir()
    stage = Zmq(tmp_path / "curve", f"tcp://127.0.0.1:{port}")

    def key(name: str) -> tuple[str, str]:
        made = subprocess.run(
            [BIN / "sendoff", "agent", "--config", stage.config, "curve", name, "--json"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found = json.loads(made.stdout)
        return found["app"], f'{name} = "{found["public"]}"'

    stage.output = ""
    shop, blog = key("shop"), key("blog")
    stage.write(clients=f"clients = {{ {shop[1]} }}\n")
    agent = stage.agent()
    agent.start(f"{stage.agent_url}/readyz")
    try:
        assert stage.run(SEND.format(n=5), shop[0]).returncode == 0
        refused = stage.run(
            "import sendoff, sys; sendoff.init(sys.argv[1]); sendoff.event('x'); print(sendoff.flush(2))", blog[0]
        )
        assert refused.stdout.strip() == "False"
        stage.write(clients=f"clients = {{ {shop[1]}, {blog[1]} }}\n")
        reloaded = subprocess.run(
            [BIN / "sendoff", "reload", "--config", stage.config], capture_output=True, text=True, check=False,
            env={**os.environ, "SENDOFF_SOCKET": f"{stage.folder}/agent.sock"},
        )  # fmt: skip
        assert reloaded.returncode == 0, reloaded.stderr
        done = stage.run(SEND.format(n=5), blog[0])
        assert done.returncode == 0, done.stderr
        found = stage.doctor()
        way = next(hop for hop in found["hops"] if ", zmq " in hop["name"])
        assert way["state"] == "arrived", "the doctor shows the agent's own key"
    finally:
        agent.stop(5)


def test_an_agent_that_is_killed_and_started_again_has_each_event_once(stage: Zmq, gateway: Part, agent: Part) -> None:
    app = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent("""
                import sendoff, sys, time
                sendoff.init(sys.argv[1], service="shop")
                for number in range(2000):
                    while sendoff.event("order", number=number) is None: time.sleep(0.001)
                    if number % 100 == 0: time.sleep(0.05)
                assert sendoff.flush(30), sendoff.stats()
            """),
            stage.address,
        ]
    )
    wait_until("some", lambda: stage.status()["inputs"][-1]["frames"] > 200)
    assert agent.process
    agent.process.kill()
    agent.process.wait()
    agent.start(f"{stage.agent_url}/readyz")
    assert app.wait(60) == 0
    wait_until("all stored", lambda: stage.stored()[0] == 2000)
    assert get_json(f"{stage.gateway_url}/api/v1/{PROJECT}/counts")["conflicts"] == 0


def test_a_gateway_that_is_paused_and_killed_gets_each_batch_once(stage: Zmq, gateway: Part, agent: Part) -> None:
    assert gateway.process
    for round_number in range(1, 4):
        if round_number == 2:
            gateway.process.send_signal(signal.SIGSTOP)
        assert stage.run(SEND.format(n=300)).returncode == 0
        if round_number == 2:
            time.sleep(0.5)  # batches are on their way, and nobody answers
            gateway.process.kill()
            gateway.process.wait()
            gateway.start(f"{stage.gateway_url}/readyz")
        wait_until("all stored", lambda n=round_number: stage.stored() == (300 * n, 600 * n), seconds=60)
    assert get_json(f"{stage.gateway_url}/api/v1/{PROJECT}/counts")["conflicts"] == 0
    wait_until("flowing", lambda: stage.status()["outputs"][0]["state"] == "flowing")


def test_the_doctor_names_what_is_wrong_with_an_output_over_zeromq(stage: Zmq, gateway: Part, agent: Part) -> None:
    found = stage.doctor()
    assert found["faults"] == []
    assert {hop["state"] for hop in found["hops"]} == {"arrived"}
    right = stage.output
    nobody = "A" * 42 + "E"
    cases = {
        "key_refused": re.sub(r'key = "[\w-]+"', f'key = "{nobody}"', right),
        "server_key_wrong": re.sub(r"server=[\w-]+", f"server={nobody}", right),
        "no_gateway": right.replace(f":{stage.zmq_port}?", f":{stage.gateway_port}?"),
        "unreachable": right.replace(f":{stage.zmq_port}?", f":{free_port()}?"),
    }
    for code, output in cases.items():
        stage.output = output
        stage.write()
        found = stage.doctor()
        assert code in [each["code"] for each in found["faults"]], found["faults"]
        named = next(each for each in found["faults"] if each["code"] == code)
        assert named["words"].startswith("output main: ")
        assert named["remedy"]
