"""Batches over ZeroMQ (wire format, section 6): the frame that holds some, and what is answered. No I/O."""

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from sendoff_server.wire.batch import BATCH_ID, DEFAULT, Compression
from sendoff_server.wire.frame import MAX_HEADER, VERSION, FrameError

MAX_MESSAGE = DEFAULT.raw + MAX_HEADER
"""Bytes of a message that holds batches."""
_KIND = b'"batch"'
_CLIENT = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class BatchFrame:
    """1 to 64 batches on their way; `batch` names the first. `encoding` and `payload` are what Content-Encoding and the
    body are over HTTP.
    """

    client: str
    batch: str
    encoding: str
    payload: bytes


def encode_batch_frame(client: str, batch: str, encoding: Compression, payload: bytes) -> bytes:
    """The whole message."""
    header = {"v": VERSION, "client": client, "kind": "batch", "batch": batch, "encoding": encoding}
    return msgspec.json.encode(header) + b"\n" + payload


def decode_batch_frame(data: bytes) -> BatchFrame | None:
    """A message that holds batches; None if it is something else. Raises FrameError if it is one, and wrong."""
    if not is_batch(data):
        return None
    end = data.find(b"\n")
    try:
        header = msgspec.json.decode(data[:end])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if not isinstance(header, dict) or header.get("kind") != "batch":
        return None
    if type(header.get("v")) is not int or header["v"] != VERSION:
        raise FrameError("version_unknown", f"v: {VERSION} was expected, not {header.get('v')!r:.40}")
    client, batch, encoding = header.get("client"), header.get("batch"), header.get("encoding")
    if not isinstance(client, str) or not _CLIENT.fullmatch(client):
        raise FrameError("header_invalid", "client: 32 lower-case hex digits were expected")
    if not isinstance(batch, str) or not BATCH_ID.fullmatch(batch):
        raise FrameError("header_invalid", "batch: the id of a batch was expected", client=client)
    if not isinstance(encoding, str):
        raise FrameError("header_invalid", "encoding: zstd, gzip or identity was expected", client=client)
    return BatchFrame(client, batch, encoding, data[end + 1 :])


def is_batch(data: bytes) -> bool:
    """Whether a message may hold batches. Costs next to nothing; `decode_batch_frame` knows."""
    end = data.find(b"\n", 0, MAX_HEADER + 1)
    return end >= 0 and data.find(_KIND, 0, end) >= 0


def encode_results(results: list[dict[str, Any]], dedupe_s: int) -> bytes:
    """What is said once batches are stored, by HTTP as well."""
    return msgspec.json.encode({"results": results, "dedupe_s": dedupe_s})


def encode_problem(batch: str, problem: dict[str, Any], retry_after: str | None) -> bytes:
    """What is said instead. `retry_after`: seconds, as in HTTP's header, if there are any."""
    answer: dict[str, Any] = {"batch": batch, "problem": problem}
    if retry_after is not None and retry_after.isdigit():
        answer["retry_after"] = int(retry_after)
    return msgspec.json.encode(answer)
