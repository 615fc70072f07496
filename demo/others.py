"""Other people's clients, unchanged, sending to the same agent over UDP: the official `statsd` and `datadog`."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import statsd  # type: ignore[import-untyped]  # it has no types
from datadog.dogstatsd.base import DogStatsd


@dataclass
class Sent:
    """Points handed to each client's socket so far."""

    statsd: int = 0
    datadog: int = 0


class OtherClients:
    """Sends about a hundred points a second with each client, from a thread, until stopped."""

    def __init__(self, port: int) -> None:
        self.sent = Sent()
        self._statsd = statsd.StatsClient("127.0.0.1", port, prefix="legacy")
        self._datadog = DogStatsd(host="127.0.0.1", port=port, constant_tags=["team:search"], disable_telemetry=True)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="other-clients")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._statsd.close()
        self._datadog.close_socket()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._statsd.incr("jobs")
            self.sent.statsd += 1
            self._datadog.increment("queries", tags=["shard:2"])
            self.sent.datadog += 1
            time.sleep(0.01)
