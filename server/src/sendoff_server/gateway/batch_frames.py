"""The answer to batches that came over ZeroMQ: stored as those that come by `POST /v1/batches`, or the same problem."""

from sendoff_server.gateway import keys
from sendoff_server.gateway.ingest import Ingest
from sendoff_server.gateway.problems import Problem, problem_of
from sendoff_server.wire.batch_frame import BatchFrame, encode_problem
from sendoff_server.wire.frame import FrameError


async def answer(ingest: Ingest, holder: keys.Holder, frame: BatchFrame) -> bytes:
    """Store a frame's batches in the project that `holder` sends for; the message to send back, after the commit."""
    try:
        return await ingest.store(holder, frame.payload, frame.encoding, named=frame.batch)
    except Exception as error:  # noqa: BLE001 - whatever it is, the sender is answered and the log has the trace
        problem = problem_of(error)
        return encode_problem(frame.batch, problem.as_json(), problem.headers.get("Retry-After"))


def refuse(error: FrameError) -> bytes:
    """The message for a frame of this kind that names no batch: nobody can be told which."""
    problem = Problem(400, "The frame cannot be read", error.detail, "see wire-format.md, section 6", "header")
    return encode_problem("", problem.as_json(), None)
