"""``POST /v1/frames``: what is sent, what is answered, and what is stored, over real HTTP."""

import asyncio
import gzip
import re
from collections.abc import AsyncIterator

import pytest

from sendoff_server.gateway import keys
from sendoff_server.gateway.direct import frames as module
from sendoff_server.gateway.direct import project as project_module
from sendoff_server.gateway.direct import session

from .direct import CONTENT_TYPE, Sender, all_events, body, book, frame, ledger, post, post_body, total, unit
from .support import Running


async def test_events_and_points_are_stored_before_they_are_acknowledged(gateway: Running) -> None:
    sender = Sender()
    frames = [sender.hello(), sender.event(total=38.4), sender.points(b"orders:2|c\norders:3|c", 2), sender.exception()]
    status, answer = await post(gateway, frames)
    assert (status, answer) == (200, {"ack": 2, "n": 2})
    (stored,) = await all_events(gateway)
    assert (stored["name"], stored["service"], stored["fields"]) == ("order.placed", "web", {"total": 38.4})
    assert (await gateway.get("counts"))["exceptions"] == 1
    assert (await total(gateway, "orders"))["sum"] == 5


async def test_a_request_that_is_sent_again_changes_nothing(gateway: Running) -> None:
    sender = Sender()
    frames = [sender.hello(), sender.event(), sender.points(b"orders:2|c", 1)]
    assert (await post(gateway, frames, zipped=True)) == (200, {"ack": 1, "n": 1})
    assert (await post(gateway, frames)) == (200, {"ack": 1, "n": 1})
    assert len(await all_events(gateway)) == 1
    assert (await total(gateway, "orders"))["sum"] == 2


async def test_the_same_request_many_times_at_once_is_stored_once(gateway: Running) -> None:
    sender = Sender()
    frames = [sender.hello(), *(sender.event() for _ in range(250)), sender.points(b"orders:2|c", 1)]
    answers = await asyncio.gather(*(post(gateway, frames) for _ in range(8)))
    assert answers == [(200, {"ack": 250, "n": 1})] * 8
    assert len(await all_events(gateway)) == 250
    assert (await total(gateway, "orders"))["n"] == 1


async def test_two_clients_whose_requests_alternate_do_not_meet(gateway: Running) -> None:
    one, two = Sender("web"), Sender("worker")
    for _ in range(3):
        for sender in (one, two):
            made = [sender.hello(), sender.event(), sender.points(b"jobs:1|c", 1)]
            assert (await post(gateway, made)) == (200, {"ack": sender.seq, "n": sender.n})
    found = await ledger(gateway)
    for sender in (one, two):
        assert book(found, "events", source=sender.service)["delivered"] == 3
        assert book(found, "points_in", source=sender.service)["journaled"] == 3
    assert book(found, "points_out")["delivered"] == 6


async def test_a_request_that_is_all_hello_says_what_is_stored(gateway: Running) -> None:
    sender = Sender()
    assert (await post(gateway, [sender.hello()])) == (200, {"ack": 0, "n": 0})
    await post(gateway, [sender.hello(), sender.event(), sender.points(b"a:1|c\nb:1|c", 2)])
    assert (await post(gateway, [sender.hello(2)])) == (200, {"ack": 1, "n": 2})


async def test_a_bad_frame_is_refused_by_its_seq_and_the_others_are_stored(gateway: Running) -> None:
    sender = Sender()
    frames = [sender.hello(), sender.event(), frame("event", sender.name, b"{", seq=2), sender.event()]
    sender.seq = 3
    frames[3] = sender.event().replace(b'"seq": 4', b'"seq": 3')
    status, answer = await post(gateway, frames)
    assert (status, answer["ack"]) == (200, 3)
    assert [one["seq"] for one in answer["refused"]] == [2]
    assert answer["refused"][0]["reason"] == "header_invalid"
    assert len(await all_events(gateway)) == 2
    _, again = await post(gateway, [sender.hello(2)])
    assert again["refused"] == answer["refused"]  # until the client says that it knows
    assert "refused" not in (await post(gateway, [sender.hello(4)]))[1]


async def test_an_event_that_agents_take_and_the_store_does_not_is_refused_by_its_seq(gateway: Running) -> None:
    sender = Sender()
    said = {"name": "T", "fingerprint": "f" * 32, "chain": [{"type": "x" * 2_000, "message": "", "frames": []}]}
    odd = frame("exception", sender.name, said, seq=1, id="01930000-0000-7000-8000-000000000001", t=1)
    status, answer = await post(gateway, [sender.hello(), odd])
    assert (status, answer) == (200, {"ack": 1, "refused": [{"seq": 1, "reason": "payload_invalid"}], "n": 0})


async def test_a_jump_refuses_the_missing_ones_by_name(gateway: Running) -> None:
    sender = Sender()
    sender.seq = 2
    status, answer = await post(gateway, [sender.hello(), sender.event()])
    assert (status, answer["ack"]) == (200, 3)
    assert answer["refused"] == [{"seq": 1, "reason": "missing"}, {"seq": 2, "reason": "missing"}]


async def test_points_that_overtake_others_are_not_acknowledged_before_those_are_there(gateway: Running) -> None:
    sender = Sender()
    first, second = sender.points(b"a:1|c\na:1|c", 2), sender.points(b"a:10|c", 1)
    assert (await post(gateway, [sender.hello(), sender.points(b"", 0).replace(b'"n": 3', b'"n": 0')]))[1]["n"] == 0
    assert (await post(gateway, [sender.hello(), second]))[1]["n"] == 0
    assert (await post(gateway, [sender.hello(), first]))[1]["n"] == 3
    assert (await post(gateway, [sender.hello(), second]))[1]["n"] == 3
    assert (await total(gateway, "a"))["sum"] == 12


async def test_frames_of_another_client_are_refused(gateway: Running) -> None:
    sender, other = Sender(), Sender()
    status, answer = await post(gateway, [sender.hello(), other.event(), sender.event()])
    assert (status, answer) == (200, {"ack": 1, "n": 0})
    assert len(await all_events(gateway)) == 1


async def test_a_request_is_no_connection_that_ends(gateway: Running) -> None:
    sender = Sender()
    await post(gateway, [sender.hello(), sender.event()])
    await post(gateway, [sender.hello(), sender.event()])
    (memo,) = [memo for memo in (await ledger(gateway))["memos"] if memo["memo"] == "client"]
    assert (memo["state"], memo["events"], memo["pid"], memo["lib"]) == ("live", 2, 7, "test/1")
    await post(gateway, [sender.hello(), sender.bye()])
    (memo,) = [memo for memo in (await ledger(gateway))["memos"] if memo["memo"] == "client"]
    assert memo["state"] == "ended"


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"", "it is empty"),
        (body([Sender().event()]), "its first frame is of kind event"),
        (unit(b"{}"), "its first frame is wrong"),
        (unit(b"metrics:1|c"), "its first frame is wrong"),
        (body([Sender().hello()]) + bytes(4), "frame 2 has 0 bytes"),
        (body([Sender().hello()]) + (1_048_577).to_bytes(4, "little") + bytes(100), "frame 2 has 1,048,577 bytes"),
        (body([Sender().hello()]) + unit(Sender().event())[:-1], "frame 2 is cut off"),
        (body([Sender().hello()]) + b"\x01\x00", "frame 2 is cut off"),
        (body([Sender().hello()]) + unit(b"{") * 1_100, "more than 1,000 frames are wrong"),
    ],
)
async def test_a_body_that_is_no_sequence_of_frames_is_refused(gateway: Running, data: bytes, detail: str) -> None:
    status, problem = await post_body(gateway, data)
    assert status == 400
    assert problem["detail"].startswith(detail)
    assert problem["field"] == "body"


async def test_what_is_too_large_is_refused_without_being_held(gateway: Running) -> None:
    big = body([Sender().hello()]) + unit(bytes(1_048_576)) * 20
    status, problem = await post_body(gateway, big)
    assert (status, problem["detail"]) == (413, f"{len(big):,} bytes on the wire; at most 4,194,304")
    status, problem = await post_body(gateway, big, zipped=True)
    assert (status, problem["detail"]) == (413, "more than 16,777,216 bytes decoded; at most 16,777,216")
    status, problem = await post_body(gateway, body([Sender().hello()]) + unit(b"{") * 100_000)
    assert (status, problem["title"]) == (413, "Too many frames")


async def test_other_content_and_strangers_are_told_what_is_wrong(gateway: Running) -> None:
    data = body([Sender().hello()])
    assert (await post_body(gateway, data, Content_Type="application/x-ndjson"))[0] == 415
    assert (await post_body(gateway, data, Content_Encoding="zstd"))[1]["field"] == "Content-Encoding"
    assert (await post_body(gateway, data, Content_Encoding="gzip"))[0] == 400
    assert (await post_body(gateway, data, key="sk_unknown"))[0] == 401
    keys.revoke(gateway.folder / "gateway", 1)
    assert (await post_body(gateway, data))[0] == 403


async def test_a_body_may_come_in_pieces_without_a_length(gateway: Running) -> None:
    sender = Sender()
    data = gzip.compress(body([sender.hello(), sender.event()]))

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(data), 50):
            yield data[at : at + 50]

    headers = {
        "Authorization": f"Bearer {gateway.key}",
        "Content-Type": CONTENT_TYPE,
        "Content-Encoding": "gzip",
    }
    async with gateway.http.post(f"{gateway.url}/v1/frames", data=pieces(), headers=headers) as answer:
        assert (answer.status, await answer.json()) == (200, {"ack": 1, "n": 0})


async def test_a_project_that_sends_too_much_is_told_to_come_again(gateway: Running) -> None:
    project = gateway.gateway._direct.project(1)
    project.allowance.rate = 1_000
    sender = Sender()
    large = [sender.hello(), sender.event(text="x" * 3_000)]
    assert (await post(gateway, large))[0] == 200
    status, problem = await post(gateway, large)
    assert (status, problem["title"]) == (429, "Too much at once")
    assert project.allowance.refused == {"rate": 1}
    gateway.clock.ms += 10_000
    assert (await post(gateway, large))[0] == 200


async def test_a_body_that_turns_out_to_be_large_puts_off_those_behind_it(gateway: Running) -> None:
    project = gateway.gateway._direct.project(1)
    project.allowance.rate = 100_000
    sender = Sender()
    large = [sender.hello(), *(sender.event(text="x" * 100_000) for _ in range(5))]
    answers = await asyncio.gather(*(post(gateway, large, zipped=True) for _ in range(8)))
    assert {status for status, _ in answers} == {200, 429}
    assert sum(status == 200 for status, _ in answers) <= project_module.TURNS
    assert (await post(gateway, [Sender().hello()], key=keys.create(gateway.folder / "gateway", "other")))[0] == 200


async def test_a_request_stops_when_too_much_waits_and_goes_on_the_next_time(gateway: Running) -> None:
    sender = Sender()
    large = [sender.hello(), *(sender.event(text="x" * 100_000) for _ in range(5))]
    project = gateway.gateway._direct.project(1)
    project.allowance.in_flight = 150_000
    assert (await post(gateway, large))[0] == 429
    async with asyncio.timeout(10):
        while (await post(gateway, large))[0] == 429:
            await asyncio.sleep(0.01)
    assert len(await all_events(gateway)) == 5


async def test_another_hello_in_a_request_is_refused(gateway: Running) -> None:
    sender = Sender()
    status, problem = await post(gateway, [sender.hello(), sender.event(), sender.hello()])
    assert (status, problem["detail"]) == (400, "frame 3 is another hello; a request has one, at its beginning")


async def test_a_project_that_was_put_away_while_a_body_came_is_opened_once(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = Sender(), Sender()
    began = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        data = body([one.hello(), one.event()])
        yield data[:10]
        await began.wait()
        yield data[10:]

    headers = {"Authorization": f"Bearer {gateway.key}", "Content-Type": CONTENT_TYPE}
    posting = asyncio.create_task(gateway.http.post(f"{gateway.url}/v1/frames", data=slowly(), headers=headers))
    direct = gateway.gateway._direct
    async with asyncio.timeout(10):
        while not direct._projects or not gateway.gateway._frames._bodies.held:
            await asyncio.sleep(0.01)
        gateway.clock.ms += 61_000
        while direct._projects:
            await asyncio.sleep(0.01)
    assert (await post(gateway, [other.hello(), other.event()]))[0] == 200
    began.set()
    async with await posting as answer:
        assert await answer.json() == {"ack": 1, "n": 0}
    assert (await post(gateway, [other.hello(2), other.event()]))[0] == 200
    assert len(await all_events(gateway)) == 3


async def test_one_projects_limits_are_not_anothers(gateway: Running) -> None:
    gateway.gateway._direct.project(1).allowance.in_flight = 0
    assert (await post(gateway, [Sender().hello()]))[0] == 429
    other = keys.create(gateway.folder / "gateway", "other")
    assert (await post(gateway, [Sender().hello()], key=other))[0] == 200


async def test_a_client_beyond_the_limit_waits_until_there_is_room(gateway: Running) -> None:
    project = gateway.gateway._direct.project(1)
    await project.open()
    project.clients._most = 0
    status, problem = await post(gateway, [Sender().hello()])
    assert (status, problem["title"]) == (429, "Too much at once")
    assert project.allowance.refused == {"clients": 1}


async def test_what_cannot_be_stored_in_time_is_answered_and_stored_later(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STORE_DEADLINE", 0.2)
    store = gateway.gateway._store
    assert store is not None
    sender = Sender()
    assert (await post(gateway, [sender.hello()]))[0] == 200
    go_on = asyncio.get_running_loop().create_future()
    store.writer.submit(lambda db: asyncio.run_coroutine_threadsafe(_wait(go_on), go_on.get_loop()).result(10))
    frames = [sender.hello(), sender.event(), sender.points(b"a:1|c", 1)]
    status, problem = await post(gateway, frames)
    assert (status, problem["title"]) == (503, "The gateway cannot store")
    go_on.set_result(None)
    assert (await post(gateway, frames)) == (200, {"ack": 1, "n": 1})
    assert len(await all_events(gateway)) == 1
    assert (await total(gateway, "a"))["sum"] == 1


async def test_a_store_that_does_not_answer_keeps_nobody_waiting_at_the_door(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "OPENING_S", 0.2)
    store = gateway.gateway._store
    assert store is not None
    go_on = asyncio.get_running_loop().create_future()
    store.writer.submit(lambda db: asyncio.run_coroutine_threadsafe(_wait(go_on), go_on.get_loop()).result(10))
    assert (await post(gateway, [Sender().hello()]))[0] == 503
    go_on.set_result(None)
    assert (await post(gateway, [Sender().hello()]))[0] == 200


async def test_the_ledger_page_shows_who_sends_without_an_agent(gateway: Running) -> None:
    await post(gateway, [Sender().hello(), frame("event", "x" * 32, b"{}")])
    sender = Sender("checkout")
    dropped = sender.points(b"a:1|c", 1, dropped={"metric.buffer_full": 12})
    await post(gateway, [sender.hello(), sender.event(), dropped])
    gateway.gateway._direct.project(1).tick()
    assert await gateway.gateway._direct.project(1).rounds.flush(5)
    gateway.clock.ms += 600_000  # it is nobody who owes a report
    status, page = await gateway.page("/shop/ledger")
    assert status == 200
    assert "Every message is accounted for" in page
    assert "<bdi>metric.buffer_full</bdi> 12" in page
    assert "Frames refused at http: header_invalid 1." in re.sub("<[^>]*>", "", page)
    assert "<bdi>direct</bdi>" in page


async def _wait(future: "asyncio.Future[None]") -> None:
    await future
