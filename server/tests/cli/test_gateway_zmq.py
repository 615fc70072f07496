"""`sendoff gateway` with a ZeroMQ port, `keys … --curve` and apps, as real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest

from server.tests.cli.support import Sendoff, read_until, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

APP = """
import sys, time, sendoff
sendoff.init(sys.argv[1], service="till")
assert sendoff.event("hello", who="world")
sendoff.increment("greetings", 3)
print(sendoff.flush(20), flush=True)
"""
FOREVER = """
import sys, time, sendoff
sendoff.init(sys.argv[1], service="till")
number = 0
while True:
    number += 1
    sendoff.event("tick", number=number)
    time.sleep(0.001)
"""


@pytest.fixture
def port(sendoff: Sendoff) -> int:
    """A free port, on which the gateway is to listen for ZeroMQ."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        number: int = probe.getsockname()[1]
    with sendoff.config.open("a") as file:
        file.write(f'[gateway.zmq]\nlisten = "127.0.0.1:{number}"\n')
    return number


@pytest.fixture
def apps() -> Iterator[list[subprocess.Popen[str]]]:
    begun: list[subprocess.Popen[str]] = []
    yield begun
    for each in begun:
        each.kill()
        each.communicate()


def begin(apps: list[subprocess.Popen[str]], script: str, address: str) -> subprocess.Popen[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SENDOFF_")}
    apps.append(
        subprocess.Popen([sys.executable, "-c", script, address], stdout=subprocess.PIPE, text=True, env=environ)
    )
    return apps[-1]


def begin_gateway(sendoff: Sendoff) -> tuple[subprocess.Popen[str], str]:
    gateway = sendoff.begin("gateway")
    said = read_until(gateway, "gateway listens on zmq+curve://")
    found = re.search(r"gateway listens on (http://\S+)", said)
    assert found, said
    return gateway, found[1]


def made_key(sendoff: Sendoff, project: str = "shop") -> dict[str, str]:
    done = sendoff("gateway", "keys", "create", project, "--curve", "--json")
    assert done.returncode == 0, done.stderr
    made: dict[str, str] = json.loads(done.stdout)
    return made


def events(url: str, project: str = "shop") -> list[dict[str, object]]:
    with urllib.request.urlopen(f"{url}/api/v1/{project}/events?limit=1000", timeout=10) as answer:
        found: list[dict[str, object]] = json.load(answer)["events"]
    return found


def test_the_line_that_is_printed_for_an_app_works_also_when_the_key_is_older_than_the_gateway(
    sendoff: Sendoff, port: int, apps: list[subprocess.Popen[str]]
) -> None:
    done = sendoff("gateway", "keys", "create", "shop", "--curve")
    assert re.fullmatch(rf"zmq\+curve://[\w-]{{43}}@127\.0\.0\.1:{port}\?server=[\w-]{{43}}\n", done.stdout)
    address = done.stdout.strip()
    secret = address[12:55]
    assert f'key = "{secret}"' in done.stderr
    assert f'url = "{address.replace(secret + "@", "")}"' in done.stderr
    gateway, url = begin_gateway(sendoff)
    app = begin(apps, APP, address)
    assert app.wait(60) == 0
    assert app.stdout
    assert app.stdout.read() == "True\n"
    assert [each["name"] for each in events(url)] == ["hello"]
    listed = sendoff("gateway", "keys", "list").stdout
    assert "ZeroMQ" in listed
    for text in (listed, sendoff("gateway", "keys", "list", "--json").stdout, *stored(sendoff)):
        assert secret not in text
    gateway.terminate()
    assert gateway.wait(30) == 0


def stored(sendoff: Sendoff) -> list[str]:
    return [each.read_bytes().decode("latin-1") for each in (sendoff.folder / "gateway").iterdir() if each.is_file()]


def test_a_key_that_is_revoked_from_another_process_is_cut_off_while_an_app_sends(
    sendoff: Sendoff, port: int, apps: list[subprocess.Popen[str]]
) -> None:
    gateway, url = begin_gateway(sendoff)
    made = made_key(sendoff)
    begin(apps, FOREVER, made["app"])
    wait_until(lambda: _is_there(url))
    [key] = json.loads(sendoff("gateway", "keys", "list", "--json").stdout)
    assert key["curve"] is True
    began = time.monotonic()
    assert sendoff("gateway", "keys", "revoke", str(key["id"])).returncode == 0
    read_until(gateway, "works no longer; 1 connections cut")
    assert time.monotonic() - began < 5
    seen = [events(url)[0]]

    def nothing_came_for_a_while() -> bool:
        time.sleep(0.3)
        seen.append(events(url)[0])
        return seen[-1] == seen[-2]

    wait_until(nothing_came_for_a_while)  # what was taken before is stored still


def _is_there(url: str) -> bool:
    try:
        return bool(events(url))
    except OSError:
        return False  # the project is not there before its first event


def test_sigterm_stores_and_acknowledges_what_was_taken_and_the_rest_comes_after_the_restart(
    sendoff: Sendoff, port: int, apps: list[subprocess.Popen[str]]
) -> None:
    gateway, url = begin_gateway(sendoff)
    begin(apps, FOREVER, made_key(sendoff)["app"])
    wait_until(lambda: _is_there(url))
    for _ in range(2):
        gateway.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert gateway.wait(30) == 0
        assert time.monotonic() - began < 12
        gateway, url = begin_gateway(sendoff)
        wait_for_more(url)
    numbers = sorted(each["fields"]["number"] for each in events(url))  # type: ignore[index]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def wait_for_more(url: str) -> None:
    before = events(url)[0]
    wait_until(lambda: events(url)[0] != before)


def test_a_gateway_whose_port_nobody_can_use_yet_says_how_a_key_is_made(sendoff: Sendoff, port: int) -> None:
    gateway = sendoff.begin("gateway")
    read_until(gateway, "keys create PROJECT --curve")
    gateway.terminate()
    assert gateway.wait(30) == 0
    made_key(sendoff)
    gateway = sendoff.begin("gateway")
    read_until(gateway, "gateway listens on zmq+curve")
    gateway.terminate()
    assert "--curve" not in gateway.communicate(timeout=30)[1]


def test_the_key_file_is_its_users_alone_and_a_damaged_one_is_one_sentence(sendoff: Sendoff, port: int) -> None:
    made_key(sendoff)
    file = sendoff.folder / "gateway" / "zmq.key"
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("nonsense")
    for done in (sendoff("gateway", SENDOFF_LOG="text"), sendoff("gateway", "keys", "create", "a", "--curve")):
        assert done.returncode == 1
        assert "holds no key" in done.stderr
        assert "Traceback" not in done.stderr


def test_without_an_address_no_line_can_be_printed_and_that_is_said(sendoff: Sendoff) -> None:
    done = sendoff("gateway", "keys", "create", "shop", "--curve")
    assert done.returncode == 1
    assert "set gateway.zmq.listen" in done.stderr
    assert json.loads(sendoff("gateway", "keys", "list", "--json").stdout) == []
    done = sendoff("gateway", "keys", "create", "shop", "--curve", SENDOFF_GATEWAY_ZMQ_PUBLIC="gw.example:8702")
    assert "@gw.example:8702?server=" in done.stdout
    assert "does not take it yet" in done.stderr
