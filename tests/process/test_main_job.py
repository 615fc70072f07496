"""The main job over real processes: app, agent, gateway; an outage, a crash, a shut-down."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable

from demo.accounts import Api
from demo.parts import Part, Stage, get_json, wait_until
from tests.process.conftest import PROJECT

Run = Callable[..., "subprocess.CompletedProcess[str]"]

TEN_EVENTS = """
    import sendoff
    sendoff.init(service="till", env="test")
    for number in range(10):
        assert sendoff.event("sale", ref=str(number))
    sendoff.increment("sales", 10, shop="north")
"""


def refs(stage: Stage) -> Counter[str]:
    return Counter(event["fields"]["ref"] for event in Api(stage, PROJECT).pages("events?name=sale", "events"))


def agent_books(stage: Stage) -> dict[str, list[dict[str, object]]]:
    books: dict[str, list[dict[str, object]]] = get_json(f"{stage.agent_url}/status.json")["books"]
    return books


def test_events_and_counters_of_an_app_reach_the_gateway_once(
    stage: Stage, gateway: Part, agent: Part, run_app: Run
) -> None:
    done = run_app(TEN_EVENTS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    wait_until("ten sales stored", lambda: refs(stage) == Counter(map(str, range(10))))
    wait_until("the counter stored", lambda: Api(stage, PROJECT).total("sales") == 10)


def test_what_was_sent_while_the_gateway_was_down_arrives_when_it_is_back(
    stage: Stage, agent: Part, run_app: Run
) -> None:
    assert run_app(TEN_EVENTS).returncode == 0
    wait_until("spooled", lambda: sum(row["pending"] for row in agent_books(stage)["events"]) == 10)  # type: ignore[misc]
    gateway = stage.gateway()
    try:
        gateway.start(f"{stage.gateway_url}/readyz")
        wait_until("ten sales stored", lambda: refs(stage) == Counter(map(str, range(10))), seconds=40)
        wait_until("the counter stored", lambda: Api(stage, PROJECT).total("sales") == 10)
    finally:
        gateway.stop()


def test_an_agent_that_is_killed_loses_no_event_and_shows_none_twice(stage: Stage, gateway: Part, agent: Part) -> None:
    code = """
import sendoff, sys, time
sendoff.init(service="till", env="test", linger=20)
for number in range(600):
    assert sendoff.event("sale", ref=str(number))
    time.sleep(0.002)
"""
    env = {**os.environ, "SENDOFF_SOCKET": f"{stage.folder}/agent.sock"}
    app = subprocess.Popen([sys.executable, "-c", code], env=env)
    try:
        for _ in range(2):
            time.sleep(0.3)  # let some events pass before each blow
            assert agent.process is not None
            agent.process.kill()
            agent.process.wait()
            agent.start(f"{stage.agent_url}/readyz")
        assert app.wait(40) == 0
    finally:
        app.kill()
    wait_until("all sales stored", lambda: len(refs(stage)) == 600, seconds=40)
    assert set(refs(stage).values()) == {1}


def test_an_app_without_an_agent_runs_as_if_nothing_were_there(run_app: Run) -> None:
    began = time.monotonic()
    done = run_app("""
        import sendoff
        sendoff.init(service="till")
        sendoff.increment("sales")
        try:
            1 / 0
        except ZeroDivisionError:
            sendoff.capture_exception()
        sendoff.close()
        print("done")
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    assert time.monotonic() - began < 20


def test_garbage_on_every_input_is_counted_and_a_good_event_still_gets_through(
    stage: Stage, gateway: Part, agent: Part, run_app: Run
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for rubbish in (b"\xff\xfe\x00", b"{not json\n", b"a:1e400|c", b"{" * 3000, b"\x00" * 60_000, b""):
            udp.sendto(rubbish, ("127.0.0.1", stage.statsd_port))
    for rubbish in (
        b"\x00\x00\x00\x00",
        struct.pack("<I", 2**31),
        struct.pack("<I", 9) + b"{}\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", stage.statsd_port)) as tcp:
            tcp.sendall(rubbish)
        with socket.socket(socket.AF_UNIX) as unix:
            unix.connect(f"{stage.folder}/agent.sock")
            unix.sendall(rubbish)
    assert run_app(TEN_EVENTS).returncode == 0
    wait_until("ten sales stored", lambda: len(refs(stage)) == 10)

    def counted() -> bool:
        books = agent_books(stage)
        return sum(sum(row["rejected"].values()) for row in books["lines"]) >= 2  # type: ignore[attr-defined,misc]

    wait_until("rejected lines counted", counted)
    assert agent.process is not None
    assert agent.process.poll() is None


def test_the_first_sigterm_drains_and_the_second_forces(stage: Stage, agent: Part, run_app: Run) -> None:
    with socket.create_server(("127.0.0.1", stage.gateway_port)):  # a gateway that takes connections and never answers
        assert run_app(TEN_EVENTS).returncode == 0
        wait_until("spooled", lambda: sum(row["pending"] for row in agent_books(stage)["events"]) == 10)  # type: ignore[misc]
        assert agent.process is not None
        agent.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert agent.process.poll() is None, "it drains: the gateway has not answered yet"
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(5) != 0
    agent.start(f"{stage.agent_url}/readyz")
    assert sum(row["pending"] for row in agent_books(stage)["events"]) == 10  # type: ignore[misc]
