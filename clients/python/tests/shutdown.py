"""For the tests of how processes end without an agent: a server with an application that sends, a peer that takes it,
and the word to end. Ends by signal within a limit, whatever the peer does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clients.python.tests.peer import until
from clients.python.tests.test_direct_process import Way
from clients.python.tests.test_servers import answers, free_port, get

LINGER = 1.0
LIMIT = LINGER + 4.0
"""Seconds in which a server with its workers must have ended, on a busy machine."""
REQUESTS = 30

WSGI = """
import sendoff
sendoff.init(service="shop", linger=1)

def app(environ, start_response):
    sendoff.event("served", path=environ["PATH_INFO"])
    sendoff.increment("requests")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    return [b"fine"]
"""


class Served:
    """What a server was, after it has ended."""

    def __init__(self) -> None:
        self.took = 0.0
        self.stderr = b""


@contextmanager
def serving(command: list[str], folder: Path, address: str, port: int) -> Iterator[Served]:
    """Run a server until the end of the block, then tell it to end by SIGTERM, and wait for it and its workers."""
    env = {**os.environ, "SENDOFF_ADDRESS": address, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    served = Served()
    with subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            until(lambda: answers(port) or process.poll() is not None, "the server listens", 20)
            yield served
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            _, served.stderr = process.communicate(timeout=20)
            served.took = time.monotonic() - began
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                _, served.stderr = process.communicate()
            sys.stderr.write(served.stderr.decode())


def everything_arrives(way: Way, command: list[str], folder: Path, port: int, *, byes: bool = True) -> None:
    """Ask for some pages, end the server, and look whether all is there: events, counts, and no process left."""
    with serving(command, folder, way.address, port) as served:
        assert [get(port, f"/{number}") for number in range(REQUESTS)] == [200] * REQUESTS
    assert served.took < LIMIT
    got = sorted(got.body["fields"]["path"] for got in way.peer.durable)
    assert got == sorted(f"/{number}" for number in range(REQUESTS)), "all events are there when the server has ended"
    assert way.sums() == {"requests": REQUESTS}
    if byes:
        clients = {got.client for got in way.peer.durable}
        assert clients <= {got.client for got in way.peer.of("bye")}, "each worker has said bye"


def it_ends_in_time(address: str, command: list[str], folder: Path, port: int) -> None:
    """The same with a peer that is not there."""
    with serving(command, folder, address, port) as served:
        assert [get(port, f"/{number}") for number in range(3)] == [200] * 3
    assert served.took < LIMIT


__all__ = ["LIMIT", "WSGI", "everything_arrives", "free_port", "it_ends_in_time", "serving"]
