"""The agent's numbers in Prometheus' format, from the same object as `/status.json`: no second set of counters."""

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


def expose(status: dict[str, Any], accept: str) -> tuple[bytes, str]:
    """Body and content type for a request with this Accept header."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Numbers(status))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Numbers(Collector):
    def __init__(self, status: dict[str, Any]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        yield from self._books()
        yield from self._inputs()
        yield from self._state()

    def _books(self) -> Iterator[Metric]:
        books = self._status["books"]
        yield _parts(
            "sendoff_events",
            "Events by source and output, and where they are",
            ("source", "output"),
            books["events"],
            ("received", "delivered", "folded", "dead", "not_routed"),
        )
        yield _parts(
            "sendoff_points_in", "Metric points by source", ("source",), books["points_in"], ("received", "journaled")
        )
        yield _parts(
            "sendoff_points_out",
            "Metric points by output, from the journal on",
            ("output",),
            books["points_out"],
            ("journaled", "delivered", "dead", "not_routed"),
        )
        yield _parts("sendoff_lines", "Metric lines by source", ("source",), books["lines"], ("received", "accepted"))
        pending = GaugeMetricFamily("sendoff_pending", "What waits in the spool", labels=["what", "output"])
        for what in ("events", "points_out"):
            waiting: dict[str, int] = {}
            for row in books[what]:
                waiting[row["output"]] = waiting.get(row["output"], 0) + row["pending"]
            for output, n in waiting.items():
                pending.add_metric([what.removesuffix("_out"), output], n)
        yield pending
        yield _gauge("sendoff_books_balanced", "1 while every book balances", float(books["balanced"]))

    def _inputs(self) -> Iterator[Metric]:
        counts = CounterMetricFamily("sendoff_input", "What each input counted", labels=["input", "count"])
        refused = CounterMetricFamily("sendoff_frames_refused", "Frames refused", labels=["input", "reason"])
        for each in self._status["inputs"]:
            for name, value in each.items():
                if type(value) is int and name not in ("open", "half_read_bytes"):
                    counts.add_metric([each["name"], name], value)
            for reason, n in each["refused_frames"].items():
                refused.add_metric([each["name"], reason], n)
        yield counts
        yield refused
        dropped = CounterMetricFamily("sendoff_kernel_dropped", "Datagrams the kernel dropped", labels=["input"])
        for name, n in self._status["kernel_drops"].items():
            dropped.add_metric([name], n)
        yield dropped

    def _state(self) -> Iterator[Metric]:
        status = self._status
        yield _gauge("sendoff_ready", "1 while it listens and the spool takes what comes", float(status["ready"]))
        yield _gauge("sendoff_series", "Series known to the core", status["series"])
        yield _gauge("sendoff_clients", "Clients known", status["clients_known"])
        yield _gauge("sendoff_spool_bytes", "Bytes the spool uses", status["spool"]["used_bytes"])
        yield _gauge("sendoff_spool_limit_bytes", "Bytes the spool may use", status["spool"]["limit_bytes"])
        yield _gauge("sendoff_memory_bytes", "Resident memory", status["memory_bytes"])
        flowing = GaugeMetricFamily("sendoff_output_flowing", "1 while an output takes batches", labels=["output"])
        for output in status["outputs"]:
            flowing.add_metric([output["name"]], float(output["state"] == "flowing"))
        yield flowing


def _parts(
    name: str, help: str, keys: tuple[str, ...], rows: Iterable[dict[str, Any]], parts: tuple[str, ...]
) -> CounterMetricFamily:
    """One family for a kind of book: a sample for each running total, and one for each reason."""
    family = CounterMetricFamily(name, help, labels=[*keys, "part", "reason"])
    for row in rows:
        labels = [row[key] for key in keys]
        for part in parts:
            family.add_metric([*labels, part, ""], row[part])
        for part in ("lost", "rejected"):
            for reason, n in row.get(part, {}).items():
                family.add_metric([*labels, part, reason], n)
    return family


def _gauge(name: str, help: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help, value=value)
