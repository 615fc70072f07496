"""A world without an agent: one gateway, two customers, and their apps at the far end of a bad wire.

Everything is started with a parent-death signal, in namespaces of the run's own, as in `world`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.parts import BIN, NotReady, Part, Stage, free_port, get_json
from sendoff_server.gateway import keys
from sendoff_server.wire.curve import to_text
from tests.oracle.apps import PROJECTS, STRANGER, App
from tests.oracle.link import HOLD, Cable
from tests.oracle.world import ROOT, Fatal, leashed, mount_small_disk

DISK_MIB = 512
NOBODY = "sk_" + "0" * 43


class SafeStage(Stage):
    """Its gateway speaks HTTPS."""

    @property
    def gateway_url(self) -> str:
        return f"https://127.0.0.1:{self.gateway_port}"


@dataclass
class Direct:
    """Folder, ports and processes. `disk`: why the gateway has no small disk of its own, empty if it has one."""

    folder: Path
    seed: int
    apps: list[App]
    flush_s: float = 60.0
    """What an app may take for its last flush."""
    stage: SafeStage = field(init=False)
    zmq_port: int = 0
    cable: Cable = field(default_factory=Cable)
    disk: str = "not asked for"
    gateway: Part = field(init=False)
    wire: Part = field(init=False)
    garbage: Part | None = None
    producers: dict[str, Part] = field(default_factory=dict)
    addresses: dict[tuple[str, str], str] = field(default_factory=dict)
    """By path and by project, or `revoked` or `wrong` of it."""
    key_ids: dict[tuple[str, str], int] = field(default_factory=dict)
    started: int = 0
    _all: list[Part] = field(default_factory=list)

    @property
    def books(self) -> Path:
        return self.folder / "books"

    @property
    def spool(self) -> Path:
        """One folder for the apps of both customers, which must not matter."""
        return self.folder / "kept"

    @property
    def certificate(self) -> Path:
        return self.folder / "certificate.pem"

    def __post_init__(self) -> None:
        for name in ("books", "logs", "gateway-disk"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.control("")

    def control(self, fault: str, *, reset: bool = False) -> None:
        """What the wire does from now on."""
        new = self.folder / "wire.new"
        new.write_text(json.dumps({"fault": fault, "reset": reset}))
        new.replace(self.folder / "wire.json")

    def mount(self) -> None:
        """Namespaces: a network with a cable to the apps, and a small disk for the gateway that can be filled."""
        self.disk = mount_small_disk(self.folder / "gateway-disk", DISK_MIB)
        self.cable.lay(leashed(HOLD))
        self.stage = SafeStage(self.folder)
        self.zmq_port = free_port()

    def start(self) -> None:
        """Everything but the producers. Raises `Fatal`."""
        make_certificate(self.certificate, self.cable.host)
        os.environ["SSL_CERT_FILE"] = str(self.certificate)
        wired = free_port(), free_port()
        self.stage.config.write_text(
            f'[gateway]\nlisten = "127.0.0.1:{self.stage.gateway_port}"\ndata_dir = "{self.folder}/gateway-disk"\n'
            f'certificate = "{self.certificate}"\n'
            f'[gateway.zmq]\nlisten = "127.0.0.1:{self.zmq_port}"\npublic = "{self.cable.host}:{wired[1]}"\n'
        )
        self.keys(wired[0])
        self.gateway = self._part("gateway", [str(BIN / "sendoff"), "gateway", "--config", str(self.stage.config)])
        self.wire = self._part(
            "wire",
            [
                *(sys.executable, "-m", "tests.oracle.wire", str(self.folder / "wire.json"), self.cable.host),
                f"{wired[0]}=127.0.0.1:{self.stage.gateway_port}",
                f"{wired[1]}=127.0.0.1:{self.zmq_port}",
            ],
        )
        self.wire.launch()
        self.gateway_up()
        self.garbage = self._part(
            "garbage",
            [
                *(sys.executable, "-m", "tests.oracle.garbage", str(self.seed)),
                *(self.addresses[path, STRANGER] for path in ("https", "curve")),
            ],
        )
        self.garbage.launch()

    def keys(self, https_port: int) -> None:
        """A key for each path and customer, some more to be revoked, and some of nobody. The first for ZeroMQ is made
        by the command, the others by its functions: to start Python two dozen times takes longer than all the faults.
        """
        place = f"{self.cable.host}:{https_port}"
        for project in (*PROJECTS, STRANGER):
            for name in (project, f"{project} revoked"):
                self.key(name, project, place)
        for project in PROJECTS:
            self.addresses["https", f"{project} wrong"] = f"https://{NOBODY}@{place}"
            right = self.addresses["curve", project]
            nobody = "A" * 42 + "E"
            self.addresses["curve", f"{project} wrong"] = f"zmq+curve://{nobody}@{right.partition('@')[2]}"
        for (path, name), address in list(self.addresses.items()):
            if path == "https":
                self.addresses["keep", name] = address

    def key(self, name: str, project: str, place: str) -> None:
        store = self.folder / "gateway-disk" / "gateway"
        if not self.addresses:
            self.addresses["curve", name] = self.stage.make_key(project, curve=True)
        else:
            pattern, secret = next(iter(self.addresses.values())), to_text(keys.create_curve(store, project).secret)
            self.addresses["curve", name] = f"zmq+curve://{secret}@{pattern.partition('@')[2]}"
        self.key_ids["curve", name] = keys.list_keys(store)[-1].id
        self.addresses["https", name] = f"https://{keys.create(store, project)}@{place}"
        self.key_ids["https", name] = keys.list_keys(store)[-1].id

    def revoke(self, app: App) -> None:
        path = "https" if app.path == "keep" else app.path
        number = str(self.key_ids[path, f"{app.project} revoked"])
        command = [str(BIN / "sendoff"), "gateway", "keys", "revoke", number, "--config", str(self.stage.config)]
        subprocess.run(command, check=True, capture_output=True)

    def _part(self, name: str, command: list[str], env: dict[str, str] | None = None) -> Part:
        return Part(name, leashed(command), self.folder / "logs" / f"{name}.log", env or {}, ROOT)

    def gateway_up(self) -> None:
        try:
            self.gateway.start(f"{self.stage.gateway_url}/readyz")
        except NotReady as error:
            raise Fatal(str(error)) from None

    def producer_up(self, app: App, rate: float, kind: str = "") -> Part:
        """A new process of this app; its name is used by no other."""
        self.started += 1
        name = f"{app.slot}-{self.started}"
        key = app.project if app.key == "good" else f"{app.project} {app.key}"
        env = {
            "SENDOFF_ADDRESS": self.addresses[app.path, key],
            "SENDOFF_SPOOL": str(self.spool) if app.path == "keep" else "",
            "SENDOFF_BUFFER": str(app.buffer),
            "SSL_CERT_FILE": str(self.certificate),
            "ORACLE_PATH": app.path,
            "ORACLE_PROJECT": app.project,
            "ORACLE_FLUSH": str(self.flush_s) if app.key == "good" else "3",
        }
        command = [sys.executable, "-m", "tests.oracle.producer", name, str(self.books / f"{name}.jsonl")]
        command = self.cable.around([*command, kind or app.kind, str(rate), str(self.seed)])
        part = self._part(name, command, env)
        part.log = self.folder / "logs" / "producers.log"
        self.producers[app.slot] = part
        self._all.append(part)
        part.launch()
        return part

    def api(self, project: str, path: str) -> Any:
        return get_json(f"{self.stage.gateway_url}/api/v1/{project}/{path}")

    def stop(self) -> None:
        """End all that is left."""
        parts = [*self._all]
        parts += [part for name in ("garbage", "wire", "gateway") if (part := getattr(self, name, None)) is not None]
        for part in parts:
            if part.process is not None and part.process.poll() is None:
                part.process.kill()
                part.process.wait()
        self.cable.cut()


def make_certificate(path: Path, host: str) -> None:
    """A self-signed certificate and its key, in one file, good for this host and for 127.0.0.1."""
    subject = f"subjectAltName=IP:127.0.0.1,IP:{host}"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subprocess.run(
        [
            *("openssl", "req", "-x509", *kind, "-subj", "/CN=sendoff oracle", "-addext", subject),
            *("-addext", "basicConstraints=critical,CA:TRUE", "-keyout", f"{path}.key", "-out", f"{path}.crt"),
        ],
        check=True,
        capture_output=True,
    )
    path.write_bytes(Path(f"{path}.crt").read_bytes() + Path(f"{path}.key").read_bytes())
