"""Bodies of batches under mutation: decoded, or refused by a BodyError; and whatever decodes is checked."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import msgspec

from sendoff_server.gateway.check import check_batch
from sendoff_server.wire.batch import BodyError, BodyLimits, decode_body

from .mutate import run

VECTORS = json.loads((Path(__file__).parents[2] / "protocol/vectors/batches.json").read_text("utf-8"))["cases"]
LIMITS = BodyLimits(decoded=1_000_000, lines=10_000)
EVENT = {"id": "e", "kind": "event", "t": 1, "name": "n", "user": {"id": [1]}, "tags": {"a": "b"}, "fields": {"x": {}}}
FRAME = {
    "file": "a.py",
    "line": 1,
    "func": "f",
    "in_app": True,
    "pre": ["x"],
    "code": "y",
    "post": [],
    "vars": {"v": "1"},
}
EXCEPTION = EVENT | {
    "kind": "exception",
    "fingerprint": "f" * 32,
    "chain": [{"type": "A", "message": "m", "frames": [FRAME]}, {"type": "B", "parent": 0, "link": "cause"}],
    "request": {"method": "GET"},
}
COUNTER = {"name": "a", "tags": {"k": ["a", "b"]}, "unit": "", "type": "counter", "w": [0, 1000], "ord": [1, 1]}
BOOK = {"book": "events", "source": "s", "output": "o", "received": 2, "delivered": 1, "lost": {"spool_full": 1}}


def plain(kind: str, *lines: object) -> bytes:
    header = {"batch": "b", "schema": 1, "type": kind, "count": len(lines), "agent": "a" * 32, "made": 1, "host": "h"}
    header |= {"covers": [1, 1, 1, 0], "ordinal": 1}
    return b"".join(msgspec.json.encode(line) + b"\n" for line in (header, *lines))


def test_a_mutated_body_is_decoded_or_refused() -> None:
    small = [base64.b64decode(case["input_base64"]) for case in VECTORS]

    def target(data: bytes) -> None:
        encoding = "zstd" if data[:4] == b"\x28\xb5\x2f\xfd" else "gzip" if data[:2] == b"\x1f\x8b" else "identity"
        status = 200
        try:
            decode_body(data, encoding, LIMITS)
        except BodyError as error:
            status = error.status
        assert status in (200, 400, 413, 422)

    run(target, [body for body in small if len(body) < 4_000])


def test_whatever_stands_in_a_batch_is_checked_line_by_line() -> None:
    corpus = [
        plain("events", EVENT, EXCEPTION),
        plain("snapshot", COUNTER | {"sum": 1.5, "n": 2}),
        plain("ledger", BOOK, {"memo": "kernel", "socket": "udp", "dropped": 1}),
    ]

    def target(data: bytes) -> None:
        try:
            batches = decode_body(data, "identity", LIMITS)
        except BodyError:
            return
        for batch in batches:
            checked = check_batch(batch)
            kept = len(checked.events) + len(checked.windows) + len(checked.books)
            assert checked.refusal is not None or kept + len(checked.refused) == len(batch.lines)
            for row in checked.events:
                assert msgspec.json.encode(row.event)
                row.event.name.encode()

    run(target, corpus)
