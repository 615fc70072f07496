"""The books by themselves: balance, wire lines, and Prometheus' format."""

import dataclasses
import re
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from sendoff_server.ledger import (
    COUNTS,
    LOST,
    REJECTED,
    Books,
    ClientMemo,
    EventsBook,
    LinesBook,
    PointsInBook,
    PointsOutBook,
    families,
)

BOOKS = Books(
    [EventsBook("shop", "main", 10, 5, 0, 2, 1, 0, {"spool_full": 2})],
    [PointsInBook("shop", 9, 7, {"series_limit": 2})],
    [PointsOutBook("main", 7, 4, 2, 1, 0)],
    [LinesBook("shop", 3, 2, {"no_type": 1})],
    [ClientMemo("c" * 32, "shop", gap=4, dropped={"metric.closed": 3})],
    [ClientMemo("", "shop", state="folded", gap=1, dropped={"metric.closed": 2})],
    {"tcp": {"cut_off": 2}},
    {"udp": 8},
    {"udp": 4},
)


def test_books_that_balance_have_nothing_to_say() -> None:
    assert BOOKS.balance() == []


def test_each_kind_of_book_says_what_does_not_balance() -> None:
    wrong = Books([EventsBook("a", "b", 1)], [PointsInBook("a", 1)], [PointsOutBook("b", 1)], [LinesBook("a", 1)])
    assert wrong.balance() == [
        "events of a for b: 1 received, 0 accounted for",
        "points of a: 1 received, 0 accounted for",
        "points for b: 1 journaled, 0 accounted for",
        "lines of a: 1 received, 0 accounted for",
    ]


def test_ledger_lines_have_the_keys_of_the_wire_format() -> None:
    """Held against the text itself, so that the two cannot part."""
    page = (Path(__file__).parents[3] / "protocol/wire-format.md").read_text(encoding="utf-8")
    written = {}
    for text in re.findall(r"^\{\"(?:book|memo)\".*?\}$", page, re.MULTILINE | re.DOTALL):
        words = re.findall(r'"(\w+)"', text)
        written[words[1]] = {word for word in [words[0], *words[2:]] if word not in ("live", "ended")}
    found = {}
    for line in BOOKS.wire():
        value = msgspec.json.decode(line)
        found[value.get("book", value.get("memo"))] = set(value)
    written["client"].discard("unknown")
    assert found == written


def test_reasons_are_those_of_the_wire_format() -> None:
    page = (Path(__file__).parents[3] / "protocol/wire-format.md").read_text(encoding="utf-8")
    reasons = page[page.index("## 9. Reasons") :]
    lines = reasons[reasons.index("**Lines**") : reasons.index("**Notes**")]
    assert list(REJECTED) == re.findall(r"`(\w+)`", lines)
    lost = reasons[reasons.index("**Points lost") : reasons.index("**Client drops**")]
    assert set(LOST) == set(re.findall(r"`(\w+)`", lost))


def test_every_number_of_every_book_is_in_the_table_of_counts() -> None:
    kinds = {"events": EventsBook, "points_in": PointsInBook, "points_out": PointsOutBook, "lines": LinesBook}
    for name, kind in kinds.items():
        fields = {field.name for field in dataclasses.fields(kind)} - {"source", "output"}
        assert {count.field for count in COUNTS if count.book == name} == fields


def test_prometheus_sees_every_count_under_a_name_of_its_own() -> None:
    class Scrape(Collector):
        def collect(self):  # type: ignore[no-untyped-def]
            return families(BOOKS)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Scrape())
    text = generate_latest(registry).decode()
    for sample in (
        'sendoff_events_received_total{output="main",source="shop"} 10.0',
        'sendoff_events_pending{output="main",source="shop"} 2.0',
        'sendoff_events_lost_total{output="main",reason="spool_full",source="shop"} 2.0',
        'sendoff_points_received_total{source="shop"} 9.0',
        'sendoff_output_points_delivered_total{output="main"} 4.0',
        'sendoff_lines_rejected_total{reason="no_type",source="shop"} 1.0',
        'sendoff_frames_refused_total{input="tcp",reason="cut_off"} 2.0',
        'sendoff_kernel_dropped_total{socket="udp"} 8.0',
        'sendoff_kernel_dropped_points_total{socket="udp"} 4.0',
        'sendoff_client_gap_total{service="shop"} 5.0',
        'sendoff_client_dropped_total{reason="metric.closed",service="shop"} 5.0',
        "sendoff_books_balanced 1.0",
    ):
        assert sample in text
