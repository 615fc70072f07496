"""Senders of every kind, which keep an exact account of what they sent and of every write that was not taken."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from demo.accounts import Api
from demo.parts import Stage, get_json, wait_until
from tests.process.conftest import PROJECT

APP = """
import json, os, sendoff, sys, time
name, until = sys.argv[1:]
sendoff.init(service=name, env="test", linger=30)
sent = 0
while not os.path.exists(until):
    assert sendoff.event("sale", ref=f"{name}-{sent}")
    sendoff.increment("app.sales")
    sent += 1
    time.sleep(0.003)
assert sendoff.flush(30)
stats = sendoff.stats()
sendoff.close()
print(json.dumps({"sent": sent, "stats": stats}, default=str))
"""


class Load:
    """Apps with the Python client, and plain StatsD lines by UDP, over TCP connections old and new, and over Unix."""

    def __init__(self, stage: Stage, apps: int = 2, *, streams: bool = True) -> None:
        self.stage = stage
        self.sent: Counter[str] = Counter()
        self.trouble: list[str] = []
        self.apps: list[dict[str, object]] = []
        self._over = stage.folder / "over"
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=work.__name__)
            for work in (self._udp, *((self._tcp, self._new_tcp, self._new_unix) if streams else ()))
        ]
        env = {**os.environ, "SENDOFF_SOCKET": f"{stage.folder}/agent.sock"}
        self._apps = [
            subprocess.Popen(
                [sys.executable, "-c", APP, f"app{number}", str(self._over)],
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(apps)
        ]
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Stop sending, and see that everybody could send all the time."""
        self._over.touch()
        for thread in self._threads:
            thread.join()
        for app in self._apps:
            out, err = app.communicate(timeout=60)
            assert (app.returncode, err) == (0, ""), err
            self.apps.append(json.loads(out))
        assert self.trouble == []

    def kill(self) -> None:
        self._over.touch()
        for app in self._apps:
            app.kill()
            app.communicate()
        for thread in self._threads:
            thread.join()

    @property
    def events(self) -> int:
        return sum(int(str(app["sent"])) for app in self.apps)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as error:
            self.trouble.append(f"{threading.current_thread().name}: {error!r}")

    def _going(self, pause: float) -> Iterator[None]:
        while not self._over.exists():
            yield
            time.sleep(pause)

    def _udp(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", self.stage.statsd_port))  # so that a closed port is heard of
            for _ in self._going(0.002):
                sock.send(b"load.udp:1|c")
                self.sent["load.udp"] += 1

    def _tcp(self) -> None:
        """One connection all the time, whose lines are written in two pieces."""
        with socket.create_connection(("127.0.0.1", self.stage.statsd_port)) as sock:
            for _ in self._going(0.003):
                sock.sendall(b"load.tcp:1|c\nload.t")
                self.sent["load.tcp"] += 1
                sock.sendall(b"cp:2|c\n")
                self.sent["load.tcp"] += 2

    def _new_tcp(self) -> None:
        for _ in self._going(0.01):
            with socket.create_connection(("127.0.0.1", self.stage.statsd_port)) as sock:
                sock.sendall(b"load.new_tcp:1|c\n")
                self.sent["load.new_tcp"] += 1

    def _new_unix(self) -> None:
        for _ in self._going(0.01):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(f"{self.stage.folder}/agent.sock")
                sock.sendall(b"load.new_unix:1|c\n")
                self.sent["load.new_unix"] += 1


@contextlib.contextmanager
def load_on(stage: Stage, *, streams: bool = True) -> Iterator[Load]:
    """Senders that are at work while this is entered; at its end they have stopped and nothing was refused.

    `streams`: also plain lines on streams, which only a reload in place does not cut.
    """
    load = Load(stage, streams=streams)
    try:
        yield load
        load.finish()
    finally:
        load.kill()


def refs(stage: Stage) -> Counter[str]:
    return Counter(event["fields"]["ref"] for event in Api(stage, PROJECT).pages("events?name=sale", "events"))


def assert_all_arrived(stage: Stage, load: Load, *, kernel_drops: int = 0) -> None:
    """Every event once, every counter exactly, books that balance."""
    expected = {f"app{number}-{n}" for number, app in enumerate(load.apps) for n in range(int(str(app["sent"])))}
    totals = load.sent | Counter({"app.sales": load.events})
    wait_until("all events stored", lambda: len(refs(stage)) >= len(expected), seconds=60)
    found = refs(stage)
    assert set(found) == expected
    assert set(found.values()) == {1}
    api = Api(stage, PROJECT)
    wait_until("all metrics stored", lambda: all(api.total(name) >= n for name, n in totals.items()), seconds=30)
    assert {name: api.total(name) for name in totals} == totals | {"load.udp": totals["load.udp"] - kernel_drops}
    status = get_json(f"{stage.agent_url}/status.json")
    assert status["books"]["imbalances"] == []
    assert status["kernel_drops"] == {"udp": kernel_drops}
    assert not any(row["lost"] for row in status["books"]["events"] + status["books"]["points_in"])


def log_of(path: Path) -> str:
    return path.read_text(errors="replace")
