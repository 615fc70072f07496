"""Frames and streams under mutation: no bytes break the decoder, and chunking never changes what comes out."""

from __future__ import annotations

import json
import random
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

from sendoff_server.wire.frame import (
    MAX_UNIT,
    REASONS,
    FrameError,
    Item,
    Lines,
    StreamDecoder,
    decode_datagram,
    encode_unit,
)
from tests.fuzz.mutate import run

VECTORS = Path(__file__).parents[2] / "protocol" / "vectors" / "frames.json"


def corpus(*, streams: bool) -> list[bytes]:
    out = []
    for case in json.loads(VECTORS.read_text())["cases"]:
        if "input_hex" in case:
            data = bytes.fromhex(case["input_hex"])
        elif "input" in case:
            data = case["input"].encode()
        else:
            continue  # the long ones add nothing for a mutator
        if streams and not case["whole"]:
            data = encode_unit(data) * 2
        if streams or not case["whole"]:
            out.append(data)
    return out


def decode(pieces: list[bytes]) -> list[Any]:
    decoder, out = StreamDecoder(), []
    for piece in pieces:
        out += decoder.feed(piece)
        assert decoder.pending <= MAX_UNIT + 4
    out += decoder.end()
    return [b"".join(i.data for i in out if isinstance(i, Lines))] + [seen(i) for i in out if not isinstance(i, Lines)]


def seen(item: Item) -> Any:
    return (item.reason, item.seq, item.client) if isinstance(item, FrameError) else item


def test_no_datagram_breaks_the_decoder() -> None:
    def target(data: bytes) -> None:
        try:
            item: Item = decode_datagram(data)
        except FrameError as error:
            item = error
        if isinstance(item, FrameError):
            assert item.reason in REASONS, item
            assert item.seq is None or item.client is not None

    run(target, corpus(streams=False))


def test_no_stream_breaks_the_decoder_and_its_chunking_does_not_matter() -> None:
    def target(data: bytes) -> None:
        rng = random.Random(zlib.crc32(data))  # the same input is always cut alike, so that a failure repeats
        edges = [0, *sorted(rng.randrange(len(data) + 1) for _ in range(5)), len(data)]
        pieces = [data[a:b] for a, b in pairwise(edges)]
        whole, parts = decode([data]), decode(pieces)
        if max(map(len, data.split(b"\n")), default=0) > 65_535:
            whole[0] = parts[0] = b""  # of a line that is too long only as much is kept as shows that it is
        assert whole == parts

    run(target, corpus(streams=True))
