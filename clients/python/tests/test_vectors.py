"""The protocol's vectors: fingerprints, answers, and the frames that this client writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import sendoff
from clients.python.tests.peer import Peer, until
from sendoff import frame
from sendoff.content.fingerprint import custom, fingerprint

VECTORS = Path(__file__).parents[3] / "protocol" / "vectors"
CLIENT = "0123456789abcdef0123456789abcdef"


def cases(name: str) -> list[Any]:
    found = json.loads((VECTORS / name).read_text())["cases"]
    return [pytest.param(case, id=case["name"]) for case in found]


@pytest.mark.parametrize("case", cases("fingerprints.json"))
def test_fingerprint(case: dict[str, Any]) -> None:
    given = case["input"]
    found = custom(given["custom"]) if "custom" in given else fingerprint(given["chain"])
    assert found == case["expect"]["fingerprint"]


@pytest.mark.parametrize("case", cases("answers.json"))
def test_an_answer_means_what_the_vectors_say_alone_and_on_a_stream(case: dict[str, Any]) -> None:
    raw, expect = case["input"].encode(), case["expect"]
    if expect is None:
        with pytest.raises(frame.AckError):
            frame.answer(raw)
        with pytest.raises(frame.AckError):
            frame.AckDecoder().feed(frame.unit(raw))
        return
    for found in (frame.answer(raw), *frame.AckDecoder().feed(frame.unit(raw))):
        if "again" in expect:
            assert found.again == expect["again"]
        else:
            assert (found.upto, found.n, found.again) == (expect["ack"], expect["n"], None)
            assert {str(seq): why for seq, why in found.refused.items()} == expect["refused"]


def vector(name: str) -> dict[str, Any]:
    for case in json.loads((VECTORS / "frames.json").read_text())["cases"]:
        if case["name"] == name:
            found: dict[str, Any] = case
            return found
    raise AssertionError(f"frames.json has no case {name!r}")


def as_read(raw: bytes) -> tuple[Any, Any]:
    """Header and payload, the latter as JSON where it is."""
    header, _, payload = raw.partition(b"\n")
    return json.loads(header), json.loads(payload) if payload.startswith(b"{") else payload


def test_the_frames_we_write_are_those_of_the_vectors() -> None:
    who = {"service": "shop", "env": "prod", "release": "1", "host": "h", "lib": "sendoff-python/0.1.0"}
    event_id = "01939c5a-7c00-7abc-8def-0123456789ab"
    fields = {"name": "order.placed", "user": {"id": 7}, "tags": {"plan": "pro"}}
    payload = frame.to_json({**fields, "fields": {"total": 12.5, "items": [1, 2]}})
    totals = {"event.buffer_full": 3, "metric.closed": 1}
    ours = {
        "hello": frame.hello(CLIENT, who, 7, 3, {}),
        "metrics": frame.metrics(CLIENT, 41, b"a:1|c\nb:2|g", t=None, dropped={}, who=who),
        "metrics held back": frame.metrics(CLIENT, 0, b"a:1|c", t=1_700_000_000_000, dropped={}),
        "metrics without lines": frame.metrics(CLIENT, 0, b"", t=None, dropped={}),
        "dropped totals": frame.metrics(CLIENT, 0, b"a:1|c", t=None, dropped=totals),
        "event": frame.durable(CLIENT, "event", 1, event_id, 1_700_000_000_000, payload, {}),
        "bye": frame.bye(CLIENT, 9, 100, {"metric.closed": 2}),
    }
    for name, raw in ours.items():
        assert as_read(raw) == as_read(vector(name)["input"].encode()), name


def test_an_id_is_a_uuid_of_version_7() -> None:
    assert frame.uuid7(0x0193_9C5A_7C00, bytes(range(10))) == "01939c5a-7c00-7000-8203-040506070809"
    for entropy in (bytes(10), b"\xff" * 10):
        made = frame.uuid7(1_700_000_000_000, entropy)
        assert (len(made), made[14]) == (36, "7")
        assert made[19] in "89ab"
        assert int(made.replace("-", "")[:12], 16) == 1_700_000_000_000


def test_the_server_understands_every_byte_we_write_and_rejects_no_line(peer: Peer, address: str) -> None:
    server = pytest.importorskip("sendoff_server.wire.frame")
    aggregate = pytest.importorskip("sendoff_server.aggregate")
    sendoff.init(address, service="shop ä", env='pr"od', release="1")
    sendoff.set_user(id=7)
    for value in (1, 2.5, 1e-7, 123456789.123, -3, 1e150, 2**53, 0.1 + 0.2):
        sendoff.increment("a::b c|d", value, key="v,|al ue")
        sendoff.gauge("odd", value, **{"#k:": "x"})
        sendoff.increment("sampled", value, rate=0.99999)
        sendoff.gauge("level", -value)
        sendoff.distribution("size", value, rate=1.0)
        sendoff.timing("took", value)
        sendoff.unique("users", value)
    sendoff.increment("bad", float("nan"))
    sendoff.event("order", text="ä\ud800", deep=[[[[[[[[[[1]]]]]]]]]], nan=float("nan"), big=2**70)
    try:
        raise ExceptionGroup("two", [ValueError("1"), KeyError("k")])
    except ExceptionGroup:
        sendoff.capture_exception(tags={"a": 1})
    assert sendoff.flush(5)
    sendoff.close()
    until(lambda: peer.of("bye"), "the bye")
    decoder = server.StreamDecoder()
    items = [*decoder.feed(bytes(peer.raw)), *decoder.end()]
    assert [item for item in items if not isinstance(item, server.Frame)] == []
    assert {item.kind for item in items} == {"hello", "metrics", "event", "exception", "bye"}
    core = aggregate.make_core(aggregate.Limits())
    for item in items:
        if item.kind == "metrics":
            core.feed(item.payload, "shop", [], 1_700_000_000_000, framed=True)
    rotation = core.rotate(1_700_000_010_000)
    rejected = {reason: n for reasons in rotation.lines_rejected.values() for reason, n in reasons.items() if n}
    assert rejected == {}
    assert sum(rotation.points.values()) == peer.points
