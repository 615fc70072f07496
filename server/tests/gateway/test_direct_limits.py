"""What a project may send without an agent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendoff_server.gateway.direct.limits import FULL_S, Allowance, Held


@pytest.fixture
def allowance() -> Allowance:
    return Allowance(1_000, 5_000, Held())


def test_a_burst_of_two_seconds_is_let_through_and_then_the_rate(allowance: Allowance) -> None:
    assert [allowance.admit(500, 0.0) for _ in range(4)] == [0] * 4
    assert allowance.admit(500, 0.0) == 0.5
    assert allowance.admit(500, 0.4) == pytest.approx(0.1)
    assert allowance.admit(500, 0.5) == 0
    assert allowance.refused == {"rate": 2}


def test_a_message_beyond_the_burst_goes_through_when_nothing_else_did_and_is_paid_for(allowance: Allowance) -> None:
    assert allowance.admit(10_000, 0.0) == 0
    assert allowance.admit(10_000, 0.0) == 10.0
    assert allowance.admit(10_000, 10.0) == 0


def test_what_a_body_turned_out_to_be_is_paid_for_as_well(allowance: Allowance) -> None:
    assert allowance.admit(100, 0.0) == 0
    allowance.spend(5_000)
    assert allowance.admit(100, 0.0) == pytest.approx(3.2)


def test_while_too_much_waits_to_be_stored_nothing_is_let_in(allowance: Allowance) -> None:
    allowance.hold(5_000)
    assert allowance.admit(1, 0.0) == FULL_S
    allowance.release(1)
    assert allowance.admit(1, 0.0) == 0
    assert allowance.refused == {"in_flight": 1}


def test_all_projects_together_have_a_limit_too() -> None:
    everyone = Held(most=6_000)
    one, two = Allowance(1_000, 5_000, everyone), Allowance(1_000, 5_000, everyone)
    one.hold(4_000)
    two.hold(2_000)
    assert one.admit(1, 0.0) == FULL_S
    two.release(2_000)
    assert one.admit(1, 0.0) == 0


def test_a_clock_that_stands_still_or_goes_back_gives_nothing_away(allowance: Allowance) -> None:
    assert allowance.admit(2_000, 100.0) == 0
    assert allowance.admit(1_000, 50.0) == 1.0


@given(st.lists(st.tuples(st.integers(1, 4_000), st.floats(0, 2)), max_size=50))
def test_who_waits_as_he_was_told_gets_in_and_nobody_gets_more_than_the_rate(sends: list[tuple[int, float]]) -> None:
    allowance = Allowance(1_000, 5_000, Held())
    now, let_in = 0.0, 0
    for size, pause in sends:
        now += pause
        if wait := allowance.admit(size, now):
            now += wait + 1e-6
            assert allowance.admit(size, now) == 0
        let_in += size
    assert let_in <= 1_000 * now + 2_000 + 4_000
