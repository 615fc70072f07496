"""The contract of a core, beyond single lines: windows, books, limits, gauges that outlive everything."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from sendoff_server.aggregate import Limits, SnapshotError, make_core

if TYPE_CHECKING:
    from collections.abc import Callable

    from sendoff_server.aggregate import Core, Rotation

NOW = 1_700_000_000_000


def series(rotation: Rotation) -> list[dict[str, Any]]:
    return [json.loads(line) for line in rotation.lines]


def test_a_core_that_is_not_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENDOFF_CORE", "rust")
    with pytest.raises(RuntimeError, match="no Rust core; unset SENDOFF_CORE"):
        make_core(Limits())
    monkeypatch.setenv("SENDOFF_CORE", "cobol")
    with pytest.raises(RuntimeError, match="use python or rust"):
        make_core(Limits())


def test_the_core_says_its_name(make: Callable[..., Core]) -> None:
    assert make().stats().core == make().name


def test_nothing_fed_rotates_to_nothing_and_uses_no_number(make: Callable[..., Core]) -> None:
    core = make(ord=(7, 5))
    assert not core.rotate(NOW)
    core.feed(b"", "s", (), NOW)
    assert not core.rotate(NOW + 2000)
    core.feed(b"a:1|c", "s", (), NOW + 2000)
    assert core.rotate(NOW + 3000).ord == (7, 5)
    core.feed(b"nonsense", "s", (), NOW + 3000)
    assert core.rotate(NOW + 4000)
    assert not core.rotate(NOW + 5000)
    core.feed(b"a:1|c", "s", (), NOW + 5000)
    assert core.rotate(NOW + 6000).ord == (7, 6), "the numbers of what is journaled have no gaps"


def test_a_window_is_handed_over_once_its_second_is_over(make: Callable[..., Core]) -> None:
    core = make()
    core.feed(b"a:1|c", "s", (), NOW + 999)
    assert core.rotate(NOW + 999).lines == []
    assert series(core.rotate(NOW + 1000))[0]["w"] == [NOW, 1000]
    assert core.rotate(NOW + 1001).lines == []


def test_windows_ahead_wait_and_shutdown_takes_everything(make: Callable[..., Core]) -> None:
    core = make()
    core.feed(b"a:1|c|T1700000300\nb:1|c", "s", (), NOW)
    assert [one["name"] for one in series(core.rotate(NOW + 1000))] == ["b"]
    rotation = core.rotate(NOW + 1000, everything=True)
    assert (rotation.points, series(rotation)[0]["w"]) == ({"s": 1}, [NOW + 300_000, 1000])


def test_a_clock_that_is_set_back_keeps_no_window_open(make: Callable[..., Core]) -> None:
    core = make()
    core.feed(b"a:1|c", "s", (), NOW)
    assert core.rotate(NOW - 3_600_000).points == {"s": 1}
    core.feed(b"a:1|c", "s", (), NOW - 3_600_000)
    assert core.rotate(NOW - 3_599_000).points == {"s": 1}


def test_the_windows_that_timestamps_open_are_bounded_until_handed_over(
    make: Callable[..., Core],
) -> None:
    core = make(stamped_windows=3)
    core.feed(b"".join(b"a:1|c|T%d\n" % (1_699_990_000 + i) for i in range(5)), "s", (), NOW)
    core.feed(b"a:1|c|T1699990000\na:1|c", "s", (), NOW)
    core.feed(b"a:1|c", "s", (), NOW, t=NOW - 7_000)
    rotation = core.rotate(NOW + 1000)
    assert rotation.lines_rejected == {"s": {"timestamp_invalid": 3}}
    assert rotation.points == {"s": 5}
    core.feed(b"a:1|c", "s", (), NOW + 1000, t=NOW - 7_000)
    assert core.rotate(NOW + 1000).points == {"s": 1}


def test_lines_and_points_are_booked_by_source(make: Callable[..., Core]) -> None:
    core = make()
    core.feed(b"a:1:2|d\nb:x|c\n_sc|db|0", "one", (), NOW)
    core.feed(b"a:1|c\na:1|c", "two", (), NOW)
    core.feed(b"bad", "two", (), NOW)
    rotation = core.rotate(NOW + 1000)
    assert rotation.points == {"one": 2, "two": 2}
    assert rotation.lines_received == {"one": 3, "two": 3}
    assert rotation.lines_rejected == {"one": {"value_not_a_number": 1}, "two": {"no_value": 1}}
    assert rotation.lost == {}


def test_gauges_beyond_the_limit_are_lost_by_source_and_reason(make: Callable[..., Core]) -> None:
    core = make(max_series=1)
    core.feed(b"a:1|c\ng:1:2|g", "s", (), NOW)
    core.feed(b"g:3|g", "t", (), NOW)
    rotation = core.rotate(NOW + 1000)
    assert rotation.points == {"s": 1}
    assert rotation.lost == {"s": {"series_limit": 2}, "t": {"series_limit": 1}}
    assert rotation.lines_received == {"s": 2, "t": 1}
    assert rotation.gauges == []
    assert core.stats().overflow == [("g", 3)]


def test_the_worst_offenders_against_the_limit_are_named(make: Callable[..., Core]) -> None:
    core = make(max_series=1, overflow_names=2)
    core.feed(b"keep:1|c", "s", (), NOW)
    for name, points in (("few", 2), ("many", 9), ("third", 4), ("fourth", 1)):
        core.feed(b"".join(b"%s:1|c|#id:%d\n" % (name.encode(), i) for i in range(points)), "s", (), NOW)
    assert core.rotate(NOW + 1000).points == {"s": 17}
    assert core.stats().overflow == [("many", 9), ("sendoff.overflow", 5), ("few", 2)]


def test_idle_series_give_their_places_free(make: Callable[..., Core]) -> None:
    core = make(max_series=1, overflow_names=1, idle_ms=60_000)
    core.feed(b"a:1|c\nb:1|c\nc:1|c", "s", (), NOW)
    assert [one["name"] for one in series(core.rotate(NOW + 1000))] == ["a", "b", "sendoff.overflow"]
    core.rotate(NOW + 61_000)
    assert core.stats().series == 0
    core.feed(b"b:1|c\nc:1|c", "s", (), NOW + 62_000)
    later = series(core.rotate(NOW + 63_000))
    assert [(one["name"], len(one["tags"])) for one in later] == [("b", 0), ("c", 1)]


def test_a_series_in_use_keeps_its_place(make: Callable[..., Core]) -> None:
    core = make(max_series=1, idle_ms=60_000)
    for second in range(0, 200, 20):
        core.feed(b"a:1|c", "s", (), NOW + second * 1000)
        core.rotate(NOW + second * 1000 + 1000)
    core.feed(b"b:1|g", "s", (), NOW + 200_000)
    assert core.rotate(NOW + 201_000).lost == {"s": {"series_limit": 1}}


def test_all_windows_together_hold_a_bounded_number_of_aggregates(make: Callable[..., Core]) -> None:
    core = make(max_series=10)
    for second in range(100):
        core.feed(b"".join(b"m%d:1|c|T%d\n" % (i, 1_699_990_000 + second) for i in range(10)), "s", (), NOW)
    rotation = core.rotate(NOW + 1000)
    assert rotation.points == {"s": 1000}
    folded = sum(one["n"] for one in series(rotation) if one["tags"])
    assert folded == 1000 - 4 * 10


def test_windows_that_were_handed_over_hold_nothing_any_more(make: Callable[..., Core]) -> None:
    core = make(max_series=10)
    for second in range(50):
        core.feed(b"".join(b"m%d:1|c\n" % i for i in range(10)), "s", (), NOW + second * 1000)
        assert not any(one["tags"] for one in series(core.rotate(NOW + second * 1000 + 1000)))
    assert core.stats().windows == 0


def test_too_many_windows_are_named_before_too_many_tags(make: Callable[..., Core]) -> None:
    core = make(stamped_windows=0)
    core.feed(b"a:1|c|T1699990000|#" + b",".join(b"t%d" % i for i in range(65)), "s", (), NOW)
    assert core.rotate(NOW + 1000).lines_rejected == {"s": {"timestamp_invalid": 1}}


def test_a_gauge_outlives_windows_and_idleness(make: Callable[..., Core]) -> None:
    core = make(idle_ms=1000)
    core.feed(b"g:10|g\ng:+1|g", "s", (), NOW)
    core.rotate(NOW + 1000)
    core.rotate(NOW + 500_000)
    core.feed(b"g:+1|g\ng:-4|g", "s", (), NOW + 500_000)
    assert series(core.rotate(NOW + 501_000))[0]["last"] == 8
    assert "gauge_base_unknown" not in core.stats().notes


def test_a_gauge_outlives_a_restart_through_the_rows_of_rotations(make: Callable[..., Core]) -> None:
    stored: dict[bytes, bytes] = {}
    core = make()
    for now, line in ((NOW, b"g:10|g|#x:1\nh:1|g"), (NOW + 1000, b"g:+1|g|#x:1")):
        core.feed(line, "s", [("service", "shop")], now)
        for row in core.rotate(now + 1000).gauges:
            stored[row.partition(b"\0")[0]] = row
    assert len(stored) == 2
    core = make(gauges=stored.values())
    core.feed(b"g:-5|g|#x:1\nh:-5|g", "s", [("service", "shop")], NOW + 9000)
    assert [one["last"] for one in series(core.rotate(NOW + 10_000))] == [6, -5]


def test_after_the_clock_was_set_back_the_newest_value_is_still_the_one_that_came_last(
    make: Callable[..., Core],
) -> None:
    core = make()
    core.feed(b"g:10|g", "s", (), NOW)
    core.rotate(NOW + 1000)
    earlier = NOW - 3_600_000
    core.feed(b"g:20|g", "s", (), earlier)
    core.feed(b"g:+1|g", "s", (), earlier)
    assert b'"last":21' in core.rotate(earlier + 1000).lines[0]


def test_a_value_with_an_older_time_of_its_own_is_not_the_newest(make: Callable[..., Core]) -> None:
    core = make()
    core.feed(b"g:10|g", "s", (), NOW)
    core.feed(b"g:20|g|T%d" % (NOW // 1000 - 60), "s", (), NOW)
    core.feed(b"g:30|g", "s", (), NOW, framed=True, t=NOW - 60_000)
    core.feed(b"g:+1|g", "s", (), NOW)
    assert [b'"last":11' in line for line in core.rotate(NOW + 1000).lines] == [False, True]


def test_only_gauges_that_got_something_are_stored_again(make: Callable[..., Core]) -> None:
    core = make()
    core.feed(b"g:1|g\nh:1|g\na:1|c", "s", (), NOW)
    assert len(core.rotate(NOW + 1000).gauges) == 2
    core.feed(b"h:2|g", "s", (), NOW + 1000)
    assert [b'"h"' in row for row in core.rotate(NOW + 2000).gauges] == [True]


def test_the_gauge_that_was_untouched_longest_is_forgotten_and_the_store_is_told(make: Callable[..., Core]) -> None:
    core = make(max_series=2, idle_ms=1000)
    for i in range(3):
        now = NOW + i * 5000
        core.feed(b"g%d:+%d|g" % (i, i), "s", (), now)
        rows = core.rotate(now + 1000).gauges
        core.rotate(now + 4000)
    assert rows[0].startswith(b'{"name":"g0"')
    assert rows[0].endswith(b"\0")
    assert core.stats().gauges == 2
    assert make(gauges=rows).stats().gauges == 1


def test_damaged_gauge_rows_do_not_keep_a_core_from_starting(make: Callable[..., Core]) -> None:
    key = b'{"name":"g","tags":{},"unit":"","type":"gauge"'
    states = [b"", b"\0", b"\0[]", b"\0[1,2]", b"\0[1,2,0", b"\0{}", b"\0[[],1,1]", b"\0[1e999,1,0]", b"\0[NaN,1,0]"]
    core = make(gauges=[b"", b"\0", b"\xff\0[1,2,0]", *(key + state for state in states)])
    core.feed(b"g:+1|g", "s", (), NOW)
    assert series(core.rotate(NOW + 1000))[0]["last"] == 1


def test_a_gauge_never_becomes_infinite(make: Callable[..., Core]) -> None:
    core = make()
    core.feed(b"g:1e308|g\ng:+1e308|g\ng:+1e308|g", "s", (), NOW)
    assert series(core.rotate(NOW + 1000))[0]["last"] == 1.7976931348623157e308


def test_equal_lines_of_sources_with_other_tags_are_other_series(
    make: Callable[..., Core],
) -> None:
    core = make()
    for _ in range(3):
        core.feed(b"a:1|c", "s", [("service", "one")], NOW)
        core.feed(b"a:1|c", "s", [("service", "two")], NOW)
    assert [(one["tags"], one["sum"]) for one in series(core.rotate(NOW + 1000))] == [
        ({"service": "one"}, 3),
        ({"service": "two"}, 3),
    ]


def test_a_line_that_is_known_without_tags_of_a_source_is_not_mixed_up_either(make: Callable[..., Core]) -> None:
    core = make()
    core.feed(b"g:1|g", "s", (), NOW)
    core.feed(b"g:2|g", "s", [("service", "shop")], NOW)
    assert [one["tags"] for one in series(core.rotate(NOW + 1000))] == [{"service": "shop"}, {}]


def test_the_second_line_of_a_kind_is_judged_like_the_first(make: Callable[..., Core]) -> None:
    lines = [
        b"a:%b|c|@0.5|#x:1" % value for value in (b"1", b"x", b"", b"1e201", b"nan", b"1:2", b" 3 ", b"-0", b"9" * 400)
    ]
    once, twice = make(), make()
    for line in lines:
        once.feed(line, "s", (), NOW)
    twice.feed(b"a:1|c|@0.5|#x:1\n" + b"\n".join(lines), "s", (), NOW)
    one, two = once.rotate(NOW + 1000), twice.rotate(NOW + 1000)
    assert one.lines_rejected == two.lines_rejected
    assert series(one)[0]["sum"] == 2 * (1 + 1 + 2 + 3)
    assert series(two)[0]["sum"] == 2 * (1 + 1 + 1 + 2 + 3)


def test_a_line_is_judged_alike_at_the_end_of_its_length_whether_known_or_not(make: Callable[..., Core]) -> None:
    core = make()
    core.feed(b"a:1|c", "s", (), NOW)
    core.feed(b"a:" + b"0" * 65_530 + b"1|c", "s", (), NOW)
    core.feed(b"a:" + b"0" * 65_531 + b"1|c", "s", (), NOW)
    assert core.rotate(NOW + 1000).lines_rejected == {"s": {"line_too_long": 1}}


@pytest.mark.parametrize("line", [b"a:1|c|@2", b"a:1|c|zzz", b"a:1|g|@0.5", b"a:+1|g|T1700000000", b"a:1::2|c"])
def test_notes_count_every_line_they_apply_to(make: Callable[..., Core], line: bytes) -> None:
    core = make()
    core.feed(b"\n".join([line] * 5), "s", (), NOW)
    notes = core.stats().notes
    notes.pop("gauge_base_unknown", None)
    assert list(notes.values()) == [5]


def test_the_last_rejected_line_is_shown_scrubbed(make: Callable[..., Core]) -> None:
    core = make()
    core.feed(b"login:password=hunter2|c|#card:4111-1111-1111-1111\x00", "s", (), NOW)
    assert core.stats().last_rejected == ("control_character", "login:password=***|c|#card:***\ufffd")


def test_hostile_tags_of_a_source_cannot_spoil_a_snapshot(make: Callable[..., Core]) -> None:
    core = make()
    tags = [("service", "a\x00\ud800b"), ("env", "e" * 2000), ("a:b", "c"), ("", "x")]
    core.feed(b"a:1|c\ng:1|g\ns:1|s\nd:1|d", "s", tags, NOW)
    lines = core.rotate(NOW + 1000).lines
    assert core.decode(lines[0]).tags == {"service": "a__b", "env": "e" * 508, "a": "b:c"}
    assert core.merge([lines], 1000) == lines


def test_a_bad_line_ends_a_merge_with_its_field(make: Callable[..., Core]) -> None:
    with pytest.raises(SnapshotError, match=r"^n: "):
        make().merge([[b'{"name":"a","tags":{},"unit":"","type":"counter","w":[0,1],"ord":[0,0],"sum":1}']], 1000)


def test_many_different_lines_do_not_grow_what_is_remembered(make: Callable[..., Core]) -> None:
    core = make(max_series=100)
    for start in range(0, 70_000, 1000):
        core.feed(b"".join(b"a:1|c|#id:%d\n" % i for i in range(start, start + 1000)), "s", (), NOW)
    rotation = core.rotate(NOW + 1000)
    assert len(rotation.lines) == 101
    assert sum(one["n"] for one in series(rotation)) == 70_000
    assert core.stats().series == 100
