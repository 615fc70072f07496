"""The clients that people use today, as they are, against a real agent: every number must arrive exactly."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from .support import EVENTS, JOURNAL, address, running, stored, totals, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sendoff_server.agent import Agent

statsd = pytest.importorskip("statsd", reason="the statsd client is not installed")
dogstatsd = pytest.importorskip("datadog.dogstatsd.base", reason="the datadog client is not installed")


def use_statsd(client: Any) -> None:
    for n in range(300):
        client.incr("orders", 2)
        client.decr("stock")
        client.timing("took", n)
        client.set("user", f"u{n % 40}")
    client.gauge("load", 333)
    client.gauge("load", 4, delta=True)  # the sign makes it relative, and from then on minus is, too
    client.gauge("load", -10, delta=True)
    client.gauge("cold", -7)


STATSD_TOTALS = {"orders": 600, "stock": -300, "took": 300, "user": 40, "load": 327, "cold": -7}


def statsd_udp(agent: Agent) -> None:
    host, port = address(agent, "udp")
    client = statsd.StatsClient(host, port)
    use_statsd(client)
    client.close()


def statsd_udp_pipeline(agent: Agent) -> None:
    host, port = address(agent, "udp")
    client = statsd.StatsClient(host, port)
    with client.pipeline() as pipeline:
        use_statsd(pipeline)
    client.close()


def statsd_tcp(agent: Agent) -> None:
    host, port = address(agent, "tcp")
    client = statsd.TCPStatsClient(host, port)
    use_statsd(client)
    client.close()


def statsd_unix(agent: Agent) -> None:
    client = statsd.UnixSocketStatsClient(address(agent, "unix"))
    use_statsd(client)
    client.close()


async def settled(agent: Agent, count: Callable[[], int]) -> None:
    """Until nothing has come for a moment: these clients say nothing of what they sent."""
    last, since = -1, time.monotonic()

    def quiet() -> bool:
        nonlocal last, since
        if (now := count()) != last:
            last, since = now, time.monotonic()
        return last > 0 and time.monotonic() - since > 0.2

    await until("everything has arrived", quiet)


@pytest.mark.parametrize("use", [statsd_udp, statsd_udp_pipeline, statsd_tcp, statsd_unix])
async def test_the_statsd_client_arrives_exactly(tmp_path: Path, use: Callable[[Agent], None]) -> None:
    async with running(tmp_path) as agent:
        await asyncio.to_thread(use, agent)
        await settled(agent, lambda: sum(agent.intake.lines.values()))
    assert totals(tmp_path) == STATSD_TOTALS


def dog_udp(agent: Agent, **more: Any) -> Any:
    host, port = address(agent, "udp")
    return dogstatsd.DogStatsd(host=host, port=port, **more)


def dog_unixgram(agent: Agent, **more: Any) -> Any:
    return dogstatsd.DogStatsd(socket_path=f"unixgram://{address(agent, 'unix_datagram')}", **more)


def dog_unixstream(agent: Agent, **more: Any) -> Any:
    return dogstatsd.DogStatsd(socket_path=f"unixstream://{address(agent, 'unix')}", **more)


PATIENT = {"socket_timeout": 5}
"""By default it drops what a full socket does not take at once; then its own count would be the only right one."""


def use_dogstatsd(client: Any) -> None:
    for n in range(200):
        client.increment("orders", 2, tags=["plan:pro"])
        client.histogram("took", n)
        client.distribution("size", n / 7)
        client.set("user", f"u{n % 40}")
    client.gauge("load", -10)
    client.timing("slow", 12.5)
    client.event("Deploy|ed", "line one\nline two ünïcode", alert_type="info", tags=["service:shop", "password:x"])
    client.service_check("db", 2, message="slow | m:", hostname="db-1")
    client.flush()
    client.stop()


@pytest.mark.parametrize("packed", [True, False], ids=["buffered", "one line each"])
@pytest.mark.parametrize("make", [dog_udp, dog_unixgram, dog_unixstream])
async def test_the_datadog_client_arrives_exactly(tmp_path: Path, make: Callable[..., Any], packed: bool) -> None:
    async with running(tmp_path) as agent:
        client = await asyncio.to_thread(make, agent, disable_telemetry=True, disable_buffering=not packed, **PATIENT)
        await asyncio.to_thread(use_dogstatsd, client)
        await settled(agent, lambda: sum(agent.intake.lines.values()))
        assert agent.intake.refused == {}
    assert totals(tmp_path) == {"orders": 400, "took": 200, "size": 200, "user": 40, "load": -10, "slow": 1}
    assert {line["tags"].get("plan") for line in stored(tmp_path, JOURNAL) if line["name"] == "orders"} == {"pro"}
    found = {line["name"]: line for line in stored(tmp_path, EVENTS)}
    assert set(found) == {"Deploy|ed", "db"}
    assert found["Deploy|ed"]["fields"]["text"] == "line one\nline two ünïcode"
    assert found["Deploy|ed"]["tags"] == {"service": "shop", "password": "[scrubbed]"}
    assert found["db"]["host"] == "db-1"


async def test_the_datadog_client_telemetry_is_taken_as_points(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        client = await asyncio.to_thread(dog_udp, agent, telemetry_min_flush_interval=0)
        await asyncio.to_thread(use_dogstatsd, client)
        await settled(agent, lambda: sum(agent.intake.lines.values()))
    counted = totals(tmp_path)
    assert counted["orders"] == 400
    assert counted["datadog.dogstatsd.client.metrics"] >= 800
    assert counted["datadog.dogstatsd.client.packets_dropped"] == 0


async def test_nc_style_lines_without_a_last_line_feed_arrive(tmp_path: Path) -> None:
    def write() -> None:
        with socket.create_connection(address_of) as sock:
            sock.sendall(b"a:1|c\r\na:2|c")

    async with running(tmp_path) as agent:
        address_of = address(agent, "tcp")
        await asyncio.to_thread(write)
        await settled(agent, lambda: agent.intake.lines["tcp"])
    assert totals(tmp_path) == {"a": 3}
