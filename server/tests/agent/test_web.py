"""The agent's pages: who gets them, what they say, and that they say it in every state."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from sendoff_server.agent import web as module
from sendoff_server.agent.pages import render, size, span, verdict
from sendoff_server.agent.status import KEYS
from sendoff_server.cli.status import words
from sendoff_server.spool import SpoolFailed

from .support import FrameClient, address, connect, running, settings, status, until

if TYPE_CHECKING:
    from pathlib import Path

    from sendoff_server.agent import Agent

FLOWING = {
    "name": "main",
    "type": "gateway",
    "url": "https://x.example",
    "state": "flowing",
    "last_error": None,
    "next_try_s": 0.0,
    "oldest_pending_ms": None,
    "shelved": 0,
}
HOSTILE = '<script>alert(1)</script>"\u202e\x00'


async def get(agent: Agent, path: str, host: str | None = None, method: str = "GET") -> tuple[int, Any, str]:
    url = f"http://{agent.addresses['web']}{path}"
    async with (
        aiohttp.ClientSession() as http,
        http.request(method, url, headers={"Host": host} if host is not None else {}) as answer,
    ):
        return answer.status, answer.headers, await answer.text()


async def test_the_json_has_exactly_the_keys_that_are_documented(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        code, headers, text = await get(agent, "/status.json")
        assert code == 200
        assert headers["Content-Type"].startswith("application/json")
        assert set(json.loads(text)) == set(KEYS)


async def test_the_control_socket_gives_the_same_json_to_its_owner_alone(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        path = agent.addresses["control"]
        assert path == str(tmp_path / "control.sock")
        assert (tmp_path / "control.sock").stat().st_mode & 0o777 == 0o600
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as http,
            http.get("http://anything/status.json") as answer,
        ):
            assert (await answer.json())["agent"] == (await status(agent))["agent"]
    assert not (tmp_path / "control.sock").exists()


@pytest.mark.parametrize("host", ["localhost", "localhost:8701", "127.0.0.1:1", "[::1]:8701", "127.3.2.1"])
async def test_loopback_names_are_answered(tmp_path: Path, host: str) -> None:
    async with running(tmp_path) as agent:
        assert (await get(agent, "/healthz", host))[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "10.0.0.1:8701", "", "127.0.0.1.nip.io", "[::2]:1"]
)
async def test_no_other_name_is_so_that_no_page_elsewhere_can_read_along(tmp_path: Path, host: str) -> None:
    async with running(tmp_path) as agent:
        for path in ("/", "/status.json", "/metrics", "/healthz"):
            code, _, text = await get(agent, path, host)
            assert code in (400, 421)
            assert "version" not in text


@pytest.mark.parametrize("path", ["/", "/status.json", "/nothing", "/static/tokens.css", "/static/..%2fweb.py"])
async def test_every_answer_has_the_strict_headers(tmp_path: Path, path: str) -> None:
    async with running(tmp_path) as agent:
        code, headers, _ = await get(agent, path)
        assert code == (404 if path in ("/nothing", "/static/..%2fweb.py") else 200)
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert headers["X-Content-Type-Options"] == "nosniff"


async def test_nothing_can_be_changed_here(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        assert (await get(agent, "/", method="POST"))[0] == 405
        assert (await get(agent, "/status.json", method="DELETE"))[0] == 405


async def test_the_page_needs_no_script_and_no_inline_style_and_its_sheets_are_there(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        _, headers, text = await get(agent, "/")
        assert headers["Content-Type"].startswith("text/html")
        assert "<script" not in text
        assert " style=" not in text
        for link in re.findall(r'href="(/[^"]*)"', text):
            assert (await get(agent, link))[0] == 200, link


async def test_hostile_names_are_shown_and_cannot_leave_their_place(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        client = FrameClient(agent, "a" * 32)
        await client.hello(service=HOSTILE, release=HOSTILE)
        await client.send("event", {"name": "x"}, seq=1)
        await client.send("metrics", f"{HOSTILE}:1|c\na:1|c", n=0)
        await client.acknowledged(1)
        await until("in", lambda: agent.intake.frames["unix"] == 3)
        await agent.windows.turn(agent._clock() + 2_000)
        _, _, text = await get(agent, "/")
        assert "<script" not in text
        assert "&lt;script&gt;" in text
        assert "\x00" not in text
        assert "<bdi>&lt;script" in text
        assert "sendoff_points_received_total" in (await get(agent, "/metrics"))[2]
        client.close()


async def test_ready_means_running_and_storing(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        assert (await get(agent, "/readyz"))[0] == 200
        agent.committer.blocked = "the disk is full"
        code, _, text = await get(agent, "/readyz")
        assert (code, json.loads(text)["why"]) == (503, "the spool takes no events: the disk is full")
        assert (await get(agent, "/healthz"))[0] == 200
        assert "Nothing is acknowledged" in (await get(agent, "/"))[2]
        agent.committer.blocked = None


async def test_a_disk_that_cannot_be_read_is_said_instead_of_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as agent:
        with monkeypatch.context() as patch:

            async def fail() -> None:
                raise SpoolFailed("the disk is ill")

            patch.setattr(agent._spool, "books", fail)
            code, _, text = await get(agent, "/status.json")
            assert (code, json.loads(text)) == (503, {"status": "failing", "why": "the disk is ill"})


async def test_prometheus_gets_the_numbers_of_the_ledger(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        udp = connect(agent, "udp", socket.SOCK_DGRAM)
        udp.send(b"a:1:2|c\nbad")
        await until("in", lambda: agent.intake.lines["udp"] == 1)
        await agent.windows.turn(agent._clock() + 2_000)
        _, headers, text = await get(agent, "/metrics")
        udp.close()
    assert headers["Content-Type"].startswith("text/plain")
    assert 'sendoff_points_journaled_total{source="statsd/udp"} 2.0' in text
    assert 'sendoff_lines_rejected_total{reason="no_value",source="statsd/udp"} 1.0' in text
    assert 'sendoff_output_points_pending{output="unassigned"} 2.0' in text
    assert "sendoff_books_balanced 1.0" in text


async def test_an_unknown_loss_is_shown_wherever_losses_are_shown(tmp_path: Path) -> None:
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "spool.db").write_bytes(b"rubbish")
    async with running(tmp_path) as agent:
        _, _, page = await get(agent, "/")
        _, _, text = await get(agent, "/metrics")
        found = await status(agent)
    (loss,) = found["spool"]["unknown"]
    assert loss["why"].startswith("the spool was damaged (it is not a database)")
    assert "Unknown losses" in page
    assert "the spool was damaged (it is not a database)" in page
    assert "sendoff_unknown_losses 1.0" in text
    assert "sendoff_spool_blocked 0.0" in text
    assert any("the spool was damaged" in line and loss["kept"] in line for line in words(found))
    assert verdict({**found, "outputs": [FLOWING]})[1] == "Delivering; something was lost that nobody can count"


async def test_a_connection_that_says_nothing_is_closed_and_many_do_not_keep_others_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEAD_DEADLINE", 0.2)
    monkeypatch.setattr(module, "MAX_OPEN", 5)
    async with running(tmp_path) as agent:
        with contextlib.ExitStack() as stack:
            silent = [stack.enter_context(socket.create_connection(address(agent, "web"))) for _ in range(20)]
            silent[0].sendall(b"GET / HTTP/1.1\r\nHost: local")
            assert (await get(agent, "/healthz"))[0] == 200
            for each in silent:
                each.setblocking(False)
                async with asyncio.timeout(5):
                    assert await asyncio.get_running_loop().sock_recv(each, 1) == b""


async def test_switched_off_there_is_no_page_but_the_control_socket(tmp_path: Path) -> None:
    chosen = settings(tmp_path).model_copy(update={"web": settings(tmp_path).web.model_copy(update={"listen": ""})})
    async with running(tmp_path, chosen) as agent:
        assert "web" not in agent.addresses
        assert "control" in agent.addresses


async def test_the_heading_is_the_answer(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        found = await status(agent)
    fine: dict[str, Any] = FLOWING
    away = {**fine, "name": "eu", "state": "waiting", "last_error": "503", "next_try_s": 4.0}
    books = found["books"]
    lost = {"source": "s", "received": 3, "journaled": 1, "lost": {"disk_failed": 2}}
    states: list[tuple[dict[str, Any], str, str]] = [
        ({}, "warn", "Keeping everything, delivering nothing"),
        ({"outputs": [fine]}, "good", "Ready; nothing has come yet"),
        ({"outputs": [fine, away]}, "warn", "Delivering, but eu is not answering"),
        ({"outputs": [fine, {**away, "state": "parked"}]}, "bad", "Stopped delivering to eu, which needs a person"),
        ({"outputs": [fine], "books": {**books, "points_in": [lost]}}, "warn", "Delivering; 2 were lost on this host"),
        ({"outputs": [fine], "kernel_drops": {"udp": 7}}, "warn", "Delivering; the kernel dropped 7 datagrams"),
        ({"books": {**books, "balanced": False, "imbalances": ["x"]}}, "bad", "The books do not balance"),
        ({"spool": {**found["spool"], "blocked": "full"}}, "bad", "Nothing is acknowledged: the spool takes no events"),
    ]
    for change, kind, heading in states:
        assert verdict({**found, **change})[:2] == (kind, heading)
        assert heading in render({**found, **change})


def test_sizes_and_spans_are_for_people() -> None:
    assert [size(n) for n in (0, 999, 31_200_000, 2 * 2**30)] == [
        "0\u00a0B",
        "999\u00a0B",
        "31.2\u00a0MB",
        "2.15\u00a0GB",
    ]
    assert [span(s) for s in (0, 59.9, 61, 3_600, 90_061)] == [
        "0\u00a0s", "59\u00a0s", "1\u00a0min 1\u00a0s", "1\u00a0h 0\u00a0min", "1\u00a0d 1\u00a0h",
    ]  # fmt: skip
