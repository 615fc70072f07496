"""What is sent, what is answered, and what is stored, over real HTTP."""

import asyncio
import json
import threading
from pathlib import Path

import msgspec
import pytest

from sendoff_server.gateway import ingest, keys
from sendoff_server.gateway.check import Checked, check_batches
from sendoff_server.wire.batch import Batch, encode_batch

from .support import AGENT, NOW, Json, Running, batch, counter, event, exception, running


async def test_a_batch_of_events_is_stored_and_can_be_read_back(gateway: Running) -> None:
    sent = event(fields={"total": 38.4}, tags={"country": "de"}, user={"id": 7})
    status, answer = await gateway.post(batch("events", [sent], "b-1"))
    assert status == 200
    assert answer == {"results": [{"batch": "b-1", "status": "stored"}], "dedupe_s": 90 * 86_400}
    found = await gateway.get(f"events/{sent['id']}")
    assert {name: found[name] for name in sent} == sent


@pytest.mark.parametrize("compression", ["zstd", "gzip", "identity"])
async def test_every_encoding_is_read(gateway: Running, compression: str) -> None:
    body = batch("events", [event()], compression=compression) + batch("events", [event()], compression=compression)
    status, answer = await gateway.post(body, compression)
    assert status == 200
    assert [result["status"] for result in answer["results"]] == ["stored", "stored"]
    assert (await gateway.get("counts"))["events"] == 2


async def test_results_come_in_the_order_of_the_batches(gateway: Running) -> None:
    ids = [f"b-{number}" for number in (3, 1, 2)]
    _, answer = await gateway.post(b"".join(batch("events", [event()], one) for one in ids))
    assert [result["batch"] for result in answer["results"]] == ids


async def test_a_repeated_batch_is_a_duplicate_and_stored_once(gateway: Running) -> None:
    body = batch("events", [event(), exception()])
    await gateway.post(body)
    _, answer = await gateway.post(body)
    assert answer["results"][0]["status"] == "duplicate"
    counts = await gateway.get("counts")
    assert (counts["events"], counts["exceptions"]) == (1, 1)
    assert counts["batches"]["duplicates"] == 1
    assert counts["batches"]["conflicts"] == 0


async def test_a_batch_id_with_other_content_is_a_conflict_and_the_first_stays(gateway: Running) -> None:
    first, second = event(), event()
    await gateway.post(batch("events", [first], "same"))
    _, answer = await gateway.post(batch("events", [second], "same"))
    assert answer["results"][0]["status"] == "duplicate"
    assert (await gateway.get("counts"))["batches"]["conflicts"] == 1
    assert [one["id"] for one in (await gateway.get("events"))["events"]] == [first["id"]]


async def test_an_event_that_comes_again_in_another_batch_is_stored_once(gateway: Running) -> None:
    sent = event()
    await gateway.post(batch("events", [sent]))
    _, answer = await gateway.post(batch("events", [sent, sent | {"name": "other"}, event()]))
    assert answer["results"][0] == {"batch": answer["results"][0]["batch"], "status": "stored"}
    counts = await gateway.get("counts")
    assert (counts["events"], counts["duplicates"], counts["conflicts"]) == (2, 2, 1)
    assert (await gateway.get(f"events/{sent['id']}"))["name"] == "order.placed"


async def test_the_same_ids_in_two_projects_do_not_meet(gateway: Running) -> None:
    other = keys.create(gateway.folder / "gateway", "other")
    body = batch("events", [event()])
    await gateway.post(body)
    _, answer = await gateway.post(body, Authorization=f"Bearer {other}")
    assert answer["results"][0]["status"] == "stored"


async def test_bad_lines_are_refused_by_name_and_the_others_stored(gateway: Running) -> None:
    wrong_time = event(t="yesterday")
    lines: list[Json | bytes] = [
        b"{}",
        wrong_time,
        event(),
        exception(chain=None),
        b"not json",
        event(fields={"a": [[[[[[[[[[[[[1]]]]]]]]]]]]]}),
        b'{"id":"x","kind":"event","t":1,"name":"' + b"n" * 1_048_576 + b'"}',
        exception(chain=[{"type": "A", "parent": 0}]),
    ]
    status, answer = await gateway.post(batch("events", lines))
    assert status == 200
    (result,) = answer["results"]
    assert result["status"] == "stored"
    refused = {line["line"]: (line["code"], line["detail"]) for line in result["refused"]}
    assert refused.keys() == {1, 2, 4, 5, 6, 7, 8}
    assert refused[1][0] == "invalid"
    assert "id" in refused[1][1]
    assert refused[2] == ("invalid", "t: Expected `int`, got `str`")
    assert refused[4] == ("invalid", "chain: missing, though kind is exception")
    assert refused[5][1].startswith("not JSON")
    assert refused[6][1].startswith("fields: nested")
    assert refused[7][0] == "too_long"
    assert refused[8][1].startswith("chain[0].parent")
    assert result["refused"][1]["id"] == wrong_time["id"]
    counts = await gateway.get("counts")
    assert counts["events"] == 1
    assert counts["lines_refused"] == {"invalid": 6, "too_long": 1}


async def test_a_schema_or_type_that_is_not_known_refuses_the_whole_batch(gateway: Running) -> None:
    body = batch("events", [event()], schema=2) + batch("poems", []) + batch("events", [event()], agent="me")
    _, answer = await gateway.post(body)
    assert [(result["status"], result["code"]) for result in answer["results"]] == [
        ("refused", "schema_unknown"),
        ("refused", "type_unknown"),
        ("refused", "invalid"),
    ]
    assert "agent" in answer["results"][2]["detail"]
    assert (await gateway.get("counts"))["events"] == 0


async def test_a_refused_batch_can_be_sent_again_when_it_is_right(gateway: Running) -> None:
    await gateway.post(batch("events", [event()], "b", schema=2))
    _, answer = await gateway.post(batch("events", [event()], "b"))
    assert answer["results"][0]["status"] == "stored"


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"Authorization": ""}, 401, "Authorization"),
        ({"Authorization": "Basic abc"}, 401, "Authorization"),
        ({"Authorization": "Bearer sk_nobody"}, 401, "Authorization"),
        ({"Content_Type": "application/json"}, 415, "Content-Type"),
        ({"Content_Encoding": "br"}, 415, "Content-Encoding"),
    ],
)
async def test_a_wrong_header_is_answered_by_its_status_and_named(
    gateway: Running, change: dict[str, str], status: int, field: str
) -> None:
    got, problem = await gateway.post(batch("events", [event()]), **change)
    assert (got, problem["status"], problem["field"]) == (status, status, field)
    assert problem["title"]
    assert problem["detail"]
    assert problem["remedy"]


async def test_a_revoked_key_is_forbidden_from_the_next_request_on(gateway: Running) -> None:
    assert (await gateway.post(batch("events", [event()])))[0] == 200
    folder = gateway.folder / "gateway"
    assert keys.revoke(folder, keys.list_keys(folder)[0].id)
    status, problem = await gateway.post(batch("events", [event()]))
    assert status == 403
    assert "revoked" in problem["detail"]


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (b"", "identity", 400),
        (b"what", "zstd", 400),
        (b"what", "gzip", 400),
        (batch("events", [event()])[:-1], "zstd", 400),
        (b'{"batch":"b","count":2}\n{}\n', "identity", 400),
        (b'{"batch":"b"}\n', "identity", 422),
        (b'{"batch":"b b","count":0}\n', "identity", 422),
        (b"[1]\n", "identity", 422),
        (b'{"batch":"b","count":0}\n' * 65, "identity", 413),
        (b"x" * 8_388_609, "identity", 413),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused_whole(
    gateway: Running, body: bytes, encoding: str, status: int
) -> None:
    got, problem = await gateway.post(body, encoding)
    assert got == status, problem
    assert problem["remedy"]
    assert (await gateway.get("counts"))["batches"]["stored"] == 0


async def test_a_bomb_is_refused_before_it_is_unpacked(gateway: Running) -> None:
    bomb = encode_batch({"batch": "b", "count": 1}, [b"0" * 200_000_000])
    assert len(bomb) < 20_000
    status, problem = await gateway.post(bomb)
    assert status == 413
    assert "decoded" in problem["detail"]


async def test_overlapping_windows_are_refused_but_parts_and_halves_are_not(gateway: Running) -> None:
    async def send(batch_id: str, covers: list[int], agent: str = AGENT) -> str:
        line = counter("a", NOW - 10_000, 1, part=batch_id)
        _, answer = await gateway.post(batch("snapshot", [line], batch_id, covers=covers, agent=agent))
        result = answer["results"][0]
        said: str = result.get("code", result["status"])
        return said

    assert await send("s-1", [5, 10, 19, 0]) == "stored"
    assert await send("s-2", [5, 20, 29, 0]) == "stored"
    assert await send("s-3", [5, 19, 19, 0]) == "overlap"
    assert await send("s-4", [5, 0, 100, 0]) == "overlap"
    assert await send("s-5", [5, 12, 13, 0]) == "overlap"
    assert await send("s-6", [5, 10, 19, 0]) == "overlap"  # the same part again, under another id
    assert await send("s-7", [5, 10, 19, 1]) == "stored"  # another part of the same cover
    assert await send("s-8/1-5", [5, 30, 39, 0]) == "stored"
    assert await send("s-8/6-9", [5, 30, 39, 0]) == "stored"  # the other half
    assert await send("s-9", [6, 10, 19, 0]) == "stored"  # another run of the agent
    assert await send("s-10", [5, 10, 19, 0], agent="b" * 32) == "stored"
    assert await send("s-1", [5, 10, 19, 0]) == "duplicate"


async def test_points_of_one_window_in_two_snapshots_are_added(gateway: Running) -> None:
    start = NOW - 20_000
    await gateway.post(batch("snapshot", [counter("orders", start, 3, n=3)]))
    await gateway.post(batch("snapshot", [counter("orders", start, 4, n=2)]))
    (total,) = (await gateway.get("metrics/total", name="orders"))["totals"]
    assert (total["sum"], total["n"]) == (7, 5)


async def test_a_snapshot_line_that_is_no_snapshot_names_its_field(gateway: Running) -> None:
    good, wrong = counter("a", NOW - 10_000, 1), counter("a", NOW - 10_000, 1)
    wrong["w"] = [NOW - 9_999, 10_000]
    _, answer = await gateway.post(batch("snapshot", [wrong, good, good | {"sum": "1"}]))
    refused = answer["results"][0]["refused"]
    assert [(line["line"], line["code"]) for line in refused] == [(1, "invalid"), (3, "invalid")]
    assert refused[0]["detail"].startswith("w:")
    assert refused[1]["detail"].startswith("sum:")


async def test_the_newest_ledger_of_an_agent_replaces_the_one_before(gateway: Running) -> None:
    def books(delivered: int) -> list[dict[str, object]]:
        return [{"book": "events", "source": "web", "output": "main", "received": 9, "delivered": delivered}]

    async def send(delivered: int, ordinal: int, made: int) -> str:
        _, answer = await gateway.post(batch("ledger", books(delivered), ordinal=ordinal, made=made))
        return str(answer["results"][0]["status"])

    assert await send(5, 10, NOW) == "stored"
    assert await send(4, 9, NOW - 10) == "duplicate"  # late
    assert await send(9, 11, NOW + 10) == "stored"
    (agent,) = (await gateway.get("ledger"))["agents"]
    assert (agent["books"][0]["delivered"], agent["balanced"], agent["host"]) == (9, True, "web-1")
    assert await send(8, 1, NOW + 20) == "stored"  # the agent's ordinals began anew
    (agent,) = (await gateway.get("ledger"))["agents"]
    assert not agent["balanced"]
    assert agent["imbalances"][0]["off"] == 1


async def test_what_was_answered_is_there_after_a_restart(tmp_path: Path) -> None:
    body = batch("events", [event(), exception()])
    async with running(tmp_path) as first:
        await first.post(body)
        await first.post(batch("snapshot", [counter("a", NOW - 10_000, 2)]))
        before = await first.get("counts")
    async with running(tmp_path) as second:
        assert await second.get("counts") == before
        _, answer = await second.post(body)
        assert answer["results"][0]["status"] == "duplicate"
        assert (await second.get("metrics/total", name="a"))["totals"][0]["sum"] == 2


async def test_exceptions_of_one_fingerprint_are_one_group_with_its_counts(gateway: Running) -> None:
    await gateway.post(
        batch(
            "events",
            [
                exception(user={"id": 1}, release="1", t=NOW - 90_000),
                exception(user={"id": 1}, release="2", t=NOW - 30_000, repeats=4),
                exception(user={"id": 2}, release="2", t=NOW - 60_000),
                exception("e" * 32),
            ],
        )
    )
    group = await gateway.get("exceptions/" + "f" * 32)
    assert (group["count"], group["users"]) == (7, 2)
    assert (group["first_seen"], group["last_seen"]) == (NOW - 90_000, NOW - 30_000)
    assert {release["release"]: release["count"] for release in group["releases"]} == {"1": 1, "2": 6}
    assert group["place"] == "shop/pay.py:88 in charge"
    assert len(group["events"]) == 3
    assert (group["in_range"], group["folded_in_range"]) == (7, 4)
    counts = await gateway.get("counts")
    assert (counts["exceptions"], counts["repeats"]) == (4, 4)


async def test_an_exception_that_stands_for_others_counts_them_once_however_often_it_comes(gateway: Running) -> None:
    sent = exception(t=NOW - 30_000, repeats=9_900)
    for name in ("b-1", "b-1", "b-2"):
        await gateway.post(batch("events", [sent], name))
    [group] = (await gateway.get("exceptions"))["exceptions"]
    assert (group["count"], group["in_range"], group["folded_in_range"]) == (9_901, 9_901, 9_900)
    assert [event["repeats"] for event in (await gateway.get(f"exceptions/{group['group']}"))["events"]] == [9_900]
    counts = await gateway.get("counts")
    assert (counts["exceptions"], counts["repeats"], counts["duplicates"]) == (1, 9_900, 1)


async def test_any_text_that_json_can_carry_is_kept_as_it_is(gateway: Running) -> None:
    nasty = "\u202e</script>\x00\x7f\ud7ff\U0010ffff'\"%_\\"
    sent = event(name=nasty, fields={nasty: nasty}, tags={nasty: nasty}, host=nasty)
    _, answer = await gateway.post(batch("events", [msgspec.json.encode(sent)]))
    assert "refused" not in answer["results"][0]
    found = await gateway.get(f"events/{sent['id']}")
    assert {name: found[name] for name in sent} == sent


async def test_a_repeated_batch_says_again_which_of_its_lines_were_refused(gateway: Running) -> None:
    body = batch("events", [event(), b"{}"])
    _, first = await gateway.post(body)
    _, again = await gateway.post(body)
    assert again["results"][0]["status"] == "duplicate"
    assert again["results"][0]["refused"] == first["results"][0]["refused"]


async def test_a_half_of_a_batch_that_is_stored_whole_overlaps_it(gateway: Running) -> None:
    lines = [counter("orders", NOW - 10_000, 5), counter("visits", NOW - 10_000, 1)]
    covers = [5, 10, 19, 0]
    await gateway.post(batch("snapshot", lines, "s-1", covers=covers))
    _, answer = await gateway.post(batch("snapshot", lines[:1], "s-1/1-1", covers=covers))
    assert answer["results"][0]["code"] == "overlap"
    await gateway.post(batch("snapshot", lines[:1], "s-2/1-1", covers=[5, 20, 29, 0]))
    _, answer = await gateway.post(batch("snapshot", lines, "s-2", covers=[5, 20, 29, 0]))
    assert answer["results"][0]["code"] == "overlap"


async def test_a_body_with_more_wrong_lines_than_an_answer_can_name_is_refused_to_be_split(gateway: Running) -> None:
    wrong = [b"{}"] * 3_000
    status, problem = await gateway.post(batch("events", [event(), *wrong]) + batch("events", wrong))
    assert (status, problem["title"]) == (422, "Too many lines are wrong")
    assert "line 2001 " in problem["detail"]
    assert (await gateway.get("counts"))["events"] == 0
    status, answer = await gateway.post(batch("events", [event(), *wrong]))
    assert (status, len(answer["results"][0]["refused"])) == (200, 3_000)
    assert (await gateway.get("counts"))["events"] == 1


async def test_ids_that_end_in_a_line_feed_are_refused(gateway: Running) -> None:
    sent = event()
    body = batch("events", [sent | {"id": sent["id"] + "\n"}])
    body += batch("events", [event()], agent=AGENT + "\n")
    _, answer = await gateway.post(body)
    line, whole = answer["results"]
    assert line["refused"][0]["detail"].startswith("id:")
    assert whole["code"] == "invalid"


async def test_absurd_counts_stop_at_their_limit_and_what_follows_is_stored(gateway: Running) -> None:
    most = 2**53 - 1
    lines = [counter(f"c{i}", NOW - 10_000, 1, n=most) for i in range(1_100)]
    many = [exception(repeats=most) for _ in range(1_100)]
    for body in (batch("snapshot", lines), batch("events", many), batch("events", [exception()])):
        status, answer = await gateway.post(body)
        assert (status, answer["results"][0]["status"]) == (200, "stored")
    assert (await gateway.get("counts"))["points"] == most
    assert (await gateway.get("exceptions"))["exceptions"][0]["in_range"] > 1_000


@pytest.mark.parametrize(
    "line",
    [
        {"book": "events", "memo": "frames", "refused": {"a": "x"}},
        {"memo": "client", "seen": 10**400},
        {"memo": "client", "seen": 1e300},
        {"memo": "kernel", "dropped": -(2**63)},
        {"memo": 5},
    ],
)
async def test_a_ledger_line_that_no_page_could_show_is_refused(gateway: Running, line: Json) -> None:
    _, answer = await gateway.post(batch("ledger", [json.dumps(line).encode()]))
    assert answer["results"][0]["refused"][0]["code"] == "invalid"
    assert (await gateway.page("/shop/ledger"))[0] == 200


async def test_bodies_wait_to_be_decoded_while_others_hold_the_room(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "DECODED_HELD", 1)
    store = gateway.gateway._store
    assert store is not None
    decoded, go_on = threading.Semaphore(0), threading.Event()

    def counted(sent: list[Batch]) -> list[Checked]:
        decoded.release()
        return check_batches(sent)

    monkeypatch.setattr(ingest, "check_batches", counted)
    store.writer.submit(lambda db: go_on.wait(10))
    sending = asyncio.gather(*(gateway.post(batch("events", [event()])) for _ in range(8)))
    # Two at a time, and none once something waits to be stored.
    assert await asyncio.to_thread(decoded.acquire, timeout=5)
    await asyncio.sleep(0.2)
    seen = 1
    while decoded.acquire(blocking=False):
        seen += 1
    assert seen <= 2
    go_on.set()
    assert [status for status, _ in await sending] == [200] * 8
    assert gateway.gateway._ingest._decoded == 0
