"""Frames and streams: every vector, in every chunking; what a decoder may cost; what is encoded."""

from __future__ import annotations

import json
import random
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendoff_server.wire.frame import (
    MAX_UNIT,
    REASONS,
    Frame,
    FrameError,
    Item,
    Lines,
    StreamDecoder,
    decode_datagram,
    decode_frame,
    encode_ack,
    encode_unit,
)

VECTORS = Path(__file__).parents[3] / "protocol" / "vectors" / "frames.json"
CASES: list[dict[str, Any]] = json.loads(VECTORS.read_text())["cases"]
FRAMES = [case for case in CASES if not case["whole"]]
STREAMS = [case for case in CASES if case["whole"]]
HELLO = b'{"v":1,"client":"0123456789abcdef0123456789abcdef","kind":"hello"}\n{}'


def bytes_of(case: dict[str, Any]) -> bytes:
    if "input" in case:
        return str(case["input"]).encode()
    if "input_hex" in case:
        return bytes.fromhex(case["input_hex"])
    return b"".join(
        (bytes.fromhex(part["hex"]) if "hex" in part else part["text"].encode()) * part.get("times", 1)
        for part in case["input_parts"]
    )


def chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def decode(pieces: list[bytes], *, orderly: bool = True) -> list[Item]:
    decoder, out = StreamDecoder(), []
    for piece in pieces:
        out += decoder.feed(piece)
    return joined(out + decoder.end(orderly=orderly), plain="plain" in repr(decoder))


def joined(items: list[Item], *, plain: bool) -> list[Item]:
    """The lines of a plain stream as one item: how they are divided depends on the chunking."""
    if not plain or not items:
        return items
    assert all(isinstance(item, Lines) for item in items)
    lines = [item for item in items if isinstance(item, Lines)]
    return [Lines(b"".join(item.data for item in lines), lines[-1].cut)]


def agree(item: Item, expected: dict[str, Any]) -> None:
    if "frame" in expected:
        assert isinstance(item, Frame), item
        for key, value in expected["frame"].items():
            found = getattr(item, key)
            assert (found.decode() if key == "payload" else found) == value, key
    elif "error" in expected:
        assert isinstance(item, FrameError), item
        wanted = expected["error"]
        assert item.reason == wanted["reason"], item
        assert item.detail.startswith(wanted.get("detail", "")), item
        assert (item.seq, item.client) == (wanted.get("seq"), wanted.get("client"))
    else:
        assert isinstance(item, Lines), item
        assert item.cut is expected["cut"]
        if "lines_length" in expected:
            assert len(item.data) == expected["lines_length"]
        else:
            wanted_bytes = (
                bytes.fromhex(expected["lines_hex"]) if "lines_hex" in expected else expected["lines"].encode()
            )
            assert item.data == wanted_bytes


def comparable(items: list[Item]) -> list[Any]:
    return [(i.reason, i.seq, i.client) if isinstance(i, FrameError) else i for i in items]


@pytest.mark.parametrize("case", FRAMES, ids=lambda case: str(case["name"]))
def test_a_frame_decodes_as_the_vectors_say(case: dict[str, Any]) -> None:
    data = bytes_of(case)
    try:
        item: Item = decode_frame(data, datagram=case["transport"] == "datagram")
    except FrameError as error:
        item = error
    agree(item, case["expect"])


@pytest.mark.parametrize("case", [c for c in FRAMES if c["transport"] == "stream"], ids=lambda case: str(case["name"]))
def test_a_frame_decodes_alike_as_a_unit_and_the_stream_goes_on_after_it(case: dict[str, Any]) -> None:
    items = decode([encode_unit(bytes_of(case)), encode_unit(HELLO)])
    assert len(items) == 2
    agree(items[0], case["expect"])
    assert isinstance(items[1], Frame)


@pytest.mark.parametrize("case", STREAMS, ids=lambda case: str(case["name"]))
def test_a_stream_decodes_alike_in_every_chunking(case: dict[str, Any]) -> None:
    data, orderly = bytes_of(case), case["end"] == "orderly"
    whole = decode([data], orderly=orderly)
    assert len(whole) == len(case["expect"]["items"]), whole
    for item, expected in zip(whole, case["expect"]["items"], strict=True):
        agree(item, expected)
    rng = random.Random(7)
    ways = [[rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 6))] for _ in range(20)]
    if len(data) <= 400:
        ways += [[cut] for cut in range(len(data) + 1)]
    if len(data) <= 70_000:
        ways.append(list(range(len(data))))
    for cuts in ways:
        assert comparable(decode(chunks(data, cuts), orderly=orderly)) == comparable(whole), cuts


def test_every_reason_that_a_decoder_gives_has_a_vector() -> None:
    given_here = {case["expect"]["error"]["reason"] for case in FRAMES if "error" in case["expect"]}
    given_here |= {i["error"]["reason"] for case in STREAMS for i in case["expect"]["items"] if "error" in i}
    assert given_here == set(REASONS) - {"client_mismatch", "missing"}  # these need to know the client


def test_a_datagram_is_a_frame_only_if_its_first_byte_is_a_brace() -> None:
    assert decode_datagram(b"a:1|c") == Lines(b"a:1|c")
    assert decode_datagram(b"") == Lines(b"")
    assert isinstance(decode_datagram(HELLO), Frame)
    with pytest.raises(FrameError, match="header_missing"):
        decode_datagram(b"{nonsense")


def test_a_plain_line_without_end_is_handed_on_once_as_too_long_and_memory_stays_bounded() -> None:
    decoder, out = StreamDecoder(), []
    for _ in range(100):
        out += decoder.feed(b"x" * 10_000)
        assert decoder.pending <= 65_536
    out += decoder.feed(b"yyy\na:1|c\n")
    lines = [item.data for item in out if isinstance(item, Lines)]
    assert [len(line) for line in lines] == [65_537, 6]
    assert lines[1] == b"a:1|c\n"


def test_after_a_fatal_error_what_follows_is_ignored_and_takes_no_memory() -> None:
    decoder = StreamDecoder()
    assert [i.reason for i in decoder.feed(b"\0\0\0\0" + b"x" * 99) if isinstance(i, FrameError)] == ["frame_empty"]
    assert decoder.dead
    assert decoder.feed(b"x" * 1_000_000) == []
    assert decoder.pending == 0
    assert decoder.end() == []


def test_feeding_a_long_unit_byte_by_byte_is_not_quadratic() -> None:
    def seconds(size: int) -> float:
        unit, decoder = encode_unit(b"x" * size), StreamDecoder()
        begun = time.process_time()
        for at in range(len(unit)):
            decoder.feed(unit[at : at + 1])
        return time.process_time() - begun

    seconds(1_000)
    small, large = seconds(30_000), seconds(300_000)
    assert large < small * 40  # ten times the bytes: quadratic would be a hundred times the time


def test_many_tiny_units_at_once_are_not_quadratic() -> None:
    data = encode_unit(b"a:1|c") * 100_000
    begun = time.process_time()
    assert len(StreamDecoder().feed(data)) == 100_000
    assert time.process_time() - begun < 2


def test_units_and_acknowledgements_read_back() -> None:
    assert encode_unit(b"ab") == b"\x02\0\0\0ab"
    for wrong in (b"", b"x" * (MAX_UNIT + 1)):
        with pytest.raises(ValueError, match="a unit has"):
            encode_unit(wrong)
    ack = encode_ack(7, [(5, "missing"), (6, "payload_invalid")])
    assert msgspec.json.decode(ack) == {
        "ack": 7,
        "refused": [{"seq": 5, "reason": "missing"}, {"seq": 6, "reason": "payload_invalid"}],
    }
    assert msgspec.json.decode(encode_ack(0)) == {"ack": 0}


pieces = st.one_of(
    st.binary(max_size=40),
    st.just(encode_unit(HELLO)),
    st.just(b"a:1|c\n"),
    st.integers(0, 60).map(lambda n: n.to_bytes(4, "little")),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(pieces, max_size=12).map(b"".join), st.lists(st.integers(0, 500), max_size=8), st.booleans())
def test_any_bytes_decode_alike_in_any_chunking(data: bytes, cuts: list[int], orderly: bool) -> None:
    cut = [min(at, len(data)) for at in cuts]
    assert comparable(decode(chunks(data, cut), orderly=orderly)) == comparable(decode([data], orderly=orderly))
