"""The command as a process of its own, far from this machine's settings."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

COMMAND = Path(sys.executable).parent / "sendoff"


class Sendoff:
    """Runs `sendoff` with an environment and folders below a test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "sendoff.toml"
        self._begun: list[subprocess.Popen[str]] = []
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SENDOFF_", "XDG_"))}
        self.environ = kept | {"XDG_RUNTIME_DIR": str(folder / "run"), "SENDOFF_CONFIG": str(self.config)}
        self.config.write_text(
            f'[agent]\ndata_dir = "{folder}"\n[gateway]\nlisten = "127.0.0.1:0"\ndata_dir = "{folder}"\n'
            '[inputs.udp]\nlisten = "127.0.0.1:0"\n[inputs.tcp]\nlisten = "127.0.0.1:0"\n'
            '[web]\nlisten = "127.0.0.1:0"\n'
        )

    def __call__(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            [COMMAND, *arguments], capture_output=True, text=True, timeout=60, env=self.environ | environ, check=False
        )

    def begin(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        """Let it run; the fixture ends it."""
        process = subprocess.Popen(
            [COMMAND, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environ | {"SENDOFF_LOG": "text"} | environ,
        )
        self._begun.append(process)
        return process

    def end_all(self) -> None:
        for process in self._begun:
            process.kill()
            process.communicate()


def read_until(process: subprocess.Popen[str], word: str, *, out: bool = False) -> str:
    """The lines of a process on standard error (or output) up to the one that has the word in it."""
    stream = process.stdout if out else process.stderr
    assert stream is not None
    seen = ""
    for line in stream:
        seen += line
        if word in line:
            return seen
    rest = process.communicate(timeout=30)
    raise AssertionError(f"ended with {process.returncode} and without {word!r}: {seen}{rest[1]}")


def wait_until(condition: Callable[[], object], *, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
