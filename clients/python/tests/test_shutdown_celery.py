"""Celery without an agent, with a broker of files: a prefork worker's processes end by `os._exit`, so the recipe closes
the client by Celery's own signal; the other pools run in the main process and need nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.python.tests.peer import until
from clients.python.tests.shutdown import LIMIT
from clients.python.tests.test_direct_process import Way, dead_address

pytest.importorskip("celery")

TASKS = """
import os, pathlib
import sendoff
from celery import Celery
from celery.signals import worker_process_shutdown

sendoff.init(service="shop", linger=1)
app = Celery("tasks", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control", "polling_interval": 0.05
}
app.conf.broker_connection_retry_on_startup = True
app.conf.worker_enable_remote_control = False


@worker_process_shutdown.connect
def close(**_):
    sendoff.close()


@app.task
def work(number):
    sendoff.event("done", number=number)
    sendoff.increment("done")
    pathlib.Path("ended", str(number)).touch()
"""
TASK_COUNT = 20
POOLS = [("prefork", "http"), ("prefork", "zmq"), ("threads", "http"), ("solo", "zmq")]
DEAD = [("prefork", "http"), ("solo", "http")]
Case = tuple[str, str]


class Worker:
    """One worker, and how long it took to end."""

    def __init__(self, folder: Path, address: str, pool: str, enabled: str = "on") -> None:
        for name in ("queue", "control", "ended"):
            (folder / name).mkdir(parents=True)
        (folder / "tasks.py").write_text(TASKS)
        self.ended = folder / "ended"
        path = os.pathsep.join([str(folder), *sys.path])
        env = {**os.environ, "SENDOFF_ADDRESS": address, "SENDOFF_ENABLED": enabled, "PYTHONPATH": path}
        order = f"import tasks\nfor number in range({TASK_COUNT}): tasks.work.delay(number)"
        subprocess.run([sys.executable, "-c", order], cwd=folder, env={**env, "SENDOFF_ENABLED": "off"}, check=True)
        command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-P", pool, "-c", "2", "-l", "WARNING"]
        command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        self.process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self.took = 0.0

    def done(self) -> bool:
        return len(list(self.ended.iterdir())) == TASK_COUNT


@pytest.fixture(scope="module")
def ways() -> Iterator[dict[Case, Way]]:
    made = {case: Way(case[1]) for case in POOLS}
    yield made
    for way in made.values():
        way.peer.close()
        assert way.peer.complaints == []


@pytest.fixture(scope="module")
def workers(ways: dict[Case, Way], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Case, Worker]]:
    """Workers of every kind after they have done their tasks and were told to end; all at once, as each takes some
    seconds for that by itself.
    """
    folder = tmp_path_factory.mktemp("celery")
    made = {case: Worker(folder / str(number), way.address, case[0]) for number, (case, way) in enumerate(ways.items())}
    for pool, path in DEAD:
        made[pool, f"dead {path}"] = Worker(folder / f"dead {pool}", dead_address(path), pool)
        made[pool, "without"] = Worker(folder / f"without {pool}", dead_address(path), pool, "off")
    try:
        for case, worker in made.items():
            until(worker.done, f"{case} has done all its tasks", 40)
        began = time.monotonic()
        for worker in made.values():
            worker.process.send_signal(signal.SIGTERM)
        while any(worker.process.poll() is None for worker in made.values()) and time.monotonic() - began < 30:
            for worker in made.values():
                if worker.process.poll() is None:
                    worker.took = time.monotonic() - began
            time.sleep(0.01)
        yield made
    finally:
        for worker in made.values():
            if worker.process.poll() is None:
                os.killpg(worker.process.pid, signal.SIGKILL)
            worker.process.wait()


@pytest.mark.parametrize(("pool", "path"), POOLS)
def test_workers_of_celery_send_everything_before_they_end(
    workers: dict[Case, Worker], ways: dict[Case, Way], pool: str, path: str
) -> None:
    way = ways[pool, path]
    assert workers[pool, path].process.returncode == 0
    assert sorted(got.body["fields"]["number"] for got in way.peer.durable) == list(range(TASK_COUNT))
    assert way.sums() == {"done": TASK_COUNT}
    assert {got.client for got in way.peer.durable} <= {got.client for got in way.peer.of("bye")}


@pytest.mark.parametrize(("pool", "path"), DEAD)
def test_workers_of_celery_end_in_time_though_the_gateway_is_dead(
    workers: dict[Case, Worker], pool: str, path: str
) -> None:
    dead, without = workers[pool, f"dead {path}"], workers[pool, "without"]
    assert dead.process.returncode == 0
    assert dead.took < without.took + LIMIT, "Celery takes some seconds by itself"
