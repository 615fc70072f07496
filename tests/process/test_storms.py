"""A storm of one exception over real processes: app, agent and gateway, with the agent killed in the middle of it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from demo.accounts import Api
from demo.parts import Part, Stage, get_json, wait_until
from tests.process.conftest import PROJECT

SECONDS = 60
STORM = 6_000

APP = f"""
import sendoff, time
sendoff.init(service="till", env="test", linger=50)

def until(sent):
    while not sent():
        time.sleep(0.01)  # the buffer is full

def fail():
    raise KeyError("sku")

def fail_otherwise():
    raise ValueError("another one")

for number in range({STORM}):
    try:
        fail()
    except KeyError as error:
        until(lambda: sendoff.capture_exception(error))
    if number % 1000 == 500:
        try:
            fail_otherwise()
        except ValueError as error:
            until(lambda: sendoff.capture_exception(error))
        until(lambda: sendoff.event("sale", ref=str(number)))
"""


def book(stage: Stage) -> dict[str, Any]:
    """The agent's book of the app's events, which balances at every look."""
    books = get_json(f"{stage.agent_url}/status.json")["books"]
    assert books["balanced"], books["imbalances"]
    own = [row for row in books["events"] if row["source"] == "till"]
    return own[0] if own else {"received": 0}


def group(stage: Stage, name: str) -> dict[str, Any]:
    found = Api(stage, PROJECT).pages("exceptions?range=24h", "exceptions")
    return next((each for each in found if each["name"] == name), {"count": 0})


def sales(stage: Stage) -> list[str]:
    return [event["fields"]["ref"] for event in Api(stage, PROJECT).pages("events?name=sale", "events")]


def start(stage: Stage) -> subprocess.Popen[bytes]:
    env = {**os.environ, "SENDOFF_SOCKET": f"{stage.folder}/agent.sock"}
    return subprocess.Popen([sys.executable, "-c", APP], env=env)


def all_is_counted(stage: Stage) -> None:
    """Everything that the app sent is counted at the gateway, and the little there is to look at says so."""
    wait_until("all is counted", lambda: group(stage, "KeyError")["count"] >= STORM, seconds=SECONDS)
    found = group(stage, "KeyError")
    assert found["count"] == found["in_range"] == STORM
    wait_until("the other exception is there", lambda: group(stage, "ValueError")["count"] == STORM // 1_000)
    assert group(stage, "ValueError")["folded_in_range"] == 0
    wait_until("the events are there", lambda: len(sales(stage)) == 6)


def test_a_storm_hides_nothing_and_every_one_of_it_is_counted_at_the_gateway(
    stage: Stage, gateway: Part, agent: Part
) -> None:
    app = start(stage)
    try:
        wait_until("the last sale is there", lambda: _sale(stage, STORM - 500), seconds=SECONDS)
        assert app.wait(SECONDS) == 0
    finally:
        app.kill()
    status = get_json(f"{stage.agent_url}/status.json")
    assert book(stage)["received"] == STORM + 12
    assert status["spool"]["used_bytes"] < 1024 * 1024
    agent.stop()  # what is folded goes out before the minute is over
    agent.start(f"{stage.agent_url}/readyz")
    all_is_counted(stage)
    folded = group(stage, "KeyError")["folded_in_range"]
    assert STORM - folded in (101, 202)  # 100 a minute and one for the rest, if it took no longer than two
    wait_until("the books say so", lambda: book(stage)["folded"] == folded)
    assert book(stage)["delivered"] == STORM - folded + 12


def test_an_agent_that_is_killed_in_a_storm_leaves_nothing_acknowledged_uncounted(
    stage: Stage, gateway: Part, agent: Part
) -> None:
    app = start(stage)
    try:
        for part in (1, 2):
            wait_until("the storm rages", lambda part=part: _received(stage) >= part * STORM // 3, seconds=SECONDS)
            assert agent.process is not None
            agent.process.kill()
            agent.process.wait()
            agent.start(f"{stage.agent_url}/readyz")
        assert app.wait(SECONDS) == 0
    finally:
        app.kill()
    agent.stop()
    agent.start(f"{stage.agent_url}/readyz")
    all_is_counted(stage)
    wait_until("nothing is pending", lambda: book(stage)["pending"] == 0)
    found = book(stage)
    assert found["received"] == found["delivered"] + found["folded"] == STORM + 12
    assert found["delivered"] < 500


def _received(stage: Stage) -> int:
    return int(book(stage)["received"])


def _sale(stage: Stage, ref: int) -> bool:
    """Whether an event of the storm's end is shown; meanwhile the books are looked at."""
    book(stage)
    return str(ref) in sales(stage)
