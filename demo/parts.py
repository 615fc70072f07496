"""The processes of the demo, each started, asked whether it is ready, and ended by its own handle."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
SHOP = Path(__file__).resolve().parent.parent / "examples" / "shop"


class NotReady(Exception):
    """A part did not become ready in time; the message has the last lines that it printed."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def get_json(url: str, timeout: float = 5.0) -> Any:
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return json.load(answer)


def wait_until(what: str, condition: Any, *, seconds: float = 20.0) -> None:
    """Ask `condition` every 50 ms until it holds; `NotReady` after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise NotReady(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.05)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (OSError, urllib.error.HTTPError):
        return False


@dataclass
class Part:
    """One child process with its log file."""

    name: str
    command: list[str]
    log: Path
    env: dict[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    descriptors: tuple[int, ...] = ()
    """Left open for the child."""
    process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start it, without waiting for anything."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.cwd,
                env={**os.environ, **self.env},
                pass_fds=self.descriptors,
            )

    def start(self, ready_url: str) -> None:
        self.launch()
        try:
            wait_until(f"{self.name}: ready", lambda: self._alive() and answers(ready_url))
        except NotReady as error:
            tail = self.log.read_text(errors="replace")[-2000:]
            raise NotReady(f"{error}; its last words were:\n{tail}") from None

    def _alive(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise NotReady(f"{self.name} ended with {self.process.returncode}")
        return True

    def stop(self, seconds: float = 20.0) -> None:
        """SIGTERM, then after `seconds` SIGKILL; harmless when it does not run."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def kill_one_worker(self) -> int:
        """SIGKILL the first child of this process (a gunicorn worker) and return its process id."""
        assert self.process is not None
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        victim = int(children[0])
        os.kill(victim, signal.SIGKILL)
        return victim


@dataclass
class Stage:
    """Where everything listens and keeps its data, below one folder."""

    folder: Path
    gateway_port: int = field(default_factory=free_port)
    web_port: int = field(default_factory=free_port)
    statsd_port: int = field(default_factory=free_port)
    shop_port: int = field(default_factory=free_port)
    certificate: Path | None = None
    """Of the gateway, which then speaks TLS, as `localhost`."""

    @property
    def config(self) -> Path:
        return self.folder / "sendoff.toml"

    @property
    def gateway_url(self) -> str:
        return f"{'http://127.0.0.1' if self.certificate is None else 'https://localhost'}:{self.gateway_port}"

    @property
    def agent_url(self) -> str:
        return f"http://127.0.0.1:{self.web_port}"

    def write_config(self, key: str | None, *, storm: int | None = None) -> None:
        """Write the settings; `storm` is `spool.storm` if it is not to be the default."""
        output = (
            f'[outputs.main]\ntype = "gateway"\nurl = "{self.gateway_url}"\nkey = "{key}"\ninterval = 2\n'
            if key
            else ""
        )
        self.config.write_text(
            f'[agent]\ndata_dir = "{self.folder}"\n'
            f'[inputs.unix]\npath = "{self.folder}/agent.sock"\n'
            f'[inputs.udp]\nlisten = "127.0.0.1:{self.statsd_port}"\n'
            f'[inputs.tcp]\nlisten = "127.0.0.1:{self.statsd_port}"\n'
            f'[web]\nlisten = "127.0.0.1:{self.web_port}"\n'
            f'[gateway]\nlisten = "127.0.0.1:{self.gateway_port}"\ndata_dir = "{self.folder}"\n{output}'
            + (f"[spool]\nstorm = {storm}\n" if storm is not None else "")
        )

    def make_secure(self) -> None:
        """Give the gateway a certificate, made by openssl, and let this process and its children trust it alone."""
        self.certificate, key = self.folder / "gateway.pem", self.folder / "gateway.key"
        asked = (
            f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost "
            f"-addext subjectAltName=DNS:localhost -keyout {key} -out {self.certificate}"
        )
        subprocess.run(asked.split(), check=True, capture_output=True)
        named = f'[gateway]\ncertificate = "{self.certificate}"\ncertificate_key = "{key}"\n'
        self.config.write_text(self.config.read_text().replace("[gateway]\n", named))
        os.environ["SSL_CERT_FILE"] = str(self.certificate)

    def make_key(self, project: str, *, curve: bool = False) -> str:
        """A key for HTTP, or the whole address for an application over ZeroMQ."""
        made = subprocess.run(
            [
                *(str(BIN / "sendoff"), "gateway", "keys", "create", project, "--json", "--config", str(self.config)),
                *(("--curve",) if curve else ()),
            ],
            check=True,
            capture_output=True,
            text=True,
        )
        key: str = json.loads(made.stdout)["app" if curve else "key"]
        return key

    def gateway(self) -> Part:
        command = [str(BIN / "sendoff"), "gateway", "--config", str(self.config)]
        return Part("gateway", command, self.folder / "gateway.log")

    def agent(self) -> Part:
        return Part("agent", [str(BIN / "sendoff"), "agent", "--config", str(self.config)], self.folder / "agent.log")

    def shop(self, *, release: str, sendoff: bool) -> Part:
        env = {
            "SHOP_LISTEN": f"127.0.0.1:{self.shop_port}",
            "SHOP_RELEASE": release,
            "SHOP_SENDOFF": "on" if sendoff else "off",
            "SENDOFF_SOCKET": f"{self.folder}/agent.sock",
        }
        command = [str(BIN / "gunicorn"), "--config", str(SHOP / "gunicorn.conf.py")]
        return Part("shop", command, self.folder / "shop.log", env, SHOP)
