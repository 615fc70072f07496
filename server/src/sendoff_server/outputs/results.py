"""What a Sendoff gateway answers once it has stored: results by batch, over HTTP and over ZeroMQ alike."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from sendoff_server.delivery.outcome import Result
from sendoff_server.spool import RefusedLine, Sealed


class Senseless(Exception):
    """The answer contradicts itself. The text is the id of the batch that it does so about."""


class _Refused(msgspec.Struct):
    line: int
    code: str = ""
    detail: str = ""


class _Result(msgspec.Struct):
    batch: str
    status: Literal["stored", "duplicate", "refused"]
    refused: list[_Refused] = []
    code: str = ""
    detail: str = ""


class Stored(msgspec.Struct):
    """The object of the answer. `dedupe_s`: for how many seconds repeats are recognised."""

    results: list[_Result]
    dedupe_s: int = 0


def read_results(answer: Stored, batches: Sequence[Sealed]) -> dict[str, Result]:
    """Results of the batches that were sent. Raises `Senseless` with the id of one that is told two things about."""
    sent = {batch.id: batch for batch in batches}
    results: dict[str, Result] = {}
    for found in answer.results:
        batch = sent.get(found.batch)
        if batch is None:
            continue
        result = _result(found, batch)
        if result is None or results.get(batch.id, result) != result:
            raise Senseless(batch.id)
        results[batch.id] = result
    return results


def _result(found: _Result, batch: Sealed) -> Result | None:
    """What one result means; None if it makes no sense."""
    lines = [RefusedLine(line.line, line.code, line.detail) for line in found.refused]
    numbers = {line.line for line in lines}
    if len(numbers) < len(lines) or not all(1 <= number <= batch.lines for number in numbers):
        return None
    if found.status == "refused" and not lines:
        return Result(stored=False, code=found.code or "refused", detail=found.detail)
    return Result(stored=True, refused=tuple(lines))
