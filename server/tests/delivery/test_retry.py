"""The decision by itself: a table, and what holds for every input."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendoff_server.delivery.retry import (
    ASIDE_TO_PARK,
    CEILING_S,
    PROBE_CEILING_S,
    RETRY_AFTER_CEILING_S,
    Situation,
    decide,
    parse_retry_after,
)

CALM = Situation(status=500, retry_after_s=None, attempt=0, batches=1, lines=8, proven=False, aside=0, parked=False)

CASES = [
    ("no answer", {"status": None}, "again"),
    ("nonsense", {"status": 200}, "again"),
    ("5xx", {"status": 599}, "again"),
    ("408", {"status": 408}, "again"),
    ("425", {"status": 425}, "again"),
    ("429", {"status": 429}, "wait"),
    ("429, though others were taken", {"status": 429, "blamed": True}, "wait"),
    ("no connection", {"status": None, "reached": False}, "wait"),
    ("no connection, though others were taken", {"status": None, "reached": False, "blamed": True}, "wait"),
    ("5xx together", {"status": 500, "batches": 2}, "wait"),
    ("5xx for a probe", {"status": 500, "parked": True, "blamed": True}, "wait"),
    ("5xx again", {"status": 500, "failures": 1}, "again"),
    ("5xx until its patience is used up", {"status": 500, "failures": 2}, "turn"),
    ("5xx for the next while another has used it up", {"status": 500, "turning": True}, "turn"),
    ("5xx though others were taken", {"status": 500, "blamed": True}, "shelve"),
    ("no answer though others were taken", {"status": None, "blamed": True, "failures": 9}, "shelve"),
    ("5xx though others were taken, like too many", {"status": 500, "blamed": True, "shelved": 101}, "again"),
    ("401", {"status": 401}, "park"),
    ("redirect", {"status": 302}, "park"),
    ("409", {"status": 409}, "park"),
    ("refused together", {"status": 400, "batches": 3}, "alone"),
    ("refused alone", {"status": 400}, "split"),
    ("too large, nothing accepted", {"status": 413}, "split"),
    ("refused, something accepted", {"status": 422, "proven": True}, "split"),
    ("one line refused, nothing accepted", {"status": 400, "lines": 1}, "aside"),
    ("one line too large, nothing accepted", {"status": 413, "lines": 1}, "aside"),
    ("one line refused, something accepted", {"status": 400, "lines": 1, "proven": True}, "dead"),
    ("another one aside", {"status": 400, "aside": 1}, "split"),
    ("many aside", {"status": 400, "aside": ASIDE_TO_PARK - 1}, "park"),
    ("many aside, but proven", {"status": 400, "aside": ASIDE_TO_PARK, "proven": True}, "split"),
    ("a probe refused", {"status": 400, "parked": True}, "park"),
]


@pytest.mark.parametrize(("change", "action"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_decision(change: dict[str, object], action: str) -> None:
    assert decide(replace(CALM, **change), 0.5).action == action  # type: ignore[arg-type]


SITUATIONS = st.builds(
    Situation,
    status=st.none() | st.integers(100, 599),
    retry_after_s=st.none() | st.floats(0, 1e12),
    attempt=st.integers(0, 10**6),
    batches=st.integers(1, 64),
    lines=st.integers(1, 1_000),
    proven=st.booleans(),
    aside=st.integers(0, 100),
    parked=st.booleans(),
    reached=st.booleans(),
    failures=st.integers(0, 10**6),
    turning=st.booleans(),
    blamed=st.booleans(),
    shelved=st.integers(0, 200),
)


@given(SITUATIONS, st.floats(0, 1, exclude_max=True))
def test_every_wait_is_bounded_and_never_shorter_than_asked(situation: Situation, chance: float) -> None:
    decision = decide(situation, chance)
    assert 0 <= decision.wait_s <= max(CEILING_S, PROBE_CEILING_S, RETRY_AFTER_CEILING_S + 5)
    if decision.action not in ("alone", "split", "dead"):
        assert decision.wait_s > 0
    if decision.action not in ("alone", "split", "dead", "aside"):
        pause = decision.pause_s if decision.action == "shelve" else decision.wait_s
        assert pause >= min(situation.retry_after_s or 0, RETRY_AFTER_CEILING_S)


@given(SITUATIONS, st.floats(0, 1, exclude_max=True))
def test_nothing_is_split_or_buried_but_for_a_refused_body(situation: Situation, chance: float) -> None:
    action = decide(situation, chance).action
    if action in ("split", "dead"):
        assert situation.status in (400, 413, 422)
        assert situation.batches == 1
    if action == "dead":
        assert situation.lines == 1
        assert situation.proven


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("5", 5),
        (" 7 ", 7),
        ("99999999999999999999999", 3_600),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("Sun, 09 Sep 2001 01:46:50 GMT", 10),
        ("Sun, 09 Sep 2001 01:46:30 GMT", 0),
        ("Sun, 99 Sep 2001 01:46:30 GMT", None),
        ("٣", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, 1_000_000_000) == seconds


@given(st.text(max_size=60))
def test_no_retry_after_raises(value: str) -> None:
    found = parse_retry_after(value, 1e9)
    assert found is None or 0 <= found <= RETRY_AFTER_CEILING_S
