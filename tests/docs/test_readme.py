"""The first exception of the README, as it says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from demo.accounts import Api
from demo.parts import BIN, Part, Stage, free_port, wait_until
from tests.docs.pages import page
from tests.docs.test_examples import ask
from tests.process.conftest import PROJECT


@pytest.fixture
def app(tmp_path: Path) -> str:
    """The block below the comment that says so."""
    code = page("README.md").partition("<!-- tests/docs runs this block -->\n```python\n")[2].partition("```")[0]
    (tmp_path / "app.py").write_text(code)
    return code


def test_the_app_of_the_readme_shows_its_exception_its_event_and_its_counter(
    app: str, stage: Stage, gateway: Part, agent: Part
) -> None:
    assert "ZeroDivisionError" in page("README.md")
    port = free_port()
    part = Part(
        "flask run",
        [str(BIN / "flask"), "run", f"--port={port}"],
        stage.folder / "flask.log",
        {"SENDOFF_SOCKET": f"{stage.folder}/agent.sock"},
        stage.folder,
    )
    try:
        part.start(f"http://127.0.0.1:{port}/orders/7")
        assert ask(f"http://127.0.0.1:{port}/orders/0").status == 500
    finally:
        part.stop()
    api = Api(stage, PROJECT)
    wait_until("the exception stored", lambda: list(api.pages("exceptions", "exceptions")))
    wait_until("the counter stored", lambda: api.totals_by("orders.seen", "country")["PL"] >= 2)
    (group,) = api.pages("exceptions", "exceptions")
    assert (group["name"], group["count"]) == ("ZeroDivisionError", 1)
    numbers = {event["fields"]["number"] for event in api.pages("events?name=order.seen", "events")}
    assert numbers == {7}


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_commands_without_an_agent_store_an_event(tmp_path: Path) -> None:
    code = page("README.md").partition("<!-- tests/docs runs this block, too -->\n```\n")[2].partition("\n```")[0]
    assert "try/bin/sendoff gateway &" in code
    port = str(free_port())
    code = code.replace("try/bin/", f"{BIN}/").replace("8700", port).replace("curl ", "curl -s ")
    # The gateway has no file of settings here either; only its port and its folder are the test's.
    folder = {"SENDOFF_GATEWAY_LISTEN": f"127.0.0.1:{port}", "SENDOFF_GATEWAY_DATA_DIR": str(tmp_path)}
    # Whoever pastes it does so line by line, and the gateway is there before the next is typed.
    ready = f"until curl -sfo /dev/null http://127.0.0.1:{port}/readyz; do sleep 0.1; done\n"
    begin, rest = code.split("\n", 1)
    script = f"{begin}\nGATEWAY=$!\n{ready}{rest}\nkill $GATEWAY; wait $GATEWAY\n"
    env = {**os.environ, **folder, "SENDOFF_CONFIG": ""}
    done = subprocess.run(
        ["/bin/sh", "-c", script], capture_output=True, text=True, timeout=60, env=env, cwd=tmp_path, check=False
    )
    (event,) = json.loads(done.stdout[done.stdout.index('{"') :])["events"]
    assert (event["name"], event["service"], event["fields"]) == ("order.placed", "shop", {"order": 17}), done.stderr
