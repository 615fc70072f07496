"""The first exception of the README, as it says."""

from __future__ import annotations

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
