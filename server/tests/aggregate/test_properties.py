"""What holds for any input: merging in any order and grouping, conserved points, balanced books, stable encodings."""

from __future__ import annotations

import json
from math import fsum, isclose
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sendoff_server.aggregate import Limits, make_core

if TYPE_CHECKING:
    from collections.abc import Iterable

NOW = 1_700_000_000_000
CORE = make_core(Limits())  # merging and decoding keep no state

integers = st.integers(-(10**6), 10**6).map(str)
decimals = st.floats(-1e9, 1e9, allow_nan=False).map(repr)
names = st.sampled_from(["a", "b.c", "é", "d"])
tags = st.sampled_from(["", "|#x:1", "|#y:2,x:1", "|#x:1,y:2", "|#x:1,x:2"])
times = st.sampled_from(["", "|T1699999990", "|T1699999991", "|T1700000005"])
rates = st.sampled_from(["", "|@0.5", "|@0.1", "|@0.3"])


def lines_of(value: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    packed = st.lists(value, min_size=1, max_size=4).map(":".join)
    numbers = st.builds("{}:{}|{}{}{}{}".format, names, packed, st.sampled_from(["c", "ms", "d"]), rates, tags, times)
    gauges = st.builds("{}:{}|g{}{}".format, names, packed, tags, times)
    sets = st.builds("{}:{}|s{}{}".format, names, st.integers(0, 3000).map(str), tags, times)
    return st.one_of(numbers, gauges, sets)


class Fed:
    """A core that was fed lines over some seconds, and what it handed over."""

    def __init__(self, seconds: Iterable[Iterable[str]], **limits: Any) -> None:
        core = make_core(Limits(**limits), (), (7, 1))
        self.snapshots: list[list[bytes]] = []
        self.points = self.lost = self.received = self.rejected = 0
        for i, lines in enumerate(seconds):
            core.feed("\n".join(lines).encode(), "s", [("service", "shop")], NOW + i * 1000)
            self._take(core.rotate(NOW + i * 1000 + 1000))
        self._take(core.rotate(NOW, everything=True))

    def _take(self, rotation: Any) -> None:
        self.snapshots.append(rotation.lines)
        self.points += sum(rotation.points.values())
        self.lost += sum(sum(reasons.values()) for reasons in rotation.lost.values())
        self.received += sum(rotation.lines_received.values())
        self.rejected += sum(sum(reasons.values()) for reasons in rotation.lines_rejected.values())


def alike(one: Any, two: Any) -> bool:
    """Equal, but for rounding in float sums."""
    if isinstance(one, float) or isinstance(two, float):
        return isclose(one, two, rel_tol=1e-12, abs_tol=1e-3)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(alike(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(alike, one, two))
    return bool(one == two)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(lines_of(integers), max_size=12), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_whole_numbers_merge_to_equal_bytes_in_any_order_and_grouping(seconds: list[list[str]], rng: Any) -> None:
    seconds = [[line.replace("@0.1", "@0.25").replace("@0.3", "@0.125") for line in lines] for lines in seconds]
    snapshots = Fed(seconds).snapshots
    whole = CORE.merge(snapshots, 10_000)
    shuffled = [rng.sample(lines, len(lines)) for lines in rng.sample(snapshots, len(snapshots))]
    at = rng.randrange(len(shuffled) + 1)
    grouped = [CORE.merge(shuffled[:at], rng.choice([1000, 5000, 10_000])), CORE.merge(shuffled[at:], 2000)]
    assert CORE.merge(shuffled, 10_000) == whole
    assert CORE.merge(grouped, 10_000) == whole
    assert CORE.merge([whole], 1000) == whole


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(lines_of(decimals), max_size=12), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_fractions_merge_alike_in_any_order_and_grouping(seconds: list[list[str]], rng: Any) -> None:
    snapshots = Fed(seconds).snapshots
    whole = [json.loads(line) for line in CORE.merge(snapshots, 10_000)]
    at = rng.randrange(len(snapshots) + 1)
    grouped = [CORE.merge(snapshots[at:], 1000), CORE.merge(snapshots[:at], 5000)]
    assert alike(whole, [json.loads(line) for line in CORE.merge(grouped, 10_000)])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(lines_of(decimals), max_size=12), min_size=1, max_size=5))
def test_merging_keeps_totals(seconds: list[list[str]]) -> None:
    fed = Fed(seconds)
    merged = [json.loads(line) for line in CORE.merge(fed.snapshots, 600_000)]
    single = [json.loads(line) for lines in fed.snapshots for line in lines]
    assert sum(one["n"] for one in merged) == sum(one["n"] for one in single) == fed.points
    for key in ("sum", "weight", "zero"):
        values = [one.get(key, 0) for one in single]
        assert isclose(fsum(one.get(key, 0) for one in merged), fsum(values), rel_tol=1e-12, abs_tol=1e-3)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.lists(st.one_of(lines_of(integers), st.text(max_size=20)), max_size=20), min_size=1, max_size=3),
    st.integers(0, 6),
)
def test_every_point_is_journaled_or_lost_and_every_line_accepted_or_rejected(
    seconds: list[list[str]], max_series: int
) -> None:
    # what the lines hold is counted by a core without limits, and one line a call
    alone = [Fed([[line]]) for lines in seconds for text in lines for line in text.split("\n")]
    fed = Fed(seconds, max_series=max_series, overflow_names=2)
    assert fed.points + fed.lost == sum(one.points for one in alone)
    assert fed.received == sum(one.received for one in alone)
    assert fed.rejected == sum(one.rejected for one in alone)
    assert sum(json.loads(line)["n"] for lines in fed.snapshots for line in lines) == fed.points


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_no_bytes_raise(data: bytes, framed: bool, cut: bool) -> None:
    core = make_core(Limits(), (), (7, 1))
    core.feed(data, "statsd/udp", (), NOW, framed=framed, cut=cut)
    core.feed(b"a:1|c|#x:1\n" + data + b"\na:" + data + b"|c|#x:1\na:1|" + data, "s", (), NOW)
    for line in core.rotate(NOW, everything=True).lines:
        assert core.decode(line).encode() == line


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(lines_of(decimals), max_size=12), min_size=1, max_size=3))
def test_snapshots_are_sorted_and_read_back_as_written(seconds: list[list[str]]) -> None:
    for lines in Fed(seconds).snapshots:
        decoded = [CORE.decode(line) for line in lines]
        assert [one.encode() for one in decoded] == lines
        assert sorted(decoded, key=lambda one: one.place()) == decoded


@pytest.mark.parametrize("values", [["0.1"] * 10, ["1e16", "1", "-1e16"], ["1e100", "3", "-1e100"], ["-1", "0.3"] * 99])
def test_sums_of_counters_are_right_to_twelve_digits_in_any_order(values: list[str]) -> None:
    for order in (values, values[::-1], sorted(values)):
        (line,) = Fed([[f"a:{value}|c" for value in order]]).snapshots[0]
        assert isclose(json.loads(line)["sum"], fsum(map(float, values)), rel_tol=1e-12)
