"""Receipts through a whole agent: accepted, spooled, refused, over a crash; asked on the control socket alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp

from .support import FrameClient, running, until, uuid7

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from sendoff_server.agent import Agent

A = "a" * 32
EVENT = {"name": "order.placed", "fields": {"total": 1}}


async def receipt(agent: Agent, event: str) -> tuple[int, Any]:
    connector = aiohttp.UnixConnector(agent.addresses["control"])
    async with aiohttp.ClientSession(connector=connector) as http, http.get(f"http://x/receipts/{event}") as answer:
        return answer.status, await answer.json()


async def test_an_event_is_accepted_before_and_spooled_after_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as agent:
        gate = asyncio.Event()
        put = agent._spool.put  # type: ignore[union-attr]

        async def slow(*given: Any) -> None:
            await gate.wait()
            await put(*given)

        client = FrameClient(agent, A)
        await client.hello()
        monkeypatch.setattr(agent._spool, "put", slow)
        await client.send("event", EVENT, seq=1, confirm=True)
        await until("the event is in", lambda: agent.committer.waiting == 1)
        assert await receipt(agent, uuid7(1)) == (200, {"event": uuid7(1), "state": "accepted", "outputs": []})
        gate.set()
        await client.acknowledged(1)
        status, found = await receipt(agent, uuid7(1))
        assert (status, found["state"], found["client"]) == (200, "spooled", A)
        assert [(each["output"], each["state"]) for each in found["outputs"]] == [("unassigned", "pending")]
        client.close()


async def test_of_an_event_that_nobody_asked_for_nothing_is_known(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        await client.send("event", EVENT, seq=1)
        await client.acknowledged(1)
        assert await receipt(agent, uuid7(1)) == (404, {"event": uuid7(1), "state": "unknown", "outputs": []})
        client.close()


async def test_a_refused_event_is_known_with_the_reason(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        await client.send("event", {"fields": {}}, seq=1, confirm=True)
        await client.send("event", {"fields": {}}, seq=2)
        assert [each["seq"] for each in await client.acknowledged(2)] == [1, 2]
        status, found = await receipt(agent, uuid7(1))
        assert (status, found["state"], found["reason"]) == (200, "refused", "payload_invalid")
        assert (await receipt(agent, uuid7(2)))[0] == 404
        client.close()


async def test_a_receipt_is_there_after_a_restart_and_a_repeat_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        await client.send("event", EVENT, seq=1, confirm=True)
        await client.acknowledged(1)
        _, first = await receipt(agent, uuid7(1))
        client.close()
    async with running(tmp_path) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        await client.send("event", EVENT, seq=1, confirm=True)
        other = FrameClient(agent, "b" * 32)
        await other.hello()
        await other.send("event", EVENT, seq=1, confirm=True)
        await other.acknowledged(1)
        assert (await receipt(agent, uuid7(1)))[1] == first
        client.close()
        other.close()


async def test_receipts_are_not_to_be_had_on_an_address(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        client = FrameClient(agent, A)
        await client.hello()
        await client.send("event", EVENT, seq=1, confirm=True)
        await client.acknowledged(1)
        url = f"http://{agent.addresses['web']}/receipts/{uuid7(1)}"
        async with aiohttp.ClientSession() as http, http.get(url) as answer:
            assert answer.status == 404
        client.close()
