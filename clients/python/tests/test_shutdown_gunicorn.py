"""gunicorn without an agent: nothing has to be set up."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.python.tests.shutdown import WSGI, everything_arrives, free_port, it_ends_in_time
from clients.python.tests.test_direct_process import Way, dead_address


@pytest.fixture(params=["http", "zmq"])
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    made = Way(request.param)
    yield made
    made.peer.close()
    assert made.peer.complaints == []


def gunicorn(port: int, worker: str, *more: str) -> list[str]:
    command = [sys.executable, "-m", "gunicorn", "shop:app", "-w", "2", "-k", worker, "-b", f"127.0.0.1:{port}"]
    return [*command, "--graceful-timeout", "3", "--no-control-socket", *more]


@pytest.mark.parametrize(
    ("worker", "more"), [("sync", ()), ("sync", ("--preload",)), ("gthread", ("--preload",)), ("gevent", ())]
)
def test_workers_of_gunicorn_send_everything_before_they_end(
    way: Way, tmp_path: Path, worker: str, more: tuple[str, ...]
) -> None:
    (tmp_path / "shop.py").write_text(WSGI)
    port = free_port()
    everything_arrives(way, gunicorn(port, worker, *more), tmp_path, port)


@pytest.mark.parametrize(("path", "worker"), [("http", "sync"), ("http", "gevent"), ("zmq", "sync")])
def test_workers_of_gunicorn_end_in_time_though_the_gateway_is_dead(path: str, tmp_path: Path, worker: str) -> None:
    (tmp_path / "shop.py").write_text(WSGI)
    port = free_port()
    it_ends_in_time(dead_address(path), gunicorn(port, worker), tmp_path, port)
