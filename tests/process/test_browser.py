"""A browser opens the gateway's pages and finds what an app raised."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from demo.accounts import Api
from demo.parts import Part, Stage, wait_until
from tests.process.conftest import PROJECT

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

HOSTILE = "<script>document.title = 'owned'</script>"


@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="no chromium here; `make test` as root installs Debian's")
def test_the_exception_that_an_app_raised_is_found_on_the_pages(
    stage: Stage, gateway: Part, agent: Part, run_app: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = run_app(f"""
        import sendoff
        sendoff.init(service="till", env="test", release="7")
        def charge(cents):
            raise RuntimeError({HOSTILE!r})
        try:
            charge(4900)
        except RuntimeError:
            sendoff.capture_exception()
    """)
    assert done.returncode == 0
    wait_until("stored", lambda: any(Api(stage, PROJECT).pages("exceptions", "exceptions")))
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{stage.gateway_url}/")
        page.goto(f"{stage.gateway_url}/{PROJECT}/")
        page.get_by_role("navigation").get_by_role("link", name="Exceptions").click()
        page.get_by_role("main").get_by_role("link", name="RuntimeError").first.click()
        text = page.get_by_role("main").inner_text()
        title = page.title()
        browser.close()
    assert HOSTILE in text
    assert "charge" in text
    assert "4900" in text, "the locals of the frame"
    assert title != "owned"
    assert complaints == []
