"""Who may look: free for whoever sits at the machine, by a project's key for everyone else."""

import base64
from pathlib import Path

import pytest

from sendoff_server.gateway import keys

from .support import Running, batch, event, running


def basic(key: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"me:{key}".encode()).decode()}


async def status(gateway: Running, path: str, headers: dict[str, str]) -> int:
    async with gateway.http.get(gateway.url + path, headers=headers, allow_redirects=False) as answer:
        return answer.status


@pytest.mark.parametrize("host", ["localhost:8700", "127.0.0.1", "127.9.9.9:1", "[::1]:8700", "LOCALHOST"])
async def test_looking_at_a_loopback_gateway_from_this_machine_is_free(gateway: Running, host: str) -> None:
    assert await status(gateway, "/api/v1/shop/counts", {"Host": host}) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "shop.example"},
        {"Host": "127.0.0.1.shop.example"},
        {"Host": "localhost.shop.example"},
        {"X-Forwarded-For": "10.0.0.1"},
        {"Forwarded": "for=10.0.0.1"},
        {"Via": "1.1 proxy"},
    ],
)
@pytest.mark.parametrize("path", ["/api/v1/shop/counts", "/api/v1/projects", "/shop/", "/"])
async def test_a_foreign_host_name_or_a_proxy_needs_a_key(gateway: Running, headers: dict[str, str], path: str) -> None:
    assert await status(gateway, path, headers) == 401
    assert await status(gateway, path, headers | basic("sk_wrong")) == 401
    assert await status(gateway, path, headers | basic(gateway.key)) in (200, 302)


async def test_a_gateway_on_every_address_asks_everyone(tmp_path: Path) -> None:
    async with running(tmp_path, listen="0.0.0.0:0") as gateway:
        port = gateway.gateway.addresses["http"].rpartition(":")[2]
        gateway.gateway.addresses["http"] = f"127.0.0.1:{port}"
        assert await status(gateway, "/api/v1/shop/counts", {}) == 401
        assert await status(gateway, "/api/v1/shop/counts", basic(gateway.key)) == 200
        assert await status(gateway, "/healthz", {}) == 200


async def test_a_key_opens_its_own_project_only(gateway: Running) -> None:
    other = keys.create(gateway.folder / "gateway", "other")
    afar = {"Host": "shop.example"}
    await gateway.post(batch("events", [event()]))
    assert await status(gateway, "/api/v1/shop/events", afar | basic(other)) == 403
    assert await status(gateway, "/shop/", afar | basic(other)) == 403
    async with gateway.http.get(gateway.url + "/api/v1/projects", headers=afar | basic(other)) as answer:
        assert [project["name"] for project in (await answer.json())["projects"]] == ["other"]


async def test_a_revoked_key_opens_nothing(gateway: Running) -> None:
    keys.revoke(gateway.folder / "gateway", 1)
    assert await status(gateway, "/api/v1/shop/counts", {"Host": "shop.example"} | basic(gateway.key)) == 403


@pytest.mark.parametrize("host", ["localhost:99999", "localhost:x", "127.0.0.1:80:80", "[::1"])
async def test_a_host_name_that_is_none_shows_no_fault_of_the_gateway(gateway: Running, host: str) -> None:
    assert await status(gateway, "/shop/", {"Host": host}) == 200
