"""Apps that send to a real gateway by ZeroMQ with CURVE, without an agent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
import urllib.error
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from demo.parts import BIN, Part, Stage, free_port, get_json, wait_until

from .conftest import PROJECT

RunApp = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def zmq_gateway(stage: Stage) -> Iterator[Part]:
    """A gateway that listens for ZeroMQ, running."""
    listen = f'[gateway.zmq]\nlisten = "127.0.0.1:{free_port()}"\n'
    stage.config.write_text(stage.config.read_text() + listen)
    part = stage.gateway()
    part.start(f"{stage.gateway_url}/readyz")
    yield part
    part.stop()
    print(part.log.read_text(errors="replace"))


def events(stage: Stage, project: str = PROJECT) -> int:
    count: int = get_json(f"{stage.gateway_url}/api/v1/{project}/counts")["events"]
    return count


def total(stage: Stage, name: str) -> float:
    try:
        found = get_json(f"{stage.gateway_url}/api/v1/{PROJECT}/metrics/total?name={name}&range=1h")
    except urllib.error.HTTPError:  # nothing of this name has come yet
        return 0.0
    return float(sum(each["sum"] for each in found["totals"]))


def test_an_app_and_its_forks_send_to_the_gateway(stage: Stage, zmq_gateway: Part, run_app: RunApp) -> None:
    code = """
        import os, sendoff
        sendoff.init(service="shop")
        def send():
            for number in range(100):
                sendoff.event("order.placed", number=number)
                sendoff.increment("orders", 2)
            return sendoff.flush(10)
        first = send()
        pid = os.fork()
        if pid == 0: os._exit(not send())
        print(first, os.waitpid(pid, 0)[1], send(), sendoff.stats()["trouble"])
    """
    done = run_app(code, SENDOFF_ADDRESS=stage.make_key(PROJECT, curve=True))
    assert (done.stdout, done.stderr) == ("True 0 True \n", "")
    assert events(stage) == 300
    assert total(stage, "orders") == 600, "stored before it is acknowledged, not a second later"


KILLED = """
    import sys, threading, time, sendoff
    sendoff.init(service="shop", linger=30)
    sent = [0, 0]
    end = time.monotonic() + 4
    def work(which):
        while time.monotonic() < end:
            sent[which] += sendoff.event("order.placed", which=which, text="x" * 500) is not None
            sendoff.increment("orders")
            time.sleep(0.001)
    threads = [threading.Thread(target=work, args=(which,)) for which in (0, 1)]
    [each.start() for each in threads]; [each.join() for each in threads]
    print(sendoff.flush(30), sum(sent), sendoff.stats()["connects"] > 3, sendoff.stats()["dropped"])
"""


def test_a_gateway_killed_again_and_again_has_every_event_and_every_point_once(stage: Stage, zmq_gateway: Part) -> None:
    address = stage.make_key(PROJECT, curve=True)
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED)],
        env={**os.environ, "SENDOFF_ADDRESS": address},
        stdout=subprocess.PIPE,
        text=True,
    ) as app:
        for _ in range(4):
            time.sleep(0.4)
            assert zmq_gateway.process is not None
            zmq_gateway.process.kill()
            zmq_gateway.process.wait()
            zmq_gateway.start(f"{stage.gateway_url}/readyz")
        answer, _ = app.communicate(timeout=60)
    flushed, sent, often, dropped = answer.strip().split(maxsplit=3)
    assert (flushed, often, dropped) == ("True", "True", "{}")
    assert events(stage) == int(sent)
    wait_until("all points", lambda: total(stage, "orders") == int(sent))


def test_a_key_that_is_revoked_is_cut_off_and_says_so_while_another_goes_on(stage: Stage, zmq_gateway: Part) -> None:
    code = """
        import sys, time, sendoff
        sendoff.init(service="shop", linger=0)
        sendoff.event("order.placed")
        print(sendoff.flush(10), flush=True)
        sys.stdin.readline()
        sendoff.event("order.placed")
        print(sendoff.flush(1), sendoff.stats()["trouble"], sendoff.stats()["held"], flush=True)
    """
    addresses = [stage.make_key(project, curve=True) for project in (PROJECT, "other")]
    apps = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={**os.environ, "SENDOFF_ADDRESS": address},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for address in addresses
    ]
    said: list[str] = []
    for app in apps:
        assert app.stdout is not None
        said.append(app.stdout.readline())
    assert said == ["True\n", "True\n"]
    revoke(stage, PROJECT)
    wait_until("cut off", lambda: "works no longer" in zmq_gateway.log.read_text())
    revoked, other = (app.communicate("\n", timeout=30)[0] for app in apps)
    assert revoked.startswith("False ")
    assert "does not know this key, or it was revoked" in revoked
    assert revoked.endswith(" 1\n"), "the event is kept"
    assert other == "True  0\n"
    assert events(stage) == 1
    assert events(stage, "other") == 2


def revoke(stage: Stage, project: str) -> None:
    command = [str(BIN / "sendoff"), "gateway", "keys"]
    config = ["--config", str(stage.config)]
    listed: list[dict[str, Any]] = json.loads(subprocess.check_output([*command, "list", "--json", *config]))
    for key in listed:
        if key["project"] == project:
            subprocess.run([*command, "revoke", str(key.get("id", key.get("key"))), *config], check=True)
