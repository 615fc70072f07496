"""A worker against a destination that fails in every way there is."""

import asyncio
import json
import logging
from email.utils import formatdate
from itertools import pairwise

import pytest

from sendoff_server.aggregate import Rotation
from sendoff_server.delivery import Worker
from sendoff_server.delivery.retry import ASIDE_TO_PARK
from sendoff_server.spool import Spool, SpoolFailed
from server.tests.outputs.destination import Answer, Destination, cut_short, reset, results, say, status

from .conftest import NOW, MakeWorker, ManualClock, event, settled


async def put(spool: Spool, *words: str, together: bool = False) -> None:
    """Events e1 … in a batch each, or all in one."""
    events = [event(number, word) for number, word in enumerate(words, 1)]
    for group in [events] if together else [[one] for one in events]:
        await spool.put(group, [])


async def numbers(spool: Spool, output: str = "main") -> tuple[int, int, int]:
    """Delivered, pending, dead."""
    books = await spool.books()
    assert books.balance() == []
    (book,) = (book for book in books.events if book.output == output)
    return book.delivered, book.pending, book.dead


async def test_many_batches_go_in_one_request(
    worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    await put(spool, *["a"] * 70)
    one = worker()
    await settled(one, clock)
    assert sorted(len(request) for request in destination.requests) == [6, 64]
    assert await numbers(spool) == (70, 0, 0)
    assert one.state == "flowing"


TRANSIENT: list[tuple[str, Answer | None, str]] = [
    ("500", status(500, "oh no"), "has a problem of its own (500): oh no"),
    ("503", status(503), "has a problem of its own (503)"),
    ("408", status(408), "refused the request (408)"),
    ("425", status(425), "refused the request (425)"),
    ("429", status(429), "asks to be sent less (429)"),
    ("reset", reset, "closed the connection without an answer"),
    ("cut short", cut_short, "in the middle of its answer"),
    ("garbage", say("<html>hello</html>"), "answered 200, but not as a Sendoff gateway does"),
    ("empty", say(""), "answered 200, but not as a Sendoff gateway does"),
    ("no results", say('{"results": []}'), "the answer says nothing about the batches"),
    ("other results", say('{"results": [{"batch": "x", "status": "stored"}]}'), "the answer says nothing"),
    ("deep", say("[" * 100_000), "answered 200, but not as a Sendoff gateway does"),
    ("204", status(204), "refused the request (204)"),
]


@pytest.mark.parametrize(("answer", "words"), [case[1:] for case in TRANSIENT], ids=[case[0] for case in TRANSIENT])
async def test_what_may_pass_is_tried_again_under_the_same_ids(
    answer: Answer, words: str, worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    await put(spool, "a", "b")
    destination.do(answer)
    one = worker()
    wait = await one.step()
    assert 0 < wait < 60
    assert repr(one).startswith("<Worker main waiting")
    assert words in one.last_error
    assert await numbers(spool) == (0, 2, 0)
    await settled(one, clock)
    assert await numbers(spool) == (2, 0, 0)
    assert one.state == "flowing"
    assert destination.requests[0][0] == destination.requests[1][0]


async def test_a_destination_that_does_not_answer_is_given_up_after_the_timeout(
    worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    await put(spool, "a")
    destination.do(destination.hang)
    one = worker(timeout=1)
    while await one.step() == 0:
        pass
    assert "did not answer within 1 s" in one.last_error
    await settled(one, clock)
    assert await numbers(spool) == (1, 0, 0)


async def test_a_destination_that_is_not_there_is_named_in_plain_words(
    worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    await put(spool, "a")
    await destination.stop()
    one = worker()
    await one.step()
    assert one.last_error == f"nothing listens at 127.0.0.1:{destination.port} (connection refused)"
    await destination.start()
    await settled(one, clock)
    assert await numbers(spool) == (1, 0, 0)


async def test_waits_grow_to_a_minute_and_begin_anew_after_success(
    worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    await put(spool, "a")
    destination.do(*[status(500)] * 9)
    one = worker()
    waits = []
    for _ in range(9):
        waits.append(await one.step())
        clock.seconds += waits[-1]
    assert waits == [0.25, 0.5, 1, 2, 4, 8, 16, 30, 30]
    await one.step()
    await put(spool, "b")
    destination.do(status(500))
    assert await one.step() == 0.25


@pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503, 504, 401, 404, 301])
async def test_retry_after_in_seconds_holds_for_the_whole_destination(
    code: int, worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    await put(spool, "a")
    destination.do(status(code, Retry_After="120"))
    one = worker()
    assert 120 <= await one.step() <= 132
    await put(spool, "b")
    one.wake()
    clock.seconds += 119
    assert await one.step() > 0
    assert len(destination.requests) == 1
    clock.seconds += 20
    await settled(one, clock)
    assert await numbers(spool) == (2, 0, 0)


async def test_retry_after_as_a_date_is_read_by_the_destinations_own_clock(
    worker: MakeWorker, spool: Spool, destination: Destination
) -> None:
    await put(spool, "a")
    theirs = 1_000_000_000
    destination.do(status(503, Retry_After=formatdate(theirs + 90, usegmt=True), Date=formatdate(theirs, usegmt=True)))
    assert 90 <= await worker().step() <= 99


async def test_no_destination_can_silence_an_output_for_more_than_an_hour(
    worker: MakeWorker, spool: Spool, destination: Destination
) -> None:
    await put(spool, "a")
    destination.do(status(503, Retry_After="999999999"))
    assert await worker().step() <= 3_605


async def test_after_an_outage_it_begins_with_one_batch_and_doubles(
    worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    await put(spool, *["a"] * 80)
    destination.do(status(500), status(500))
    await settled(worker(), clock)
    sizes = [len(request) for request in destination.requests]
    assert sorted(sizes[:2]) == [16, 64]
    assert sizes[2:] == [1, 2, 4, 8, 16, 32, 17]


@pytest.mark.parametrize("code", [401, 403, 404, 301, 302, 307, 308, 405, 410, 418])
async def test_a_wrong_set_up_parks_the_output_until_a_probe_succeeds(
    code: int,
    worker: MakeWorker,
    spool: Spool,
    destination: Destination,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await put(spool, *["a"] * 5)
    destination.always = status(code, Location="http://elsewhere.invalid/?secret=1")
    one = worker()
    waits = []
    for _ in range(6):
        waits.append(await one.step())
        assert one.state == "parked"
        clock.seconds += waits[-1]
    assert 5 <= waits[0] <= 10
    assert max(waits) <= 300
    assert [len(request) for request in destination.requests] == [5, 1, 1, 1, 1, 1]
    assert f"({code})" in one.last_error
    assert "secret" not in one.last_error
    assert [record.levelno for record in caplog.records if "is parked" in record.message] == [logging.ERROR]
    assert await numbers(spool) == (0, 5, 0)
    destination.always = None
    await settled(one, clock)
    assert await numbers(spool) == (5, 0, 0)
    assert one.state == "flowing"


async def test_lines_that_a_gateway_refuses_are_dead_and_the_others_delivered(
    worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    await put(spool, "good", "bad", "good", "worse", together=True)
    destination.do(destination.refuse_lines(bad="invalid", worse="too_long"))
    await settled(worker(), clock)
    assert await numbers(spool) == (2, 0, 2)
    letters = (await spool.stats())["dead_letters"]
    assert {(letter["code"], letter["excerpt"]) for letter in letters} == {
        ("invalid", "bad is not wanted"),
        ("too_long", "worse is not wanted"),
    }


async def test_a_batch_that_a_gateway_refuses_whole_is_a_dead_letter(
    worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    await put(spool, "a", "b", together=True)

    async def refuse(request: object, batches: list[object]) -> object:
        return results([{"batch": batches[0].id, "status": "refused", "code": "schema_unknown", "detail": "2"}])  # type: ignore[attr-defined]

    destination.do(refuse)  # type: ignore[arg-type]
    await settled(worker(), clock)
    assert await numbers(spool) == (0, 0, 2)


async def test_a_duplicate_counts_as_delivered(
    worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    await put(spool, "a")

    async def known(request: object, batches: list[object]) -> object:
        return results([{"batch": batches[0].id, "status": "duplicate"}])  # type: ignore[attr-defined]

    destination.do(known)  # type: ignore[arg-type]
    await settled(worker(), clock)
    assert await numbers(spool) == (1, 0, 0)


async def test_a_batch_without_a_result_is_sent_again_alone(
    worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    await put(spool, "a", "b", "c")

    async def forget_the_second(request: object, batches: list[object]) -> object:
        first, _, third = batches
        destination.stored.update({first.id: b"", third.id: b""})  # type: ignore[attr-defined]
        return results([{"batch": one.id, "status": "stored"} for one in (first, third)])  # type: ignore[attr-defined]

    destination.do(forget_the_second)  # type: ignore[arg-type]
    one = worker()
    assert await one.step() == 0
    await settled(one, clock)
    assert destination.requests[1] == [destination.requests[0][1]]
    assert await numbers(spool) == (3, 0, 0)


@pytest.mark.parametrize(
    "result",
    [
        '"status": "stored", "refused": [{"line": 9}]',
        '"status": "stored", "refused": [{"line": 0}]',
        '"status": "stored", "refused": [{"line": 1}, {"line": 1}]',
        '"status": "perhaps"',
    ],
)
async def test_results_that_make_no_sense_are_no_answer(
    result: str, worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    await put(spool, "a")

    async def nonsense(request: object, batches: list[object]) -> object:
        text = f'{{"results": [{{"batch": "{batches[0].id}", {result}}}]}}'  # type: ignore[attr-defined]
        return await say(text)(request, batches)  # type: ignore[arg-type]

    destination.do(nonsense)  # type: ignore[arg-type]
    one = worker()
    assert await one.step() > 0
    assert await numbers(spool) == (0, 1, 0)
    await settled(one, clock)
    assert await numbers(spool) == (1, 0, 0)


@pytest.mark.parametrize("type", ["gateway", "http"])
@pytest.mark.parametrize("code", [400, 413, 422])
async def test_a_poison_event_ends_as_a_dead_letter_and_all_others_are_delivered(
    code: int, type: str, worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    output = "main" if type == "gateway" else "hook"
    await put(spool, *["good"] * 5)
    await put(spool, *["good"] * 6, "poison", "good", "good", together=True)
    await put(spool, *["good"] * 5)
    destination.always = destination.refuse_bodies_with(b"poison", code)
    await settled(worker(type), clock)
    assert await numbers(spool, output) == (18, 0, 1)
    (letter,) = (await spool.stats())["dead_letters"]
    assert (letter["status"], letter["lines"], letter["excerpt"]) == (code, 1, "poison is not wanted")
    assert letter["batch"].endswith("/7-7")


@pytest.mark.parametrize("type", ["gateway", "http"])
@pytest.mark.parametrize("code", [400, 422])
async def test_a_backlog_with_poison_in_every_half_of_every_batch_is_delivered_without_it(
    code: int, type: str, worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    output = "main" if type == "gateway" else "hook"
    for _ in range(10):
        await put(spool, *["good"] * 3, "poison", *["good"] * 8, "poison", *["good"] * 3, together=True)
    destination.always = destination.refuse_bodies_with(b"poison", code)
    await settled(worker(type), clock)
    assert await numbers(spool, output) == (140, 0, 20)
    assert clock.seconds < 60, "whole batches are not waited for one by one"


async def test_some_refused_events_in_front_of_the_line_do_not_park_the_output(
    worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    await put(spool, *["poison"] * (ASIDE_TO_PARK - 1), *["good"] * 5)  # what a restart may find of split batches
    destination.always = destination.refuse_bodies_with(b"poison")
    one = worker("http")
    await settled(one, clock)
    assert await numbers(spool, "hook") == (5, 0, ASIDE_TO_PARK - 1)
    assert clock.seconds < 10


@pytest.mark.parametrize("type", ["gateway", "http"])
async def test_a_destination_that_refused_everything_and_is_right_again_is_found_though_every_batch_holds_poison(
    type: str, worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    output = "main" if type == "gateway" else "hook"
    for _ in range(60):
        await put(spool, *["good"] * 3, "poison", *["good"] * 8, "poison", *["good"] * 3, together=True)
    destination.always = status(400)
    one = worker(type)
    for _ in range(40):  # every piece of what was searched is refused, and some of the whole ones
        clock.seconds += await one.step()
    assert one.state == "parked"
    destination.always, began = destination.refuse_bodies_with(b"poison"), clock.seconds
    await settled(one, clock, rounds=5_000)
    assert await numbers(spool, output) == (840, 0, 120)
    assert clock.seconds < began + 5 * 300, "a few probes find it out"


async def test_bodies_that_are_too_large_are_split_until_they_fit(
    worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    await put(spool, *["a"] * 64, together=True)
    destination.always = destination.refuse_bodies_over(5)
    await settled(worker(), clock)
    assert await numbers(spool) == (64, 0, 0)
    assert len(destination.stored) == 16


@pytest.mark.parametrize("code", [400, 422])
async def test_a_destination_that_refuses_everything_is_parked_and_the_backlog_stays_whole(
    code: int, worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    for _ in range(20):
        await put(spool, "a", "b", "c", "d", together=True)
    destination.always = status(code)
    one = worker()
    for _ in range(60):
        clock.seconds += await one.step()
    assert one.state == "parked"
    assert await numbers(spool) == (0, 80, 0)
    assert (await spool.stats())["dead_letters"] == []
    assert one.counters.splits <= 8, "the backlog is not shredded: two or three were searched for what is accepted"
    destination.always = None
    await settled(one, clock)
    assert await numbers(spool) == (80, 0, 0)


async def test_a_single_refused_event_waits_for_proof_and_then_is_a_dead_letter(
    worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    await put(spool, "poison")
    destination.always = destination.refuse_bodies_with(b"poison")
    one = worker()
    for _ in range(5):
        clock.seconds += await one.step()
    assert repr(one).startswith("<Worker main waiting")
    assert await numbers(spool) == (0, 1, 0)
    await put(spool, "good")
    await settled(one, clock)
    assert await numbers(spool) == (1, 0, 1)
    assert one.state == "flowing"


async def test_a_new_batch_is_sent_at_once_while_a_refused_one_is_aside(
    worker: MakeWorker, spool: Spool, destination: Destination
) -> None:
    await put(spool, "poison")
    destination.always = destination.refuse_bodies_with(b"poison")
    one = worker()
    while await one.step() == 0:
        pass
    await put(spool, "good")
    await one.step()
    assert (await numbers(spool))[0] == 1


@pytest.mark.parametrize("failure", [status(500), status(503), status(408), reset, cut_short, say("<html>")], ids=str)
async def test_a_batch_that_a_destination_fails_on_holds_up_no_other_and_is_kept(
    failure: Answer,
    worker: MakeWorker,
    spool: Spool,
    destination: Destination,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await put(spool, "a", "poison", *["a"] * 6)
    destination.always = destination.fail_on(b"poison", failure)
    one = worker(timeout=1)
    for _ in range(30):
        if await numbers(spool) == (7, 1, 0):
            break
        clock.seconds += await one.step()
    assert await numbers(spool) == (7, 1, 0), "all others are delivered"
    for _ in range(3):  # it is found to be to blame when it fails once more
        clock.seconds += await one.step()
    assert (one.state, one.shelved) == ("flowing", 1)
    assert one.oldest_ms is not None
    for number in range(100, 110):
        await spool.put([event(number)], [])
        assert await one.step() == 0
    assert await numbers(spool) == (17, 1, 0), "what is new is not held up"
    for _ in range(12):
        clock.seconds += await one.step()
    assert await numbers(spool) == (17, 1, 0), "it is never split, and never buried"
    assert one.counters.splits == 0
    assert sum("fails on" in record.message for record in caplog.records) == 1
    destination.always = None
    clock.seconds += 600
    await settled(one, clock)
    assert await numbers(spool) == (18, 0, 0)
    assert repr(one).startswith("<Worker main flowing")
    assert one.shelved == 0
    assert not one.oldest_ms


async def test_a_batch_that_a_destination_fails_on_waits_longer_each_time_up_to_five_minutes(
    worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    await put(spool, "poison", "a")
    tried: list[float] = []

    async def note(request, batches):  # type: ignore[no-untyped-def]
        if any(b"poison" in line for batch in batches for line in batch.lines):
            tried.append(clock.seconds)
        return await destination.fail_on(b"poison", status(500))(request, batches)

    destination.always = note
    one = worker()
    while len(tried) < 20:
        clock.seconds += await one.step()
    waits = [after - before for before, after in pairwise(tried)]
    assert waits[-8:] == sorted(waits[-8:])
    assert waits[-1] == pytest.approx(225, abs=1)


async def test_metrics_get_past_an_event_that_the_destination_fails_on(
    worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    await put(spool, "poison")
    await spool.journal(Rotation((spool.epoch, 1), NOW, [counter(spool, 1)], {"shop": 1}, {}, {"shop": 1}, {}, []))
    destination.always = destination.fail_on(b"poison", status(500))
    one = worker()
    for _ in range(8):
        clock.seconds += await one.step()
    assert await numbers(spool) == (0, 1, 0)
    (book,) = (book for book in (await spool.books()).points_out if book.output == "main")
    assert (book.delivered, book.pending) == (1, 0)


async def test_while_everything_fails_one_at_a_time_is_tried_in_turn_and_all_of_it_waits(
    worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    await put(spool, *["a"] * 4)
    destination.always = status(500)
    one = worker()
    waits = []
    for _ in range(14):
        waits.append(await one.step())
        clock.seconds += waits[-1]
    first, *alone = destination.requests
    assert len(first) == 4
    names = {name: at for at, name in enumerate(first)}
    assert [[names[name] for name in request] for request in alone] == [
        [at] for at in (0, 0, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2)
    ]
    assert waits[-5:] == [30] * 5
    assert (one.state, one.shelved) == ("waiting", 0), "nothing says that a batch is at fault"
    destination.always = None
    await settled(one, clock)
    assert await numbers(spool) == (4, 0, 0)


async def test_a_destination_that_cannot_be_reached_makes_no_batch_a_suspect(
    worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    await put(spool, "a", "b")
    await destination.stop()
    one = worker()
    for _ in range(8):
        clock.seconds += await one.step()
    assert not one._suspects._failing
    await destination.start()
    await settled(one, clock)
    assert await numbers(spool) == (2, 0, 0)


async def test_a_batch_that_asks_for_pauses_gives_the_whole_destination_its_pause_and_holds_up_no_other(
    worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    await put(spool, "poison", "a", "b")
    destination.always = destination.fail_on(b"poison", status(503, Retry_After="20"))
    one = worker()
    failed = 0
    for _ in range(16):
        wait = await one.step()
        if one.counters.failed_requests > failed:
            failed = one.counters.failed_requests
            assert one.next_try_s >= 20
        clock.seconds += wait
    assert failed >= 5
    assert await numbers(spool) == (2, 1, 0)
    assert one.shelved == 1


@pytest.mark.parametrize("type", ["gateway", "http"])
async def test_a_lane_that_hangs_does_not_hold_up_the_others(
    type: str, worker: MakeWorker, spool: Spool, destination: Destination
) -> None:
    output = "main" if type == "gateway" else "hook"
    await put(spool, "poison")
    destination.always = destination.fail_on(b"poison", destination.hang)
    one = worker(type, timeout=60)
    running = asyncio.create_task(one.run())
    await until(destination.hanging.is_set)
    for number in range(100, 114):
        await spool.put([event(number)], [])
        one.wake()
        await until(lambda seen=number - 99: one.counters.batches == seen)
    async with asyncio.timeout(10):
        while await numbers(spool, output) != (14, 1, 0):  # settled, too, while the one hangs
            await asyncio.sleep(0.01)
    running.cancel()
    await one.close()
    assert await numbers(spool, output) == (14, 1, 0)


async def test_batches_that_a_destination_hangs_on_take_one_lane_at_most(
    worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    await put(spool, *["poison"] * 3, "a")
    destination.always = destination.fail_on(b"poison", status(500))
    one = worker()
    while one.shelved < 3:
        clock.seconds += await one.step()
    destination.always = destination.fail_on(b"poison", destination.hang)
    clock.seconds += 600  # all three are to be tried
    running = asyncio.create_task(one.run())
    await until(destination.hanging.is_set)
    for number in range(100, 105):
        await spool.put([event(number)], [])
        one.wake()
        await until(lambda seen=number - 98: one.counters.batches == seen)
    running.cancel()
    await one.close()
    assert await numbers(spool) == (6, 3, 0)


async def test_a_spool_that_fails_to_settle_is_told_again_before_anything_is_sent_again(
    worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(spool, "a")
    one = worker()
    with monkeypatch.context() as patch:

        async def fail(*_: object) -> None:
            raise SpoolFailed("the disk is broken")

        patch.setattr(spool, "settle", fail)
        with pytest.raises(SpoolFailed):
            await one.step()
    await settled(one, clock)
    assert len(destination.requests) == 1
    assert await numbers(spool) == (1, 0, 0)
    assert one._owed == [], "what was settled is not settled again"


async def test_an_unexpected_exception_is_counted_and_the_worker_goes_on(
    worker: MakeWorker, spool: Spool, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sendoff_server.delivery.worker.PAUSE_S", 0.01)
    one = worker()
    real, calls = one.output.send, 0

    async def fail_twice(batches: object) -> object:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise LookupError("a defect")
        return await real(batches)  # type: ignore[arg-type]

    def time_goes_on_until_it_is_sent() -> bool:
        clock.seconds += 0.01
        return one.counters.batches == 1

    monkeypatch.setattr(one.output, "send", fail_twice)
    await put(spool, "a")
    task = asyncio.create_task(one.run())
    await until(time_goes_on_until_it_is_sent)
    task.cancel()
    assert one.counters.crashes == 2


async def test_after_a_defect_it_pauses_whatever_is_put_meanwhile(
    worker: MakeWorker, spool: Spool, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a defect would be met again with every commit, as fast as the machine can."""
    one, other = worker(), worker("http")

    async def fail(batches: object) -> object:
        raise LookupError("a defect")

    monkeypatch.setattr(one.output, "send", fail)
    await put(spool, "a", "b")
    task = asyncio.create_task(one.run())
    try:
        await until(lambda: one.counters.crashes)
        one.wake()
        await settled(other, clock)
        one.wake()
        await settled(other, clock)
        assert one.counters.crashes == 1
        assert one.next_try_s > 0
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def counter(spool: Spool, window: int) -> bytes:
    """A counter of one point."""
    line = {"name": "sold", "tags": {}, "unit": "", "type": "counter", "w": [NOW - 1000, 1000]}
    return json.dumps({**line, "ord": [spool.epoch, window], "sum": 1, "n": 1}).encode()


async def until(done: object, seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not done():  # type: ignore[operator]
            await asyncio.sleep(0.005)


async def test_http_services_get_one_batch_a_request_and_several_requests_at_once(
    worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    await put(spool, *["a"] * 9)
    one = worker("http")
    await settled(one, clock)
    assert all(len(request) == 1 for request in destination.requests)
    assert await numbers(spool, "hook") == (9, 0, 0)
    assert await numbers(spool, "main") == (0, 9, 0)


@pytest.mark.parametrize("compression", ["zstd", "gzip", "identity"])
@pytest.mark.parametrize("type", ["gateway", "http"])
async def test_bodies_are_compressed_as_configured(
    type: str, compression: str, worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    await put(spool, "a", "b")
    await settled(worker(type, compression=compression), clock)
    assert sorted(destination.stored_lines) == [event(1, "a").line, event(2, "b").line]


async def test_no_body_is_larger_than_a_gateway_takes_though_it_is_not_compressed(
    worker: MakeWorker, spool: Spool, destination: Destination, clock: ManualClock
) -> None:
    """The destination complains of larger ones: 12 MiB wait here, a few KiB compressed."""
    await put(spool, *["a" * 200_000] * 60)
    await settled(worker(compression="identity"), clock)
    assert await numbers(spool) == (60, 0, 0)
    assert len(destination.requests) == 2


def test_a_worker_shows_its_state(worker: MakeWorker) -> None:
    assert repr(worker()) == "<Worker main flowing attempt 0 window 128>"
    assert isinstance(worker(), Worker)
