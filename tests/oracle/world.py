"""The processes of one run and the folder that they live in; started, hurt, and in the end always gone.

Everything is started with a parent-death signal, so that nothing outlives the run even if that is killed, and the small
disk of the agent is mounted in a mount namespace of the run's own, which goes with it. Only process ids that were
started here are ever signalled.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from demo.parts import BIN, NotReady, Part, Stage, free_port, get_json

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "chaos"
DISK_MIB = 48
CLONE_NEWNS = 0x00020000


class Fatal(Exception):
    """The run cannot go on: something of Sendoff's did not start, or ended by itself."""


def leashed(command: list[str]) -> list[str]:
    """The command, ended by the kernel when this process ends."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", *command] if setpriv else command


@dataclass
class World:
    """Folder, ports and processes. `disk`: why the agent has no small disk of its own, empty if it has one."""

    folder: Path
    seed: int
    storm: int = 100
    """Exceptions of one fingerprint in a minute that are not folded; 0 folds none."""
    by_zmq: bool = False
    """Whether the agent delivers to the gateway over ZeroMQ, by a bad wire, and not over HTTP by the destination."""
    stage: Stage = field(init=False)
    port: int = field(default_factory=free_port)
    wire_port: int = field(default_factory=free_port)
    zmq_port: int = field(default_factory=free_port)
    wire: Part | None = None
    disk: str = "not asked for"
    agent: Part = field(init=False)
    gateway: Part = field(init=False)
    destination: Part = field(init=False)
    producers: dict[str, Part] = field(default_factory=dict)
    started: int = 0
    _all: list[Part] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stage = Stage(self.folder)
        for name in ("books", "logs", "agent-disk"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.control({})

    @property
    def books(self) -> Path:
        return self.folder / "books"

    def control(self, faults: dict[str, str]) -> None:
        """What the destination does from the next request on."""
        new = self.folder / "control.new"
        new.write_text(json.dumps(faults))
        new.replace(self.folder / "control.json")

    def wire_control(self, fault: str) -> None:
        """What the wire between agent and gateway does from now on."""
        new = self.folder / "wire.new"
        new.write_text(json.dumps({"fault": fault}))
        new.replace(self.folder / "wire.json")

    def mount(self) -> None:
        """Give the agent a small disk of its own that can be filled."""
        self.disk = mount_small_disk(self.folder / "agent-disk", DISK_MIB)

    def write_config(self, key: str | None) -> None:
        """`demo.parts.Stage` has the inputs and the gateway; here the two outputs go through the fake destination."""
        self.stage.write_config(key=None)
        text = self.stage.config.read_text()
        text = text.replace(f'[agent]\ndata_dir = "{self.folder}"', f'[agent]\ndata_dir = "{self.folder}/agent-disk"')
        text += f'[inputs.zmq]\nlisten = "ipc://{self.folder}/agent.zmq"\n'
        if self.by_zmq:
            text += f'[gateway.zmq]\nlisten = "127.0.0.1:{self.zmq_port}"\npublic = "127.0.0.1:{self.wire_port}"\n'
        if key:
            base = f"http://127.0.0.1:{self.port}"
            url, key = zmq_output(key) if self.by_zmq else (base, key)
            text += (
                f"[spool]\nstorm = {self.storm}\n"
                f'[outputs.main]\ntype = "gateway"\nurl = "{url}"\nkey = "{key}"\ninterval = 2\ntimeout = 2\n'
                f'[outputs.sink]\ntype = "http"\nurl = "{base}/sink"\ncompression = "identity"\n'
                "interval = 3\ntimeout = 2\n"
            )
        self.stage.config.write_text(text)

    def start(self) -> None:
        """Everything but the producers. Raises `Fatal`."""
        self.write_config(key=None)
        self.write_config(key=self.stage.make_key(PROJECT, curve=self.by_zmq))
        sendoff = str(BIN / "sendoff")
        config = ["--config", str(self.stage.config)]
        self.gateway = self._part("gateway", [sendoff, "gateway", *config])
        self.agent = self._part("agent", [sendoff, "agent", *config])
        self.destination = self._part(
            "destination",
            [
                *(sys.executable, "-m", "tests.oracle.destination", str(self.port), str(self.stage.gateway_port)),
                *(str(self.folder / "control.json"), str(self.folder / "sink.jsonl")),
            ],
        )
        self.up(self.destination, f"http://127.0.0.1:{self.port}/")
        if self.by_zmq:
            self.wire_control("")
            command = [sys.executable, "-m", "tests.oracle.wire", str(self.folder / "wire.json"), "127.0.0.1"]
            self.wire = self._part("wire", [*command, f"{self.wire_port}=127.0.0.1:{self.zmq_port}"])
            self.wire.launch()
        self.gateway_up()
        self.agent_up()

    def _part(self, name: str, command: list[str], env: dict[str, str] | None = None) -> Part:
        # Its folder is the repository's root for `-m tests…`; logs go to the run's folder.
        return Part(name, leashed(command), self.folder / "logs" / f"{name}.log", env or {}, ROOT)

    def up(self, part: Part, ready_url: str) -> None:
        try:
            part.start(ready_url)
        except NotReady as error:
            raise Fatal(str(error)) from None

    def agent_up(self) -> None:
        self.up(self.agent, f"{self.stage.agent_url}/healthz")

    def gateway_up(self) -> None:
        self.up(self.gateway, f"{self.stage.gateway_url}/readyz")

    def producer_up(self, slot: str, kind: str, rate: float) -> Part:
        """A new producer process in this slot; its name is used by no other."""
        self.started += 1
        name = f"{slot}-{self.started}"
        # By its address: a path in SENDOFF_SOCKET is only the first place to look, and while the agent is down another
        # agent of this machine would be found.
        network = f"udp://127.0.0.1:{self.stage.statsd_port}"
        by = {"network": network, "zmq": f"zmq+ipc://{self.folder}/agent.zmq"}
        path = kind.rpartition("-")[2]
        env = {"SENDOFF_ADDRESS": by.get(path, f"unix://{self.folder}/agent.sock")}
        env["ORACLE_PATH"] = "ipc" if path == "zmq" else "agent"
        command = [sys.executable, "-m", "tests.oracle.producer", name, str(self.books / f"{name}.jsonl")]
        part = self._part(name, [*command, kind, str(rate), str(self.seed)], env)
        part.log = self.folder / "logs" / "producers.log"
        self.producers[slot] = part
        self._all.append(part)
        part.launch()
        return part

    def status(self) -> dict[str, object]:
        found: dict[str, object] = get_json(f"{self.stage.agent_url}/status.json")
        return found

    def api(self, path: str) -> dict[str, object]:
        found: dict[str, object] = get_json(f"{self.stage.gateway_url}/api/v1/{PROJECT}/{path}")
        return found

    def stop(self) -> None:
        """End all that is left."""
        parts = list(self._all)
        names = ("agent", "gateway", "destination", "wire")
        parts += [part for part in (getattr(self, name, None) for name in names) if part]
        for part in parts:
            if part.process is not None and part.process.poll() is None:
                part.process.send_signal(signal.SIGCONT)
        for part in parts:
            part.stop(seconds=15)


def zmq_output(line: str) -> tuple[str, str]:
    """What an application is given as one address, as the url and the key of an output."""
    secret, _, place = line.removeprefix("zmq+curve://").partition("@")
    return f"zmq+curve://{place}", secret


def mount_small_disk(path: Path, mib: int) -> str:
    """A tmpfs of so many MiB, in a mount namespace of this process's own. Why not, or '' when it is there."""
    if os.geteuid() != 0:
        return "mounting a small disk needs root"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        return f"no mount namespace: {os.strerror(ctypes.get_errno())}"
    private = 1 << 18 | 1 << 14  # MS_PRIVATE | MS_REC: nothing of this is seen outside
    if libc.mount(b"none", b"/", None, private, None) != 0:
        return f"the mounts cannot be made private: {os.strerror(ctypes.get_errno())}"
    if libc.mount(b"tmpfs", str(path).encode(), b"tmpfs", 0, f"size={mib}m".encode()) != 0:
        return f"no tmpfs: {os.strerror(ctypes.get_errno())}"
    return ""


def dead(part: Part) -> bool:
    return part.process is None or part.process.poll() is not None


def wait_dead(part: Part, seconds: float) -> bool:
    """Whether it ended within so many seconds."""
    end = time.monotonic() + seconds
    while not dead(part) and time.monotonic() < end:
        time.sleep(0.02)
    return dead(part)
