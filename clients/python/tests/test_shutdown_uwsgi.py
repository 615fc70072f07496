"""uWSGI without an agent. `--enable-threads` makes the client's thread run between requests. A worker that is told to
end in the middle of one runs no `atexit`: uWSGI's own SIGTERM does that, the graceful one of the recipe does not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.python.tests.shutdown import WSGI, everything_arrives, free_port, it_ends_in_time
from clients.python.tests.test_direct_process import Way, dead_address

UWSGI = Path(sys.executable).with_name("uwsgi")
pytestmark = pytest.mark.skipif(not UWSGI.exists(), reason="uWSGI is not installed")


@pytest.fixture(params=["http", "zmq"])
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    made = Way(request.param)
    yield made
    made.peer.close()
    assert made.peer.complaints == []


def uwsgi(port: int, *more: str) -> list[str]:
    command = [str(UWSGI), "--http-socket", f"127.0.0.1:{port}", "--wsgi", "shop:app", "--callable", "app"]
    workers = "1" if "--lazy-apps" in more else "2"  # who is told to end while it loads its application has none
    command += ["--master", "--processes", workers, "--need-app", "--venv", sys.prefix]
    return [*command, "--hook-master-start", "unix_signal:15 gracefully_kill_them_all", *more]


@pytest.mark.parametrize(
    "more",
    [("--enable-threads",), ("--enable-threads", "--lazy-apps"), ("--threads", "4"), (), ("--lazy-apps",)],
    ids=" ".join,
)
def test_workers_of_uwsgi_send_everything_before_they_end(way: Way, tmp_path: Path, more: tuple[str, ...]) -> None:
    (tmp_path / "shop.py").write_text(WSGI)
    port = free_port()
    everything_arrives(way, uwsgi(port, *more), tmp_path, port)


@pytest.mark.parametrize(("path", "threads"), [("http", True), ("http", False), ("zmq", False)])
def test_workers_of_uwsgi_end_in_time_though_the_gateway_is_dead(path: str, threads: bool, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(WSGI)
    port = free_port()
    it_ends_in_time(dead_address(path), uwsgi(port, *(["--enable-threads"] if threads else [])), tmp_path, port)
