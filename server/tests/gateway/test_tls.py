"""The gateway with a certificate: real TLS, files that change while it runs, and files that are wrong."""

import asyncio
import logging
import os
import shutil
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from sendoff_server.doctor import certificate as doctor
from sendoff_server.gateway import Gateway, keys, server, tls
from sendoff_server.settings import Settings
from server.tests.delivery import certificates

from .support import batch, event


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    certificates.make_ca(folder)
    for name in ("one", "two"):
        certificates.make_server(folder, name, host="DNS:localhost,IP:127.0.0.1")
    certificates.make_server(folder, "expired", days="-days -1")
    return folder


@pytest.fixture
def files(made: Path, tmp_path: Path) -> Path:
    """A folder with a certificate and its key, which tests change."""
    folder = tmp_path / "tls"
    folder.mkdir()
    put(made, "one", folder)
    return folder


def put(made: Path, name: str, folder: Path) -> None:
    """Replace the files as those do that renew certificates."""
    for end in ("pem", "key"):
        shutil.copy(made / f"{name}.{end}", folder / "new")
        (folder / "new").rename(folder / f"server.{end}")


def settings(folder: Path, data: Path, **more: str) -> Settings:
    given = {"certificate": f"{folder}/server.pem", "certificate_key": f"{folder}/server.key"} | more
    return Settings.model_validate({"gateway": {"listen": "127.0.0.1:0", "data_dir": str(data)} | given})


@pytest.fixture
async def gateway(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    monkeypatch.setattr(server, "LOOK_EVERY", 0.05)
    started = Gateway(settings(files, tmp_path))
    await started.start()
    yield started
    await started.stop(1)


def trusting(made: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(made / "ca.pem"))


async def shown(gateway: Gateway, made: Path, name: str | None = "localhost") -> bytes:
    """The certificate that a new connection is shown, having been verified."""
    host, _, port = gateway.addresses["http"].rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=trusting(made), server_hostname=name or host)
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    assert isinstance(found, bytes)
    return found


def der(made: Path, name: str) -> bytes:
    return ssl.PEM_cert_to_DER_cert((made / f"{name}.pem").read_text())


async def test_a_batch_is_taken_over_tls(gateway: Gateway, made: Path, tmp_path: Path) -> None:
    key = await asyncio.to_thread(keys.create, tmp_path / "gateway", "shop")
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/x-ndjson", "Content-Encoding": "zstd"}
    connector = aiohttp.TCPConnector(ssl=trusting(made))
    async with (
        aiohttp.ClientSession(connector=connector) as http,
        http.post(f"{gateway.url}/v1/batches", data=batch("events", [event()]), headers=headers) as answer,
    ):
        assert answer.status == 200
    assert gateway.url.startswith("https://")


@pytest.mark.parametrize("name", ["localhost", None], ids=["by name", "by address, which names no host"])
async def test_a_renewed_certificate_is_shown_to_new_connections(
    gateway: Gateway, made: Path, files: Path, name: str | None
) -> None:
    assert await shown(gateway, made, name) == der(made, "one")
    put(made, "two", files)
    async with asyncio.timeout(10):
        while await shown(gateway, made, name) != der(made, "two"):
            await asyncio.sleep(0.02)


async def test_a_connection_that_is_there_survives_a_renewal(gateway: Gateway, made: Path, files: Path) -> None:
    host, _, port = gateway.addresses["http"].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=trusting(made), server_hostname="localhost")
    for name in ("one", "two"):
        put(made, name, files)
        async with asyncio.timeout(10):
            while await shown(gateway, made) != der(made, name):
                await asyncio.sleep(0.02)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_a_broken_file_is_said_once_and_the_certificate_before_it_stays(
    gateway: Gateway, made: Path, files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (files / "server.key").write_text("nonsense")
    async with asyncio.timeout(10):
        while "stays in force" not in caplog.text:
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)
    assert caplog.text.count("stays in force") == 1
    assert await shown(gateway, made) == der(made, "one")
    put(made, "two", files)
    async with asyncio.timeout(10):
        while await shown(gateway, made) != der(made, "two"):
            await asyncio.sleep(0.02)


async def test_who_does_not_speak_tls_or_stops_in_the_handshake_is_closed(
    gateway: Gateway, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, _, port = gateway.addresses["http"].rpartition(":")
    for begun in (b"GET /healthz HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x40\x00"):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(begun)
        writer.write_eof()
        async with asyncio.timeout(15):
            assert b"HTTP" not in await reader.read()
        writer.close()
    assert await shown(gateway, made) == der(made, "one")


async def test_tls_below_1_2_is_not_spoken(gateway: Gateway, made: Path) -> None:
    context = trusting(made)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    host, _, port = gateway.addresses["http"].rpartition(":")
    with pytest.raises(OSError):
        await asyncio.open_connection(host, int(port), ssl=context, server_hostname="localhost")


def change(files: Path, made: Path, how: str) -> None:
    match how:
        case "missing":
            (files / "server.pem").unlink()
        case "no key":
            (files / "server.key").unlink()
        case "another key":
            shutil.copy(made / "two.key", files / "server.key")
        case "no pem":
            (files / "server.pem").write_text("this is no certificate")
        case "locked":
            asked = f"openssl ec -in {made}/one.key -aes256 -passout pass:secret -out {files}/server.key"
            subprocess.run(asked.split(), check=True, capture_output=True)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", "server.pem (No such file or directory); change gateway.certificate"),
        ("no key", "server.key (No such file or directory); change gateway.certificate_key"),
        ("another key", "is not that of the certificate"),
        ("no pem", "no certificate in it"),
        ("locked", "is locked with a password"),
    ],
)
async def test_a_certificate_that_cannot_be_used_ends_the_start_with_the_reason(
    files: Path, made: Path, tmp_path: Path, how: str, words: str
) -> None:
    change(files, made, how)
    started = Gateway(settings(files, tmp_path))
    with pytest.raises(OSError) as raised:
        await started.start()
    assert words in str(raised.value)
    await started.stop(1)


async def test_one_file_may_have_both(made: Path, files: Path, tmp_path: Path) -> None:
    both = files / "server.pem"
    both.write_text(both.read_text() + (files / "server.key").read_text())
    started = Gateway(settings(files, tmp_path, certificate_key=""))
    await started.start()
    assert await shown(started, made) == der(made, "one")
    await started.stop(1)


def test_a_key_without_a_certificate_is_a_fault_of_the_settings(files: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="certificate_key and no certificate"):
        settings(files, tmp_path, certificate="")


def test_the_end_of_a_certificate_is_read_as_openssl_reads_it(made: Path) -> None:
    for name in ("one", "expired", "ca"):
        said = subprocess.run(
            ["openssl", "x509", "-in", made / f"{name}.pem", "-noout", "-enddate"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert tls.ends(made / f"{name}.pem") == ssl.cert_time_to_seconds(said.stdout.strip().partition("=")[2])


def test_a_certificate_in_pieces_is_a_value_error(made: Path) -> None:
    whole = der(made, "one")
    for size in range(200):
        with pytest.raises(ValueError):
            tls.not_after(whole[:size])


async def test_an_expired_certificate_is_said_at_the_start(
    made: Path, files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(made, "expired", files)
    with caplog.at_level(logging.ERROR):
        tls.Certificate(files / "server.pem", files / "server.key")
    assert "has expired" in caplog.text


def test_the_doctor_names_a_certificate_that_is_broken_or_ends_soon(made: Path, files: Path) -> None:
    one = files / "server.pem", files / "server.key"
    assert "expires in 2 days" in next(doctor.look(*one, time.time() + 60)).words
    assert not list(doctor.look(*one, time.time() - 30 * 86_400))
    assert not list(doctor.look(None, None, 0))
    put(made, "expired", files)
    assert "has expired" in next(doctor.look(*one, time.time())).words
    change(files, made, "another key")
    assert "is not that of the certificate" in next(doctor.look(*one, time.time())).words
    os.unlink(one[0])
    assert "cannot be used" in next(doctor.look(*one, time.time())).words
