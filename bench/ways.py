"""The ways from an app to a gateway, and a ground on which all of them are laid out: for `paths` and `customers`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demo.parts import BIN, Part, Stage, free_port, get_json
from tests.oracle.direct import make_certificate
from tests.oracle.world import leashed

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
PROJECT = "bench"


@dataclass(frozen=True)
class Way:
    """How an app sends. `agent`: whether to one beside it, which keeps and delivers."""

    name: str
    scheme: str
    agent: bool
    spool: bool = False

    @property
    def slug(self) -> str:
        return self.scheme.replace("+", "-") + ("-spool" if self.spool else "")


WAYS = (
    Way("Unix socket to the agent", "unix", agent=True),
    Way("UDP to the agent", "udp", agent=True),
    Way("ZeroMQ (ipc) to the agent", "zmq+ipc", agent=True),
    Way("ZeroMQ with CURVE, direct", "zmq+curve", agent=False),
    Way("HTTPS, direct", "https", agent=False),
    Way("HTTPS, direct, with `spool=`", "https", agent=False, spool=True),
)


@dataclass
class Ground:
    """A gateway that speaks HTTPS and ZeroMQ, an agent before it, and wires that can be cut: to the gateway, for the
    agent and for apps alike.
    """

    folder: Path
    https_port: int = field(default_factory=free_port)
    zmq_port: int = field(default_factory=free_port)
    wired_https: int = field(default_factory=free_port)
    wired_zmq: int = field(default_factory=free_port)
    nobody: int = field(default_factory=free_port)
    stage: Stage = field(init=False)
    gateway: Part = field(init=False)
    agent: Part = field(init=False)
    wire: Part = field(init=False)
    key: str = ""
    curve: str = ""

    def __post_init__(self) -> None:
        self.stage = Stage(self.folder)
        make_certificate(self.certificate, "127.0.0.1")
        os.environ["SSL_CERT_FILE"] = str(self.certificate)
        self._configure("")
        self.key = self.stage.make_key(PROJECT)
        self.curve = self.stage.make_key(PROJECT, curve=True)
        self._configure(
            f'[outputs.main]\ntype = "gateway"\nurl = "https://127.0.0.1:{self.wired_https}"\nkey = "{self.key}"\n'
            "interval = 1\n"
        )
        command = str(BIN / "sendoff"), "--config", str(self.stage.config)
        self.gateway = Part("gateway", leashed([command[0], "gateway", *command[1:]]), self.folder / "gateway.log")
        self.agent = Part("agent", leashed([command[0], "agent", *command[1:]]), self.folder / "agent.log")
        routes = [f"{self.wired_https}=127.0.0.1:{self.https_port}", f"{self.wired_zmq}=127.0.0.1:{self.zmq_port}"]
        wire = [sys.executable, "-m", "tests.oracle.wire", str(self.folder / "wire.json"), "127.0.0.1", *routes]
        self.wire = Part("wire", leashed(wire), self.folder / "wire.log", cwd=ROOT)

    @property
    def certificate(self) -> Path:
        return self.folder / "certificate.pem"

    @property
    def gateway_url(self) -> str:
        return f"https://127.0.0.1:{self.https_port}"

    def _configure(self, output: str) -> None:
        (self.folder / "wire.json").write_text('{"fault": ""}')
        self.stage.config.write_text(
            f'[agent]\ndata_dir = "{self.folder}"\n'
            f'[inputs.unix]\npath = "{self.folder}/agent.sock"\n'
            f'[inputs.udp]\nlisten = "127.0.0.1:{self.stage.statsd_port}"\n'
            f'[inputs.tcp]\nlisten = "127.0.0.1:{self.stage.statsd_port}"\n'
            f'[inputs.zmq]\nlisten = "ipc://{self.folder}/agent.zmq"\n'
            f'[web]\nlisten = "127.0.0.1:{self.stage.web_port}"\n'
            f'[gateway]\nlisten = "127.0.0.1:{self.https_port}"\ndata_dir = "{self.folder}"\n'
            f'certificate = "{self.certificate}"\n'
            f'[gateway.zmq]\nlisten = "127.0.0.1:{self.zmq_port}"\npublic = "127.0.0.1:{self.wired_zmq}"\n{output}'
        )

    def gateway_up(self) -> None:
        self.gateway.start(f"{self.gateway_url}/readyz")

    def agent_up(self) -> None:
        self.agent.start(f"{self.stage.agent_url}/healthz")

    def env(self, way: Way, *, alive: bool = True, wired: bool = True) -> dict[str, str]:
        """What an app is given. Not `alive`: an address at which there is nobody. `wired`: through the wire."""
        missing = "" if alive else ".nobody"
        curve, https = (self.wired_zmq, self.wired_https) if wired else (self.zmq_port, self.https_port)
        secret, _, rest = self.curve.removeprefix("zmq+curve://").partition("@")
        server = rest.partition("?")[2]
        address = {
            "unix": f"unix://{self.folder}/agent.sock{missing}",
            "udp": f"udp://127.0.0.1:{self.stage.statsd_port if alive else self.nobody}",
            "zmq+ipc": f"zmq+ipc://{self.folder}/agent.zmq{missing}",
            "zmq+curve": f"zmq+curve://{secret}@127.0.0.1:{curve if alive else self.nobody}?{server}",
            "https": f"https://{self.key}@127.0.0.1:{https if alive else self.nobody}",
        }[way.scheme]
        spool = self.folder / ("kept" if alive else "kept-nobody")
        return {
            **os.environ,
            "SSL_CERT_FILE": str(self.certificate),
            "SENDOFF_ADDRESS": address,
            "SENDOFF_SPOOL": str(spool) if way.spool else "",
        }

    def cut(self, fault: str) -> None:
        """What is wrong with the wires from now on; nothing if empty."""
        new = self.folder / "wire.new"
        new.write_text(json.dumps({"fault": fault}))
        new.replace(self.folder / "wire.json")

    def api(self, path: str) -> Any:
        return get_json(f"{self.gateway_url}/api/v1/{PROJECT}/{path}")

    def stop(self) -> None:
        for part in (self.agent, self.wire, self.gateway):
            if part.process is not None and part.process.poll() is None:
                part.process.kill()
                part.process.wait()


@contextlib.contextmanager
def ground(*, agent: bool) -> Iterator[Ground]:
    """All of it running; gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="sendoff-paths-"))
    made = Ground(folder)
    try:
        made.gateway_up()
        if agent:
            made.agent_up()
        made.wire.launch()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def app(script: str, env: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that is spoken to by lines."""
    process = subprocess.Popen(
        leashed([sys.executable, "-c", script, *arguments]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()


def ask(process: subprocess.Popen[str], word: str) -> Any:
    """Say a word, and wait for the answer, which is JSON."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(word + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise RuntimeError(f"an app ended instead of answering {word}")
    return json.loads(answer)
