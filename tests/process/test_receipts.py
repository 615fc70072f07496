"""Receipts from a real agent: over its death, and for what it refuses."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter

from demo.accounts import Api
from demo.parts import Part, Stage, wait_until
from tests.process.conftest import PROJECT

WAITS = """
import sendoff
sendoff.init(service="till")
receipt = sendoff.event("sale", confirm=True, ref="1")
print(receipt.state, flush=True)
print(receipt.wait(60), receipt.state, receipt.id, flush=True)
"""

REFUSED = """
import sendoff
from sendoff import current
from sendoff.sending.holder import Durable
from sendoff.frame import uuid7
sendoff.init(service="till")
good = sendoff.event("sale", confirm=True, ref="1")
bad = sendoff.Receipt()
outbox = current.client.outbox
bad.belongs_to(outbox, uuid7(1, b"0123456789"))
outbox.submit(Durable("event", bad.id, 1, b"this is no JSON", bad))
print(good.wait(30), bad.wait(30), bad.state, bad.reason)
"""


def test_a_wait_over_the_death_of_the_agent_ends_with_the_event_stored_once(
    stage: Stage, gateway: Part, agent: Part
) -> None:
    assert agent.process is not None
    agent.process.send_signal(signal.SIGSTOP)  # it is connected to and written to, and answers nothing
    env = {"SENDOFF_SOCKET": f"{stage.folder}/agent.sock"}
    app = subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, text=True, env=env)
    try:
        assert app.stdout is not None
        assert app.stdout.readline() == "pending\n"
        agent.process.kill()
        agent.process.wait(20)
        agent.start(f"{stage.agent_url}/readyz")
        answer, state, event_id = app.stdout.readline().split()
        assert (answer, state) == ("True", "spooled")
        assert app.wait(30) == 0
    finally:
        app.kill()
        app.communicate(timeout=20)
    api = Api(stage, PROJECT)
    wait_until("the sale stored", lambda: api.pages("events?name=sale", "events"))
    assert Counter(event["id"] for event in api.pages("events?name=sale", "events")) == {event_id: 1}


def test_an_agent_that_refuses_an_event_is_quoted(stage: Stage, agent: Part) -> None:
    env = {"SENDOFF_SOCKET": f"{stage.folder}/agent.sock"}
    done = subprocess.run(
        [sys.executable, "-c", REFUSED], capture_output=True, text=True, timeout=90, check=False, env=env
    )
    assert (done.stdout, done.stderr) == ("True False refused payload_not_json\n", "")
