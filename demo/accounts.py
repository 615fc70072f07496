"""The accounts at the end of the demo: what the senders counted beside what the gateway's API answers.

Nothing here comes from the same place twice: the left side is the customers' book (`traffic.py`) and the counters of
the other clients, the right side the gateway's public API, and between them stand the agent's own books, which must
balance.
"""

from __future__ import annotations

import urllib.error
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from demo.others import Sent
from demo.parts import NotReady, Stage, get_json, wait_until
from demo.traffic import Book, Latency


@dataclass(frozen=True)
class Line:
    """One kind of message: how many were sent, arrived, arrived more than once, are missing."""

    what: str
    sent: int
    arrived: int
    twice: int = 0
    lost: int = 0
    remark: str = ""


@dataclass
class Report:
    lines: list[Line] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    books: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        return not self.faults


class Api:
    """The gateway's JSON API, as far as the accounts need it."""

    def __init__(self, stage: Stage, project: str) -> None:
        self._base = f"{stage.gateway_url}/api/v1/{project}"

    def pages(self, path: str, key: str) -> Iterator[dict[str, Any]]:
        """Every item of a listing, over all its pages."""
        cursor = ""
        while True:
            answer = get_json(f"{self._base}/{path}{'&' if '?' in path else '?'}limit=500{cursor}")
            yield from answer[key]
            if not answer.get("next"):
                return
            cursor = f"&cursor={quote(answer['next'])}"

    def order_refs(self) -> Counter[str]:
        return Counter(event["fields"]["ref"] for event in self.pages("events?name=order.placed", "events"))

    def exception_refs(self) -> Counter[str]:
        refs: Counter[str] = Counter()
        for group in self.pages("exceptions", "exceptions"):
            for one in self.pages(f"exceptions/{group['group']}", "events"):
                refs[one["request"]["query"].removeprefix("ref=")] += 1
        return refs

    def total(self, name: str) -> int:
        return sum(self.totals_by(name, by=None).values())

    def totals_by(self, name: str, by: str | None) -> Counter[str]:
        try:
            answer = get_json(f"{self._base}/metrics/total?name={quote(name)}{f'&by={by}' if by else ''}")
        except urllib.error.HTTPError as error:
            if error.code == 404:  # nothing of that name has arrived
                return Counter()
            raise
        return Counter({str(row["by"]): round(row["sum"]) for row in answer["totals"]})


def settle(
    stage: Stage, project: str, book: Book, sent: Sent, killed: str, before_looking: Callable[[], None]
) -> Report:
    """Wait until the agent holds nothing back, then compare. `killed` is the worker that died by SIGKILL."""
    report = Report(faults=list(book.wrong))
    try:
        wait_until("everything delivered", lambda: _nothing_pending(stage), seconds=60)
    except NotReady as error:
        report.faults.append(str(error))
    before_looking()
    api = Api(stage, project)
    _compare_events(report, "order events", book.orders, book.uncertain, api.order_refs())
    _compare_events(report, "exceptions", book.exceptions, book.uncertain, api.exception_refs())
    _compare_workers(report, "orders counted", book.orders_by_worker, api.totals_by("shop.orders", "worker"), killed)
    _compare_workers(
        report, "revenue in cents", book.cents_by_worker, api.totals_by("shop.revenue_cents", "worker"), killed
    )
    status = get_json(f"{stage.agent_url}/status.json")
    dropped = sum(status["kernel_drops"].values())
    _compare_udp(report, "statsd client, points", sent.statsd, api.total("legacy.jobs"), dropped)
    _compare_udp(report, "datadog client, points", sent.datadog, api.total("queries"), dropped)
    _balance(report, status)
    return report


def _nothing_pending(stage: Stage) -> bool:
    books = get_json(f"{stage.agent_url}/status.json")["books"]
    return not any(row["pending"] for row in books["events"] + books["points_out"]) and not books["in_windows"]


def _compare_events(report: Report, what: str, sure: set[str], uncertain: set[str], arrived: Counter[str]) -> None:
    twice = sum(count - 1 for count in arrived.values())
    lost = sure - arrived.keys()
    unsent = arrived.keys() - sure - uncertain
    extra = len(arrived.keys() & uncertain - sure)
    remark = f"{extra} of them from requests that broke off" if extra else ""
    report.lines.append(Line(what, len(sure), len(arrived), twice, len(lost), remark))
    if lost:
        report.faults.append(f"{what}: {len(lost)} confirmed to customers never arrived, e.g. {min(lost)}")
    if twice:
        report.faults.append(f"{what}: {twice} arrived more than once")
    if unsent:
        report.faults.append(f"{what}: {len(unsent)} arrived that nobody sent, e.g. {min(unsent)}")


def _compare_workers(report: Report, what: str, sent: Counter[str], arrived: Counter[str], killed: str) -> None:
    """Counters are best effort: exact for each worker that ended in order; of the killed one a tail may be missing."""
    tail = sent[killed] - arrived[killed]
    remark = f"worker {killed} was killed: its last {tail} never left it" if tail > 0 else ""
    report.lines.append(Line(what, sent.total(), arrived.total(), 0, sent.total() - arrived.total(), remark))
    for worker in sorted((sent.keys() | arrived.keys()) - {killed}):
        if sent[worker] != arrived[worker]:
            report.faults.append(f"{what}: worker {worker} counted {sent[worker]}, {arrived[worker]} arrived")
    if tail > sent[killed] // 2 and tail > 50:
        report.faults.append(f"{what}: of the killed worker {tail} of {sent[killed]} are missing, more than a tail")


def _compare_udp(report: Report, what: str, sent: int, arrived: int, dropped: int) -> None:
    remark = f"the kernel dropped {dropped} datagrams" if dropped else ""
    report.lines.append(Line(what, sent, arrived, 0, sent - arrived, remark))
    if arrived > sent or sent - arrived > dropped:
        report.faults.append(f"{what}: {sent} sent, {arrived} arrived, but the kernel reports {dropped} dropped")


def _balance(report: Report, status: dict[str, Any]) -> None:
    books = status["books"]
    for row in books["events"]:
        right = (
            row["delivered"]
            + row["folded"]
            + row["pending"]
            + row["dead"]
            + row["not_routed"]
            + sum(row["lost"].values())
        )
        _book(report, f"events from {row['source']} to {row['output']}", row["received"], right)
        if row["lost"] or row["dead"]:
            report.faults.append(f"events from {row['source']}: {row['dead']} dead letters, lost {row['lost']}")
    for row in books["points_in"]:
        _book(report, f"points from {row['source']}", row["received"], row["journaled"] + sum(row["lost"].values()))
    for row in books["points_out"]:
        right = row["delivered"] + row["pending"] + row["dead"] + row["not_routed"] + sum(row["lost"].values())
        _book(report, f"points to {row['output']}", row["journaled"], right)


def _book(report: Report, what: str, left: int, right: int) -> None:
    report.books.append(f"{what}: {left:,} = {right:,}" if left == right else f"{what}: {left:,} ≠ {right:,}")
    if left != right:
        report.faults.append(f"the book of {what} does not balance: {left} on one side, {right} on the other")


def render(report: Report, phases: dict[str, Latency], book: Book) -> str:
    """The closing tables as text."""
    head = ("", "sent", "arrived", "twice", "lost", "")
    rows = [
        (line.what, f"{line.sent:,}", f"{line.arrived:,}", str(line.twice), str(line.lost), line.remark)
        for line in report.lines
    ]
    text = ["", *_table([head, *rows]), "", "The agent's books:", *(f"  {entry}" for entry in report.books), ""]
    latency = [("request latency", "requests", "p50 ms", "p99 ms")]
    latency += [
        (title, str(len(seen.ms)), f"{seen.quantile(0.5):.1f}", f"{seen.quantile(0.99):.1f}")
        for title, seen in phases.items()
    ]
    text += [*_table(latency), "", f"{book.requests} requests with Sendoff, {len(book.uncertain)} of them broke off."]
    text += ["", *(f"WRONG: {fault}" for fault in report.faults)]
    text.append("The accounts agree." if report.right else "The accounts do not agree.")
    return "\n".join(text)


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if 0 < i < 5 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
