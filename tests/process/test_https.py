"""A gateway with a certificate of its own, and who sends to it over TLS: an app without an agent, and an agent."""

from __future__ import annotations

import subprocess
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.parts import Part, Stage, get_json, wait_until
from server.tests.delivery import certificates

from .conftest import PROJECT, running

RunApp = Callable[..., "subprocess.CompletedProcess[str]"]
APP = """
    import sendoff
    sendoff.init(service="shop")
    for number in range(100):
        sendoff.event("order.placed", number=number)
        sendoff.increment("orders", 2)
        sendoff.timing("took", number)
    print(sendoff.flush(10), sendoff.stats()["trouble"])
"""


@pytest.fixture
def secure(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A gateway that runs with a certificate, which everybody trusts."""
    certificates.make_ca(tmp_path)
    certificates.make_server(tmp_path, "gateway", host="DNS:localhost,IP:127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", f"{tmp_path}/ca.pem")
    text = stage.config.read_text().replace(stage.gateway_url, url(stage))
    named = f'[gateway]\ncertificate = "{tmp_path}/gateway.pem"\ncertificate_key = "{tmp_path}/gateway.key"\n'
    stage.config.write_text(text.replace("[gateway]\n", named))
    for _ in running(stage.gateway(), f"{url(stage)}/readyz"):
        yield stage


def url(stage: Stage) -> str:
    return stage.gateway_url.replace("http://127.0.0.1", "https://localhost")


def counts(stage: Stage) -> Any:
    return get_json(f"{url(stage)}/api/v1/{PROJECT}/counts")


def total(stage: Stage, name: str) -> float:
    try:
        found = get_json(f"{url(stage)}/api/v1/{PROJECT}/metrics/total?name={name}&range=1h")
    except urllib.error.HTTPError:  # nothing of this name has come yet
        return 0.0
    return float(sum(each["sum"] for each in found["totals"]))


def test_an_app_sends_to_the_gateway_without_an_agent(secure: Stage, run_app: RunApp) -> None:
    key = secure.make_key(PROJECT)
    done = run_app(APP, SENDOFF_ADDRESS=url(secure).replace("https://", f"https://{key}@"))
    assert (done.stdout, done.stderr) == ("True \n", "")
    assert counts(secure)["events"] == 100
    wait_until("counted", lambda: total(secure, "orders") == 200)


def test_an_agent_delivers_to_a_gateway_with_a_certificate(secure: Stage, agent: Part, run_app: RunApp) -> None:
    done = run_app(APP)
    assert (done.stdout, done.stderr) == ("True \n", "")
    wait_until("delivered", lambda: counts(secure)["events"] == 100 and total(secure, "orders") == 200)


def test_a_key_that_was_revoked_is_named_and_shown_nowhere(secure: Stage, run_app: RunApp) -> None:
    address = url(secure).replace("https://", "https://so_" + "x" * 40 + "@")
    code = """
        import sendoff, time
        sendoff.init(service="shop", linger=0)
        sendoff.event("order.placed")
        while not sendoff.stats()["trouble"]:
            time.sleep(0.01)
        print(sendoff.stats())
    """
    done = run_app(code, SENDOFF_ADDRESS=address)
    assert "does not know the key (401)" in done.stdout
    assert "x" * 10 not in done.stdout
    assert counts(secure)["events"] == 0
