"""Batches in frames of ZeroMQ: what is answered is what HTTP would answer, and what is stored is the same."""

from pathlib import Path

import msgspec
import pytest

from sendoff_server.gateway import batch_frames, body, keys
from sendoff_server.wire.batch import DEFAULT
from sendoff_server.wire.batch_frame import BatchFrame, decode_batch_frame, encode_batch_frame
from sendoff_server.wire.frame import FrameError

from .support import Json, Running, batch, event, exception, running

CLIENT = "c" * 32


async def sent(gateway: Running, frame: BatchFrame) -> Json:
    """The answer to a frame of the gateway's project."""
    inner = gateway.gateway
    assert inner._store is not None
    holder = await inner._store.keys.read(keys.find, gateway.key)
    assert holder is not None
    answer: Json = msgspec.json.decode(await batch_frames.answer(inner._ingest, holder, frame))
    return answer


def framed(payload: bytes, name: str = "b-1", encoding: str = "zstd") -> BatchFrame:
    return BatchFrame(CLIENT, name, encoding, payload)


async def test_a_batch_in_a_frame_is_stored_once_and_its_repeat_by_http_is_recognised(gateway: Running) -> None:
    one, two = event(), exception()
    blob = batch("events", [one, two], "b-1")
    assert await sent(gateway, framed(blob)) == {
        "results": [{"batch": "b-1", "status": "stored"}],
        "dedupe_s": 90 * 86_400,
    }
    assert (await gateway.post(blob))[1]["results"][0]["status"] == "duplicate"
    counts = await gateway.get("counts")
    assert (counts["events"], counts["exceptions"]) == (1, 1)


@pytest.mark.parametrize(
    ("payload", "encoding", "status", "words"),
    [
        (b"no zstd at all", "zstd", 400, ""),
        (b"", "zstd", 400, "The body is empty"),
        (b"x" * 10, "br", 415, ""),
        (b"x" * (DEFAULT.raw + 1), "zstd", 413, "The body is too large"),
        (b"{}\n", "identity", 422, ""),
    ],
    ids=["garbage", "empty", "an encoding nobody knows", "too large", "no batch"],
)
async def test_what_is_wrong_with_a_batch_is_said_as_the_problem_of_http(
    payload: bytes, encoding: str, status: int, words: str, gateway: Running
) -> None:
    answer = await sent(gateway, framed(payload, "b-7", encoding))
    assert answer["batch"] == "b-7"
    assert answer["problem"]["status"] == status
    assert words in answer["problem"]["title"]
    assert answer["problem"].keys() == {"type", "title", "status", "detail", "remedy", "field"}


async def test_a_frame_holds_many_batches_and_is_named_after_the_first(gateway: Running) -> None:
    one, two = batch("events", [event()], "b-1"), batch("events", [event()], "b-2")
    answer = await sent(gateway, framed(two + one, "b-1"))
    assert (answer["batch"], answer["problem"]["status"]) == ("b-1", 400)
    assert (await gateway.get("counts"))["events"] == 0
    answer = await sent(gateway, framed(one + two, "b-1"))
    assert [each["batch"] for each in answer["results"]] == ["b-1", "b-2"]
    assert (await gateway.get("counts"))["events"] == 2


async def test_a_busy_gateway_says_when_to_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "BYTES_HELD", 10)
    async with running(tmp_path) as gateway:
        answer = await sent(gateway, framed(batch("events", [event()], "b-1")))
        assert (answer["problem"]["status"], answer["retry_after"]) == (503, 1)


def test_a_frame_of_this_kind_is_read_as_it_was_written() -> None:
    message = encode_batch_frame(CLIENT, "sn-1/1-2", "zstd", b"\x28\nrest")
    assert decode_batch_frame(message) == BatchFrame(CLIENT, "sn-1/1-2", "zstd", b"\x28\nrest")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"a:1|c",
        b'{"v":1,"kind":"batch"',
        b'{"v":1,"kind":"event","batch":"x"}\n{}',
        b'{"kind":"batch"\n',
        b'["batch"]\n',
        b'{"x":"' + b"y" * 5_000 + b'","kind":"batch"}\n',
        b'{"kind":"batch","x":' + b"[" * 4_000 + b"\n",
    ],
)
def test_what_is_no_batch_is_left_to_others(message: bytes) -> None:
    assert decode_batch_frame(message) is None


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"v": 2}, "version_unknown"),
        ({"client": "me"}, "header_invalid"),
        ({"batch": "a b"}, "header_invalid"),
        ({"batch": None}, "header_invalid"),
        ({"encoding": 7}, "header_invalid"),
    ],
)
def test_a_header_that_is_wrong_is_refused_with_the_reason(header: Json, reason: str) -> None:
    right = {"v": 1, "client": CLIENT, "kind": "batch", "batch": "b-1", "encoding": "zstd"}
    with pytest.raises(FrameError) as caught:
        decode_batch_frame(msgspec.json.encode(right | header) + b"\n")
    assert caught.value.reason == reason
    assert msgspec.json.decode(batch_frames.refuse(caught.value))["problem"]["status"] == 400
