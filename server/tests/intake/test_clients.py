"""What is known of a client: seqs and refusals, gaps in its points, and how it ends. Pure, no clock."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendoff_server.intake import clients as module
from sendoff_server.intake.client import MAX_HOLES, MAX_REASONS, Client
from sendoff_server.intake.clients import Clients
from sendoff_server.spool import ClientState


@pytest.fixture
def client() -> Client:
    return Client(ClientState("a" * 32))


def test_seqs_that_follow_each_other_arrive_and_repeats_do_not(client: Client) -> None:
    assert [client.arrives(seq) for seq in (1, 2, 2, 1, 3)] == [True, True, False, False, True]
    assert not client.refused


def test_a_jump_refuses_the_missing_seqs(client: Client) -> None:
    client.arrives(1)
    client.arrives(4)
    assert list(client.refused) == [(2, "missing"), (3, "missing")]
    assert client.received == 4


def test_the_highest_jump_costs_no_more_than_the_refusals_that_are_remembered(client: Client) -> None:
    assert client.arrives(2**53 - 1)
    assert len(client.refused) == 1_000
    assert client.refused[-1] == (2**53 - 2, "missing")


def test_resuming_passes_over_what_the_client_gave_up(client: Client) -> None:
    client.arrives(1)
    assert client.resumes(5)
    assert client.arrives(5)
    assert not client.refused
    assert not client.resumes(3)
    assert not client.arrives(3)


def test_refusals_are_told_only_once_they_are_stored(client: Client) -> None:
    client.arrives(1)
    client.refuse(2, "payload_invalid")
    assert client.copy(1).refused == []
    assert client.copy(2).refused == [(2, "payload_invalid")]
    assert client.refusals(0) == []
    client.state.upto = 2
    assert client.refusals(0) == [(2, "payload_invalid")]
    assert client.refusals(2) == []


def test_the_first_n_is_the_base(client: Client) -> None:
    assert client.points(1_000, 5, 0.0)
    client.settle(100.0)
    assert (client.state.gap, client.state.points, client.state.next_n) == (0, 5, 1_005)


def test_points_that_stay_missing_for_two_seconds_are_a_gap(client: Client) -> None:
    client.points(0, 10, 0.0)
    client.points(15, 5, 1.0)
    client.settle(2.9)
    assert client.state.gap == 0
    client.settle(3.0)
    assert client.state.gap == 5


def test_a_client_that_says_its_n_after_a_silence_has_its_gaps_charged_at_once(client: Client) -> None:
    client.points(0, 10, 0.0)
    client.points(15, 5, 1.0)
    assert client.points(30, 0, 1.6)
    client.settle(1.6)
    assert (client.state.gap, client.state.points, client.state.next_n) == (15, 15, 30)
    assert client.points(30, 0, 2.6), "said again, it changes nothing, and is no repeat of points"
    assert client.points(12, 0, 2.6), "nor does one that was overtaken"
    client.settle(10.0)
    assert (client.state.gap, client.state.next_n) == (15, 30)


def test_a_gap_on_a_socket_that_dropped_meanwhile_is_the_same_loss_as_the_drop() -> None:
    known = Clients([], 0.0)
    known.get("a" * 32, 0, 0.0).points(0, 10, 100.0, "udp")
    known.get("a" * 32, 0, 0.0).points(15, 0, 101.0, "udp")
    known.get("b" * 32, 0, 0.0).points(0, 10, 200.0, "udp")
    known.get("b" * 32, 0, 0.0).points(17, 0, 201.0, "udp")
    known.get("c" * 32, 0, 0.0).points(0, 10, 100.0)
    known.get("c" * 32, 0, 0.0).points(19, 0, 101.0)  # on a stream no kernel drops anything
    known.tick(201.0, {"udp": 101.0})
    assert known.in_kernel == {"udp": 5}
    assert sum(client.state.gap for client in known) == 5 + 7 + 9
    known.tick(202.0, {"udp": 202.0})
    assert known.in_kernel == {"udp": 5}, "each gap is asked about once"


def test_a_gap_over_a_restart_is_no_drop_of_a_kernel_that_dropped_nothing_since() -> None:
    before = Clients([], 0.0)
    client = before.get("a" * 32, 0, 0.0)
    client.points(0, 10, 100.0, "udp")
    for dropped_at, expected in (({}, {}), ({"udp": 100.0}, {}), ({"udp": 200.5}, {"udp": 5})):
        known = Clients([client.copy(0)], 200.0)
        known.get("a" * 32, 0, 201.0).points(15, 1, 201.0, "udp")
        known.tick(203.0, dropped_at)
        assert (sum(each.state.gap for each in known), known.in_kernel) == (5, expected)


def test_a_gap_over_a_reload_is_one_since_the_point_before_it() -> None:
    before = Clients([], 0.0)
    client = before.get("a" * 32, 0, 100.0)
    client.points(0, 10, 100.0, "udp")
    for dropped_at, expected in (({"udp": 50.0}, {}), ({"udp": 150.0}, {"udp": 5})):
        known = Clients([client.copy(0)], 200.0)
        known.resume(before.keep(199.0), 200.0)
        known.get("a" * 32, 0, 201.0).points(15, 1, 201.0, "udp")
        known.tick(203.0, dropped_at)
        assert known.in_kernel == expected


def test_a_frame_that_fills_the_hole_in_time_is_no_gap(client: Client) -> None:
    client.points(0, 10, 0.0)
    client.points(15, 5, 1.0)
    assert client.points(10, 5, 1.5)
    client.settle(10.0)
    assert (client.state.gap, client.state.points) == (0, 20)


def test_a_frame_that_comes_after_the_gap_was_charged_is_a_repeat(client: Client) -> None:
    client.points(0, 10, 0.0)
    client.points(15, 5, 1.0)
    client.settle(3.0)
    assert not client.points(10, 5, 3.1)
    assert client.state.points == 15


def test_repeated_points_do_not_count(client: Client) -> None:
    assert client.points(0, 10, 0.0)
    assert not client.points(0, 10, 0.1)
    assert not client.points(3, 2, 0.1)
    assert client.state.points == 10


@given(st.integers(0, 2**32), st.lists(st.integers(1, 9), min_size=2, max_size=40))
def test_every_point_is_either_counted_once_or_in_the_gap(seed: int, sizes: list[int]) -> None:
    """Frames are lost, doubled and reordered within the window, the first excepted."""
    rng, client = random.Random(seed), Client(ClientState("a" * 32))
    frames, n = [], 0
    for size in sizes:
        frames.append((n, size))
        n += size
    sent = [frames[0]]
    rest = [frame for frame in frames[1:] if rng.random() < 0.7]
    for start in range(0, len(rest), 4):
        few = rest[start : start + 4]
        rng.shuffle(few)
        sent += few
    arrived: set[tuple[int, int]] = set()
    for at, (first, size) in enumerate(sent):
        for _ in range(rng.choice((1, 1, 2))):
            assert client.points(first, size, at * 0.01) is ((first, size) not in arrived)
            arrived.add((first, size))
    client.bye({"last_seq": 0, "last_n": n}, 1.0)
    client.settle(10.0)
    assert client.state.points == sum(size for _, size in arrived)
    assert client.state.points + client.state.gap == n


def test_holes_are_bounded_and_the_oldest_is_charged_at_once(client: Client) -> None:
    for at in range(0, 1_000, 10):
        client.points(at, 1, 0.0)
    assert len(client.holes) == MAX_HOLES
    assert client.state.gap == (99 - MAX_HOLES) * 9


def test_the_higher_total_of_drops_is_the_newer_and_hostile_reasons_are_bounded(client: Client) -> None:
    client.drops({"event.buffer_full": 5})
    client.drops({"event.buffer_full": 3, "x" * 4_000: 1})
    client.drops({f"r{n}": 1 for n in range(100)})
    assert client.state.dropped["event.buffer_full"] == 5
    assert len(client.state.dropped) == MAX_REASONS
    assert max(map(len, client.state.dropped)) <= 64


def test_what_a_client_claims_is_bounded_so_that_sums_of_it_fit_the_books(client: Client) -> None:
    client.points(0, 1, 0.0)
    client.points(2**53 - 1, 1, 0.0)
    client.settle(5.0)
    client.drops({"event.closed": 2**53 - 1})
    assert client.state.gap == client.state.dropped["event.closed"] == 2**40


def test_bye_ends_the_client_and_charges_its_tail(client: Client) -> None:
    client.points(0, 10, 0.0)
    client.bye({"last_seq": 0, "last_n": 12, "dropped": {"metric.closed": 4}}, 1.0)
    client.settle(3.0)
    assert (client.state.state, client.state.gap, client.state.dropped) == ("ended", 2, {"metric.closed": 4})


def test_bye_refuses_the_durable_frames_that_are_not_here(client: Client) -> None:
    client.arrives(1)
    client.wrote(3)
    assert list(client.refused) == [(2, "missing"), (3, "missing")]
    assert client.received == 3
    client.wrote(2)
    assert client.received == 3


def test_clients_of_an_earlier_run_are_tail_unknown_until_they_come_back() -> None:
    known = Clients(
        [ClientState("a" * 32, upto=7, refused=[(6, "missing")]), ClientState("b" * 32, state="ended")], 0.0
    )
    assert {each.state.state for each in known} == {"tail unknown", "ended"}
    client = known.get("a" * 32, 5, 1.0)
    assert (client.state.state, client.received, list(client.refused)) == ("live", 7, [(6, "missing")])


def test_a_silent_client_without_connection_is_tail_unknown_by_running_time_not_by_the_wall_clock() -> None:
    known = Clients([], 0.0)
    client = known.get("a" * 32, 1_000, 0.0)
    known.get("b" * 32, 10**15, 1.0)  # the wall clock jumps
    known.tick(2.0, {})
    assert client.state.state == "live"
    known.tick(301.0, {})
    assert client.state.state == "tail unknown"


def test_a_state_is_handed_out_once_until_it_changes_and_never_while_something_of_it_waits() -> None:
    known = Clients([], 0.0)
    client = known.get("a" * 32, 1, 0.0)
    assert [state.client for state in known.changed(10)] == ["a" * 32]
    assert known.changed(10) == []
    client.points(0, 1, 0.0)
    client.arrives(1)
    assert known.changed(10) == []
    client.state.upto = 1
    states = known.changed(10)
    assert [state.points for state in states] == [1]
    known.again(states)
    assert len(known.changed(10)) == 1


def test_clients_that_ended_long_ago_are_folded_and_no_others() -> None:
    known = Clients([], 0.0)
    for name in ("a" * 32, "b" * 32, "c" * 32):
        known.get(name, 10**12, 0.0).bye({"last_seq": 0, "last_n": 0}, 0.0)
    known.get("b" * 32, 5, 5_000.0)
    known.get("c" * 32, 5, 0.0).received = 1  # something waits
    old = known.to_fold(5_001.0)
    assert [(state.client, state.seen) for state in old] == [("a" * 32, 0)]
    known.folded(old)
    assert len(known) == 2


def test_what_a_folded_client_said_it_dropped_counts_once_also_when_it_comes_back() -> None:
    known = Clients([], 0.0)
    client = known.get("a" * 32, 10**12, 0.0)
    client.points(0, 7, 0.0)
    client.drops({"event.buffer_full": 3, "metric.closed": 1})
    client.bye({"last_seq": 0, "last_n": 9}, 0.0)
    client.settle(100.0)
    folded = known.to_fold(5_001.0)
    again = known.get("a" * 32, 10**12, 5_001.0)  # while its copy is on the way to the disk
    again.points(9, 4, 5_001.0)
    again.drops({"event.buffer_full": 5, "metric.closed": 1})
    known.folded(folded)
    [total] = folded
    assert (total.points, total.gap, total.dropped) == (7, 2, {"event.buffer_full": 3, "metric.closed": 1})
    assert known.get("a" * 32, 0, 5_001.0) is again
    assert (again.state.points, again.state.gap, again.state.dropped) == (4, 0, {"event.buffer_full": 2})
    kept = Client.stored(again.copy(0), 0.0)  # over a restart
    kept.drops({"event.buffer_full": 6, "metric.closed": 2})
    assert kept.state.dropped == {"event.buffer_full": 3, "metric.closed": 1}


def test_a_client_that_gave_way_and_came_back_counts_once() -> None:
    known = Clients([], 0.0, most=1)
    client = known.get("a" * 32, 0, 0.0)
    client.points(0, 5, 0.0)
    client.points(8, 1, 0.0)
    client.drops({"event.closed": 2})
    known.get("b" * 32, 0, 0.0)
    folded = known.to_fold(0.0)
    again = known.get("a" * 32, 0, 0.0)
    again.drops({"event.closed": 3})
    known.folded(state for state in folded if state.client == "a" * 32)
    [total] = [state for state in folded if state.client == "a" * 32]
    assert (total.points, total.gap, total.dropped) == (6, 3, {"event.closed": 2})
    assert (again.state.points, again.state.gap, again.state.dropped) == (0, 0, {"event.closed": 1})


def test_beyond_the_limit_the_one_longest_unheard_gives_way_and_is_folded() -> None:
    known = Clients([], 0.0, most=3)
    for n, name in enumerate("abcd"):
        known.get(name * 32, n, float(n))
    assert len(known) == 3
    assert known.crowded
    assert [(state.client, state.state) for state in known.to_fold(9.0)] == [("a" * 32, "tail unknown")]
    known.folded(known.to_fold(9.0))
    assert not known.crowded


def test_a_client_that_comes_back_before_it_was_folded_goes_on_where_it_was() -> None:
    known = Clients([], 0.0, most=1)
    known.get("a" * 32, 0, 0.0).points(0, 5, 0.0)
    known.get("b" * 32, 0, 0.0)
    assert known.get("a" * 32, 0, 0.0).state.next_n == 5


def test_a_flood_of_names_is_bounded_and_a_connected_client_is_never_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Listening:
        def acknowledge(self) -> None: ...

    monkeypatch.setattr(module, "MAX_LEAVING", 50)
    known = Clients([], 0.0, most=10)
    kept = known.get("k" * 32, 0, 0.0)
    kept.sessions.add(Listening())
    for n in range(1_000):
        known.get(f"{n:032x}", 0, 0.0)
    assert len(known) == 10
    assert known.untracked == 1_000 - 50 - 9
    assert known.get("k" * 32, 0, 0.0) is kept
