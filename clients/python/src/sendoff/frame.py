"""Frames and acknowledgements as bytes (protocol/wire-format.md, sections 2 and 3). Pure: no socket, no clock, no
randomness.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

UNIT_LIMIT = 1_048_576
PAYLOAD_LIMIT = 262_144
STRING_LIMIT = 200
"""Bytes in `service`, `env`, `release`, `host`, `lib` and an event's name."""

_compact = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=False).encode


def to_json(value: object) -> bytes:
    """Compact JSON of builtin values. Lone surrogates, which UTF-8 has no bytes for, become `?`.

    Raises `ValueError` for NaN, infinities and integers too long to print, `TypeError` for anything that is not
    builtin.
    """
    return _compact(value).encode("utf-8", "replace")


def cut(text: str, limit: int) -> str:
    """`text` without control characters and unpaired surrogates, at most `limit` bytes of UTF-8, cut between
    characters.
    """
    if not text.isprintable():
        text = "".join(c if c >= " " and c != "\x7f" and not "\ud800" <= c <= "\udfff" else "_" for c in text[:limit])
    raw = text[:limit].encode("utf-8", "replace")
    return text if len(raw) == len(text) <= limit else raw[:limit].decode("utf-8", "ignore")


def uuid7(ms: int, entropy: bytes) -> str:
    """The UUIDv7 of RFC 9562 for a Unix time in milliseconds and ten random bytes, in its 36-character form."""
    tail = int.from_bytes(entropy[:10], "big")
    number = (ms & 0xFFFF_FFFF_FFFF) << 80 | 0x7 << 76 | (tail >> 68) << 64 | 0b10 << 62 | tail & 0x3FFF_FFFF_FFFF_FFFF
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def unit(frame: bytes) -> bytes:
    """A frame as it travels on a stream: its length first."""
    return len(frame).to_bytes(4, "little") + frame


def hello(client: str, who: Mapping[str, str], pid: int, resume_from: int, dropped: Mapping[str, int]) -> bytes:
    """The first frame of a connection. `who` has service, env, release, host and lib."""
    header: dict[str, object] = {"v": 1, "client": client, "kind": "hello"}
    if dropped:
        header["dropped"] = dropped
    return to_json(header) + b"\n" + to_json({**who, "pid": pid, "resume_from": resume_from})


def durable(
    client: str,
    kind: str,
    seq: int,
    event_id: str,
    t: int,
    payload: bytes,
    dropped: Mapping[str, int],
    *,
    confirm: bool = False,
) -> bytes:
    """An event or an exception. With `confirm` the agent keeps a receipt of it."""
    header = f'{{"v":1,"client":"{client}","kind":"{kind}","seq":{seq},"id":"{event_id}","t":{t}'
    more = b',"confirm":true' if confirm else b""
    more += b',"dropped":' + to_json(dropped) if dropped else b""
    return header.encode() + more + b"}\n" + payload


def metrics(
    client: str,
    n: int,
    payload: bytes,
    *,
    t: int | None,
    dropped: Mapping[str, int],
    who: Mapping[str, str] | None = None,
) -> bytes:
    """Metric lines; `t` only if they were held back, `who` (service, env, release) only on datagrams."""
    header: dict[str, object] = {"v": 1, "client": client, "kind": "metrics", "n": n}
    if t is not None:
        header["t"] = t
    if dropped:
        header["dropped"] = dropped
    if who is not None:
        header.update({key: who[key] for key in ("service", "env", "release") if who[key]})
    return to_json(header) + b"\n" + payload


def bye(client: str, last_seq: int, last_n: int, dropped: Mapping[str, int]) -> bytes:
    """The last frame: nothing follows."""
    header = {"v": 1, "client": client, "kind": "bye"}
    return to_json(header) + b"\n" + to_json({"last_seq": last_seq, "last_n": last_n, "dropped": dropped})


class AckError(ValueError):
    """What came back is no answer; the connection is of no use any more."""


class Ack:
    """Everything up to `upto` is safe or refused; `refused` names what was refused, and why. Every point before `n` is
    safe; None where the peer does not say. With `again` it is no acknowledgement: the peer takes nothing more on this
    connection, and wants no other before so many seconds have passed.
    """

    __slots__ = ("again", "n", "refused", "upto")

    def __init__(
        self,
        upto: int,
        refused: Iterable[tuple[int, str]] = (),
        *,
        n: int | None = None,
        again: float | None = None,
    ) -> None:
        self.upto = upto
        self.refused = dict(refused)
        self.n = n
        self.again = again

    def __repr__(self) -> str:
        return f"Ack(upto={self.upto}, refused={self.refused}, n={self.n}, again={self.again})"


class AckDecoder:
    """Bytes of a stream in any chunking to answers. Holds at most one unfinished unit."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Ack]:
        """The answers that `data` completes. Raises `AckError` on anything else."""
        rest = self._rest
        rest += data
        found: list[Ack] = []
        at = 0
        while len(rest) - at >= 4:
            length = int.from_bytes(rest[at : at + 4], "little")
            if not 0 < length <= UNIT_LIMIT:
                raise AckError(f"a unit of {length} bytes")
            if len(rest) - at < 4 + length:
                break
            found.append(answer(bytes(rest[at + 4 : at + 4 + length])))
            at += 4 + length
        del rest[:at]
        return found


def answer(raw: bytes) -> Ack:
    """One answer without a length before it, as a message of ZeroMQ or the body of an HTTP response has it. Raises
    `AckError` on anything else. `raw` is at most UNIT_LIMIT bytes: whoever reads it sees to that.
    """
    try:
        body = json.loads(raw)
        if "ack" not in body:
            return Ack(0, again=_seconds(body["again"]))
        refused = body.get("refused", ())
        pairs = [(item["seq"], item["reason"]) for item in refused]
        n = body.get("n")
        right = type(body["ack"]) is int and (n is None or (type(n) is int and n >= 0))
        if not right or not all(type(seq) is int and type(reason) is str for seq, reason in pairs):
            raise AckError("an acknowledgement of the wrong types")
        return Ack(body["ack"], ((seq, cut(reason, 100)) for seq, reason in pairs), n=n)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AckError(f"not an acknowledgement: {type(error).__name__}") from error


def _seconds(value: object) -> float:
    """Raises `ValueError` for what is no time to wait."""
    if type(value) not in (int, float) or not 0 <= value <= 1e9:  # type: ignore[operator]
        raise ValueError("not a number of seconds")
    return float(value)  # type: ignore[arg-type]
