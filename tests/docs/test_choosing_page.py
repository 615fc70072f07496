"""docs/choosing-a-path.md: each set-up works as it stands there, but for the names of hosts, files and keys."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import pytest

from demo.parts import BIN, Part, free_port, wait_until
from tests.docs.pages import page
from tests.oracle.direct import make_certificate

PAGE = page("docs/choosing-a-path.md")
SECTIONS = re.findall(r"^## Setting up: ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
SAY = "\nsendoff.event('order.placed', order=17)\nsendoff.increment('orders')\nassert sendoff.flush(20)\n"


def block(text: str, marker: str) -> str:
    """The block behind a marker, without the indentation of its list."""
    found = re.search(rf"{re.escape(marker)}\n(?P<block>.*?)\n *```\n", text + "\n", re.DOTALL)
    assert found, marker
    return textwrap.dedent(found["block"])


@dataclass
class Site:
    """A gateway as the page sets it up, and what stands for the names that the page uses."""

    folder: Path
    https: int = field(default_factory=free_port)
    zmq: int = field(default_factory=free_port)
    udp: int = field(default_factory=free_port)

    @property
    def config(self) -> Path:
        return self.folder / "gateway.toml"

    def real(self, text: str) -> str:
        """What stands on the page, with what there is here."""
        names = {
            "/etc/sendoff/gateway.pem": f"{self.folder}/gateway.pem",
            "/run/sendoff/agent.zmq": f"{self.folder}/agent.zmq",
            "/var/lib/shop/sendoff": f"{self.folder}/kept",
            "127.0.0.1:8125": f"127.0.0.1:{self.udp}",
            "0.0.0.0:8700": f"127.0.0.1:{self.https}",
            "0.0.0.0:8702": f"127.0.0.1:{self.zmq}",
            "gateway.example.com:8700": f"127.0.0.1:{self.https}",
        }
        for name, value in names.items():
            text = text.replace(name, value)
        return text

    def command(self, text: str) -> str:
        """What a command of the page prints."""
        words = self.real(text).split()
        assert words[0] == "sendoff"
        done = subprocess.run(
            [str(BIN / "sendoff"), *words[1:], "--config", str(self.config)], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    @property
    def env(self) -> dict[str, str]:
        ours = {"SSL_CERT_FILE": f"{self.folder}/gateway.pem", "SENDOFF_SOCKET": f"{self.folder}/agent.sock"}
        return {**os.environ, **ours}

    def stored(self) -> list[dict[str, object]]:
        db = apsw.Connection(str(self.folder / "gateway" / "gateway.sqlite3"), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            return [json.loads(line) for (line,) in db.execute("SELECT line FROM events")]
        finally:
            db.close()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(tmp_path)
    make_certificate(tmp_path / "gateway.pem", "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gateway.pem"))
    text = made.real(block(PAGE, "<!-- gateway.toml -->\n```toml"))
    made.config.write_text(text.replace("[gateway]\n", f'[gateway]\ndata_dir = "{tmp_path}"\n'))
    command = [str(BIN / "sendoff"), "gateway", "--config", str(made.config)]
    part = Part("gateway", command, tmp_path / "gateway.log")
    part.start(f"https://127.0.0.1:{made.https}/readyz")
    yield made
    part.stop()
    print(part.log.read_text(errors="replace"))


@pytest.mark.parametrize(("name", "text"), SECTIONS, ids=[name for name, _ in SECTIONS])
def test_a_set_up_of_the_page_works_as_it_stands_there(name: str, text: str, site: Site) -> None:
    key = site.command(re.findall(r"`(sendoff gateway keys create [^`]+)`", text)[0])
    code = site.real(block(text, "```python"))
    if "zmq+curve://" in code:
        # What the command printed goes where the page has an address; it names this host, not the loopback.
        address = re.sub(r"@[^@?]+\?", f"@127.0.0.1:{site.zmq}?", key)
        code = re.sub(r"zmq\+curve://[^\"]+", address, code)
    code = code.replace("sk_…", key)
    agent = None
    if "<!-- agent.toml -->" in text:
        settings = site.real(block(text, "<!-- agent.toml -->\n   ```toml")).replace("sk_…", key)
        config = site.folder / "agent.toml"
        web = free_port()
        settings = f'[agent]\ndata_dir = "{site.folder}"\n[web]\nlisten = "127.0.0.1:{web}"\n{settings}\n'
        if "[inputs.udp]" not in settings:
            settings += '[inputs.udp]\nlisten = ""\n[inputs.tcp]\nlisten = ""\n'
        config.write_text(settings + f'[inputs.unix]\npath = "{site.folder}/agent.sock"\n')
        agent = Part("agent", [str(BIN / "sendoff"), "agent", "--config", str(config)], site.folder / "a.log", site.env)
        agent.start(f"http://127.0.0.1:{web}/readyz")
    try:
        done = subprocess.run(
            [sys.executable, "-c", code + SAY], env=site.env, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        wait_until("the event stored", site.stored)
        (event,) = site.stored()
        assert (event["name"], event["service"], event["fields"]) == ("order.placed", "shop", {"order": 17})
    finally:
        if agent is not None:
            agent.stop()


def test_the_table_counts_the_steps_that_the_page_describes() -> None:
    """Under the heading of memory the last column is the number of steps."""
    rows = re.findall(r"^\| (.+?) \|.* \| (\d+) \|$", PAGE, re.MULTILINE)
    counted = {name: int(steps) for name, steps in rows if name in dict(SECTIONS)}
    assert counted == {name: len(re.findall(r"^\d+\. ", text, re.MULTILINE)) for name, text in SECTIONS}


def test_the_paths_of_the_page_are_those_that_are_measured() -> None:
    from bench.ways import WAYS

    assert [name for name, _ in SECTIONS] == [way.name for way in WAYS]
