"""Bodies of batches: the vectors that every implementation runs, and what reading a hostile one may cost."""

import base64
import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendoff_server.wire.batch import DEFAULT, BodyError, BodyLimits, decode_body, encode_batch, transcode

VECTORS = json.loads((Path(__file__).parents[3] / "protocol/vectors/batches.json").read_text("utf-8"))["cases"]
EMPTY = encode_batch({"batch": "b", "count": 0}, [])
LINES = st.lists(st.binary(max_size=50).filter(lambda line: b"\n" not in line), max_size=20)


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["name"])
def test_a_body_decodes_as_the_vector_says(case: dict[str, Any]) -> None:
    raw, expect = base64.b64decode(case["input_base64"]), case["expect"]
    if "error" in expect:
        with pytest.raises(BodyError) as caught:
            decode_body(raw, case["encoding"])
        assert (caught.value.status, caught.value.field) == (expect["error"], expect["field"])
        assert caught.value.remedy
    else:
        found = [
            {"batch": batch.id, "lines": [line.decode() for line in batch.lines]}
            for batch in decode_body(raw, case["encoding"])
        ]
        assert found == expect["batches"]


@given(st.lists(LINES, min_size=1, max_size=5), st.sampled_from(["zstd", "gzip", "identity"]))
def test_what_was_sealed_reads_back_in_any_encoding(batches: list[list[bytes]], compression: Any) -> None:
    blobs = [encode_batch({"batch": "b", "count": len(lines)}, lines) for lines in batches]
    body = b"".join(transcode(blob, compression) for blob in blobs)
    assert [batch.lines for batch in decode_body(body, compression)] == batches


def test_a_batch_that_could_not_be_read_back_is_not_sealed() -> None:
    with pytest.raises(ValueError, match="says count 2 but there are 1"):
        encode_batch({"batch": "b", "count": 2}, [b"{}"])
    with pytest.raises(ValueError, match="line feed"):
        encode_batch({"batch": "b", "count": 1}, [b"{\n}"])


@pytest.mark.parametrize(
    ("piece", "encoding"),
    [(EMPTY, "zstd"), (gzip.compress(b"", mtime=0), "gzip")],
)
def test_a_body_of_tiny_parts_is_refused_at_once(piece: bytes, encoding: str) -> None:
    body = piece * (DEFAULT.raw // len(piece))
    begun = time.process_time()
    with pytest.raises(BodyError) as caught:
        decode_body(body, encoding)
    assert caught.value.status == 413
    assert time.process_time() - begun < 1


def test_as_many_tiny_parts_as_are_allowed_cost_little() -> None:
    empty = gzip.compress(b"", mtime=0)
    body = empty * (DEFAULT.members - 1) + gzip.compress(b'{"batch":"b","count":0}\n')
    begun = time.process_time()
    assert len(decode_body(body, "gzip")) == 1
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_decoding_stops_at_the_limit(compression: Any) -> None:
    limits = BodyLimits(decoded=10_000)
    body = encode_batch({"batch": "b", "count": 1}, [b"0" * 50_000_000], compression)
    begun = time.process_time()
    with pytest.raises(BodyError) as caught:
        decode_body(body, compression, limits)
    assert caught.value.status == 413
    assert time.process_time() - begun < 0.5


def test_the_limit_counts_all_parts_of_a_body_together() -> None:
    one = encode_batch({"batch": "b", "count": 1}, [b"0" * 6_000])
    assert len(decode_body(one, "zstd", BodyLimits(decoded=10_000))) == 1
    with pytest.raises(BodyError):
        decode_body(one * 2, "zstd", BodyLimits(decoded=10_000))


def test_a_body_of_nothing_but_line_ends_is_refused_before_it_becomes_lines() -> None:
    body = gzip.compress(b'{"batch":"b","count":8000000}\n' + b"\n" * 8_000_000)
    with pytest.raises(BodyError) as caught:
        decode_body(body, "gzip")
    assert caught.value.status == 413
