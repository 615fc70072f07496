"""The agent's numbers in Prometheus' format: the ledger's books, and from `/status.json` what is no book."""

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from sendoff_server.ledger import Books, families


def expose(books: Books, status: dict[str, Any], accept: str) -> tuple[bytes, str]:
    """Body and content type for a request with this Accept header."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Numbers(books, status))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Numbers(Collector):
    def __init__(self, books: Books, status: dict[str, Any]) -> None:
        self._books = books
        self._status = status

    def collect(self) -> Iterator[Metric]:
        yield from families(self._books)
        yield from self._inputs()
        yield from self._state()

    def _inputs(self) -> Iterator[Metric]:
        counts = CounterMetricFamily("sendoff_input", "What each input counted", labels=["input", "count"])
        for each in self._status["inputs"]:
            for name, value in each.items():
                if type(value) is int and name not in ("open", "half_read_bytes"):
                    counts.add_metric([each["name"], name], value)
        yield counts

    def _state(self) -> Iterator[Metric]:
        status = self._status
        yield _gauge("sendoff_ready", "1 while it listens and the spool takes what comes", float(status["ready"]))
        yield _gauge("sendoff_series", "Series known to the core", status["series"])
        yield _gauge("sendoff_clients", "Clients known", status["clients_known"])
        yield _gauge("sendoff_spool_bytes", "Bytes the spool uses", status["spool"]["used_bytes"])
        yield _gauge("sendoff_spool_limit_bytes", "Bytes the spool may use", status["spool"]["limit_bytes"])
        yield _gauge(
            "sendoff_spool_blocked",
            "1 while the spool takes no events, and so none is acknowledged",
            float(status["spool"]["blocked"] is not None),
        )
        yield _gauge(
            "sendoff_spool_damaged",
            "1 while the spool's file is known to be damaged: restart the agent",
            float(status["spool"]["damaged"] is not None),
        )
        yield _gauge(
            "sendoff_unknown_losses",
            "How often something was lost of which nobody can say how much",
            len(status["spool"]["unknown"]),
        )
        yield _gauge("sendoff_memory_bytes", "Resident memory", status["memory_bytes"])
        flowing = GaugeMetricFamily("sendoff_output_flowing", "1 while an output takes batches", labels=["output"])
        parked = GaugeMetricFamily("sendoff_output_parked", "1 while an output needs a person", labels=["output"])
        shelved = GaugeMetricFamily(
            "sendoff_output_shelved", "Batches an output fails on while it takes others", labels=["output"]
        )
        for output in status["outputs"]:
            flowing.add_metric([output["name"]], float(output["state"] == "flowing"))
            parked.add_metric([output["name"]], float(output["state"] == "parked"))
            shelved.add_metric([output["name"]], output["shelved"])
        yield from (flowing, parked, shelved)


def _gauge(name: str, help: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help, value=value)
