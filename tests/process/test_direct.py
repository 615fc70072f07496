"""An application without an agent, and a gateway that is killed under it: real processes, over HTTP."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter

from demo.accounts import Api
from demo.parts import Part, Stage, wait_until
from tests.process.conftest import PROJECT

APP = """
import sendoff, threading, time
sendoff.init(service="till", env="test", linger=30)
orders = sendoff.counter("orders")
def work(name):
    for number in range(600):
        assert sendoff.event("sale", ref=f"{name}-{number}")
        orders.increment(3)
        sendoff.distribution("size", number % 7)
        time.sleep(0.01)
threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
for thread in threads: thread.start()
print("running", flush=True)
for thread in threads: thread.join()
print(sendoff.flush(30), sendoff.stats()["dropped"], sendoff.stats()["internal_error"])
"""


def test_a_gateway_that_is_killed_under_an_app_has_every_event_and_point_once_in_the_end(
    stage: Stage, gateway: Part
) -> None:
    address = stage.gateway_url.replace("http://", f"http://{stage.make_key(PROJECT)}@")
    app = subprocess.Popen(
        [sys.executable, "-c", APP], stdout=subprocess.PIPE, text=True, env={"SENDOFF_ADDRESS": address}
    )
    api = Api(stage, PROJECT)

    def stored() -> Counter[str]:
        return Counter(event["fields"]["ref"] for event in api.pages("events?name=sale", "events"))

    had = 0
    for _ in range(3):
        wait_until("more of them stored", lambda had=had: len(stored()) > had + 100)
        had = len(stored())
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGKILL)
        gateway.process.wait()
        gateway.start(f"{stage.gateway_url}/readyz")
    out, _ = app.communicate(timeout=60)
    assert out.split("\n")[1] == "True {} 0"
    assert stored() == Counter(f"{name}-{number}" for name in "abc" for number in range(600))
    assert api.total("orders") == 3 * 600 * 3
