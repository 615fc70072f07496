"""`sendoff agent`, `gateway`, `dev` and `status` against each other, as real processes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from functools import partial
from typing import Any

from server.tests.cli.support import Sendoff, read_until, wait_until

APP = """
import sendoff
sendoff.init(service="till")
assert sendoff.event("hello", who="world")
sendoff.increment("greetings", 3)
"""


def status_of(sendoff: Sendoff) -> dict[str, Any]:
    done = sendoff("status", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_agent_says_where_it_listens_and_what_is_missing(sendoff: Sendoff) -> None:
    agent = sendoff.begin("agent")
    said = read_until(agent, "no output is set up")
    assert re.search(r"listens on .*unix .*/run/sendoff/agent.sock", said)
    found = status_of(sendoff)
    assert found["pid"] == agent.pid
    shown = sendoff("status")
    assert shown.returncode == 0
    assert "the books balance" in shown.stdout
    agent.send_signal(signal.SIGINT)
    assert agent.wait(30) == 0


def test_a_second_agent_on_the_same_spool_is_told_who_holds_it(sendoff: Sendoff) -> None:
    agent = sendoff.begin("agent")
    read_until(agent, "no output is set up")
    second = sendoff("agent", SENDOFF_LOG="text", SENDOFF_INPUTS_UNIX_PATH=f"{sendoff.folder}/second.sock")
    assert second.returncode == 1
    assert str(agent.pid) in second.stderr
    assert "Traceback" not in second.stderr


def test_an_address_that_is_taken_is_named_with_what_to_do(sendoff: Sendoff) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for command, variable in (("agent", "SENDOFF_WEB_LISTEN"), ("gateway", "SENDOFF_GATEWAY_LISTEN")):
            done = sendoff(command, SENDOFF_LOG="text", **{variable: f"127.0.0.1:{port}"})
            assert done.returncode == 1
            assert str(port) in done.stderr
            assert "Traceback" not in done.stderr


def test_the_gateway_says_how_the_first_key_is_made_until_there_is_one(sendoff: Sendoff) -> None:
    gateway = sendoff.begin("gateway")
    read_until(gateway, "sendoff gateway keys create")
    gateway.terminate()
    assert gateway.wait(30) == 0
    sendoff("gateway", "keys", "create", "shop")
    gateway = sendoff.begin("gateway")
    read_until(gateway, "gateway listens on")
    gateway.terminate()
    assert "keys create" not in gateway.communicate(timeout=30)[1]


def test_dev_shows_what_an_app_sent_and_keeps_its_key_for_the_next_time(sendoff: Sendoff) -> None:
    keys = set()
    for number in (1, 2):
        dev = sendoff.begin("dev")
        said = read_until(dev, "Ctrl-C ends it", out=True)
        found = re.search(r"look here +(http://\S+)/dev/", said)
        assert found is not None
        app = subprocess.run(
            [sys.executable, "-c", APP], env=sendoff.environ, capture_output=True, text=True, timeout=60, check=True
        )
        assert app.stderr == ""
        wait_until(partial(number_of_events_is, number, found[1]))
        keys.add((sendoff.folder / "dev/key").read_text())
        dev.send_signal(signal.SIGINT)
        assert dev.wait(30) == 0
    assert len(keys) == 1
    assert (sendoff.folder / "dev/key").stat().st_mode & 0o777 == 0o600


def number_of_events_is(number: int, gateway: str) -> bool:
    with urllib.request.urlopen(f"{gateway}/api/v1/dev/events", timeout=10) as answer:
        return len(json.load(answer)["events"]) == number


def test_dev_takes_free_places_beside_an_agent_that_runs(sendoff: Sendoff) -> None:
    agent = sendoff.begin("agent")
    read_until(agent, "no output is set up")
    taken = status_of(sendoff)["addresses"]
    beside = {"SENDOFF_INPUTS_UDP_LISTEN": taken["udp"], "SENDOFF_WEB_LISTEN": taken["web"]}
    dev = sendoff.begin("dev", **beside)
    said = read_until(dev, "Ctrl-C ends it", out=True)
    assert f'os.environ["SENDOFF_SOCKET"] = "{sendoff.folder}/dev/agent.sock"' in said
    assert taken["udp"] not in said
    assert f"http://{taken['web']}" not in said
    os.kill(dev.pid, signal.SIGTERM)
    assert dev.wait(30) == 0


def test_dev_takes_what_comes_over_zeromq_by_the_line_that_it_prints(sendoff: Sendoff) -> None:
    dev = sendoff.begin("dev")
    said = read_until(dev, "Ctrl-C ends it", out=True)
    look, line = re.search(r"look here +(http://\S+)/dev/", said), re.search(r"over ZeroMQ: (.+)", said)
    assert look
    assert line
    code = f"import sendoff; {line[1]}; sendoff.event('hello', who='world'); assert sendoff.flush(10)"
    subprocess.run([sys.executable, "-c", code], env=sendoff.environ, timeout=60, check=True)
    wait_until(partial(number_of_events_is, 1, look[1]))
    dev.send_signal(signal.SIGINT)
    assert dev.wait(30) == 0


def test_the_doctor_finds_nothing_wrong_with_dev(sendoff: Sendoff) -> None:
    dev = sendoff.begin("dev")
    read_until(dev, "Ctrl-C ends it", out=True)
    done = sendoff("doctor", "--json")
    assert json.loads(done.stdout)["faults"] == []
    assert done.returncode == 0
    dev.send_signal(signal.SIGINT)
    assert dev.wait(30) == 0


def test_dev_starts_also_where_the_gateway_listens_on_every_address(sendoff: Sendoff) -> None:
    dev = sendoff.begin("dev", SENDOFF_GATEWAY_LISTEN="0.0.0.0:0", SENDOFF_WEB_LISTEN="")
    assert "its pages are switched off" in read_until(dev, "Ctrl-C ends it", out=True)
    dev.send_signal(signal.SIGINT)
    assert dev.wait(30) == 0
