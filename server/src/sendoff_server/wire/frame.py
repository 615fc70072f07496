"""Frames and streams as bytes (wire format, sections 1 to 3). Sans-I/O: bytes in, frames or typed errors out.

Everything here comes from anyone who can reach a socket. Memory is bounded by one unit (1 MiB) a stream, the work is
linear in the bytes fed whatever the chunking, and nothing but FrameError leaves `decode_frame`. A stream decoder never
raises: errors are values in its output, in their place between the frames, because the frames after a bad one are good.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from sendoff_server.wire import payload as payloads

VERSION = 1
MAX_HEADER = 4_096
MAX_UNIT = 1_048_576
MAX_PAYLOAD = 262_144
MAX_LINE = 65_535
MAX_INTEGER = payloads.MAX_INTEGER

KINDS = frozenset({"hello", "metrics", "event", "exception", "bye"})
DURABLE = frozenset({"event", "exception"})

REASONS = (
    "frame_empty", "frame_too_long", "cut_off", "header_missing", "header_too_long", "header_not_json",
    "version_unknown", "kind_unknown", "header_invalid", "durable_on_datagram", "client_mismatch", "payload_too_long",
    "payload_not_json", "payload_too_deep", "payload_invalid", "missing",
)  # fmt: skip
"""Why a frame is refused (wire format, section 9). `client_mismatch` and `missing` need who knows the client."""
FATAL = frozenset({"frame_empty", "frame_too_long"})
"""Reasons after which the rest of a stream cannot be understood."""

_CLIENT = re.compile(r"[0-9a-f]{32}")
_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_decode_json = msgspec.json.Decoder().decode


class FrameError(Exception):
    """One frame is refused. `seq` and `client` are there where they could be read: then it can be refused by name.

    `confirmed` is the event's id where its sender asked for a receipt, else "".
    """

    def __init__(
        self, reason: str, detail: str, *, seq: int | None = None, client: str | None = None, confirmed: str = ""
    ) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.seq = seq
        self.client = client
        self.confirmed = confirmed


@dataclass(slots=True)
class Frame:
    """One frame whose header and payload are as the wire format says. Keys that are missing: 0, "", None, {}.

    `t` is in Unix ms; `body` is the JSON payload, for every kind but metrics.
    """

    kind: str
    client: str
    payload: bytes
    body: dict[str, Any] | None = None
    seq: int = 0
    id: str = ""
    t: int | None = None
    n: int = 0
    dropped: dict[str, int] | None = None
    service: str = ""
    env: str = ""
    release: str = ""
    confirm: bool = False


@dataclass(frozen=True, slots=True)
class Lines:
    """Metric lines, as they came. `cut`: the last one broke off and is not complete."""

    data: bytes
    cut: bool = False


Item = Frame | Lines | FrameError


def decode_frame(data: bytes, *, datagram: bool) -> Frame:
    """Decode one frame. Raises FrameError, with the first reason of REASONS that applies."""
    end = data.find(b"\n")
    if end < 0:
        raise FrameError("header_missing", "no LF ends the header")
    if end > MAX_HEADER:
        raise FrameError("header_too_long", f"the header has {end} bytes, at most {MAX_HEADER} are allowed")
    header = _json_object(data[:end], "header_not_json")
    client, seq = _names(header)
    try:
        frame = _decode(header, data[end + 1 :], datagram)
    except FrameError as error:
        error.seq, error.client, error.confirmed = seq, client, _confirmed(header)
        raise
    return frame


def _decode(header: dict[str, Any], payload: bytes, datagram: bool) -> Frame:
    version = header.get("v")
    if type(version) is not int or version != VERSION:
        raise FrameError("version_unknown", f"v: {VERSION} was expected, not {version!r:.40}")
    kind = header.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise FrameError("kind_unknown", f"kind: {kind!r:.40} is not known")
    frame = _read_header(kind, header, payload)
    if datagram and kind in DURABLE:
        raise FrameError("durable_on_datagram", f"a frame of kind {kind} must come on a stream")
    if kind == "metrics":
        return frame
    if kind in DURABLE and len(payload) > MAX_PAYLOAD:
        raise FrameError("payload_too_long", f"the payload has {len(payload)} bytes, at most {MAX_PAYLOAD} are allowed")
    body = _json_object(payload, "payload_not_json")
    if part := payloads.too_deep(body, payload.count(b"{") + payload.count(b"[")):
        raise FrameError("payload_too_deep", part)
    try:
        payloads.CHECKS[kind](body)
    except payloads.Invalid as error:
        raise FrameError("payload_invalid", str(error)) from None
    frame.body = body
    return frame


def _json_object(data: bytes, reason: str) -> dict[str, Any]:
    """Decode one JSON object, or raise FrameError(reason), or payload_too_deep where the decoder gave up."""
    try:
        value = _decode_json(data)
    except RecursionError:
        if reason == "header_not_json":
            raise FrameError(reason, "nested too deep") from None
        raise FrameError("payload_too_deep", "payload: nested too deep to be read") from None
    except (msgspec.MsgspecError, ValueError) as error:  # ValueError: bad UTF-8, integers of thousands of digits
        raise FrameError(reason, f"{error}"[:200]) from None
    if not isinstance(value, dict):
        raise FrameError(reason, "a JSON object was expected")
    return value


def _names(header: dict[str, Any]) -> tuple[str | None, int | None]:
    """Client and seq for a refusal by name. Only durable frames have a seq; kinds of later versions may."""
    client, seq = header.get("client"), header.get("seq")
    named = isinstance(client, str) and _CLIENT.fullmatch(client) is not None
    counts = type(seq) is int and 1 <= seq <= MAX_INTEGER and header.get("kind") not in ("hello", "metrics", "bye")
    return client if named else None, seq if named and counts else None


def _confirmed(header: dict[str, Any]) -> str:
    """The id of an event whose sender asked for a receipt, or ""."""
    frame_id = header.get("id")
    asked = header.get("confirm") is True and isinstance(frame_id, str) and _UUID7.fullmatch(frame_id)
    return str(frame_id) if asked else ""


def _read_header(kind: str, header: dict[str, Any], payload: bytes) -> Frame:
    client = header.get("client")
    if not isinstance(client, str) or not _CLIENT.fullmatch(client):
        raise FrameError("header_invalid", "client: 32 lower-case hex digits were expected")
    try:
        payloads.check_totals(header.get("dropped"), "dropped")
    except payloads.Invalid as error:
        raise FrameError("header_invalid", str(error)) from None
    frame_id, seq, n = "", 0, 0
    t: int | None = None
    confirm = False
    strings = {"service": "", "env": "", "release": ""}
    if kind in DURABLE:
        seq = _integer(header, "seq", 1)
        frame_id = _string(header, "id")
        if not _UUID7.fullmatch(frame_id):
            raise FrameError("header_invalid", "id: a UUIDv7 of 36 lower-case characters was expected")
        t = _integer(header, "t", 0)
        confirm = header.get("confirm") is True
    elif kind == "metrics":
        n = _integer(header, "n", 0)
        t = _integer(header, "t", 0) if header.get("t") is not None else None
        for key in strings:
            strings[key] = _string(header, key)
    return Frame(kind, client, payload, None, seq, frame_id, t, n, header.get("dropped"), **strings, confirm=confirm)


def _integer(header: dict[str, Any], key: str, least: int) -> int:
    value = header.get(key)
    if type(value) is not int or not least <= value <= MAX_INTEGER:
        raise FrameError("header_invalid", f"{key}: an integer from {least} to 2^53 - 1 was expected")
    return value


def _string(header: dict[str, Any], key: str) -> str:
    value = header.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value.encode()) > payloads.MAX_STRING:
        raise FrameError("header_invalid", f"{key}: a string of at most {payloads.MAX_STRING} bytes was expected")
    return value


def decode_datagram(data: bytes) -> Frame | Lines:
    """One datagram: one frame if its first byte is `{`, else lines. Raises FrameError."""
    return decode_frame(data, datagram=True) if data[:1] == b"{" else Lines(data)


class StreamDecoder:
    """One stream, in any chunking. `feed` what was read, then `end` once; both give what was complete by then.

    The first four bytes decide between plain lines and units. `dead` is set when what follows cannot be understood any
    more (the error is in the output): the connection must be ended, and what is fed after that is ignored. `pending`
    is how many bytes are held for a unit or a line that is not complete.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._plain: bool | None = None
        self._passing_over = False  # in a plain line that is already known to be too long
        self._need = 4  # bytes from which on the head of the buffer can be looked at again
        self.dead = False

    def __repr__(self) -> str:
        kind = {None: "undecided", True: "plain lines", False: "units"}[self._plain]
        return f"<StreamDecoder {kind}, {self.pending} pending{', dead' if self.dead else ''}>"

    @property
    def pending(self) -> int:
        return len(self._buffer)

    @property
    def rest(self) -> tuple[bool | None, bool, bytes]:
        """What another decoder needs to go on in the middle of this stream: see `resumed`."""
        return self._plain, self._passing_over, bytes(self._buffer)

    @classmethod
    def resumed(cls, plain: bool | None, passing_over: bool, rest: bytes) -> "StreamDecoder":
        """A decoder that goes on where one with this `rest` stopped."""
        made = cls()
        made._plain, made._passing_over = plain, passing_over
        made._buffer += rest
        return made

    @property
    def in_unit(self) -> bool:
        """A unit was begun and is not complete; a plain line may take as long as somebody types it."""
        return self._plain is False and bool(self._buffer)

    def feed(self, data: bytes) -> list[Item]:
        if self.dead or not data:
            return []
        if self._plain is None:
            self._buffer += data
            if len(self._buffer) < 4:
                return []
            self._plain = min(self._buffer[:4]) >= 0x09
            data = bytes(self._buffer) if self._plain else b""
            if self._plain:
                self._buffer.clear()
        else:
            self._buffer += b"" if self._plain else data
        return self._feed_lines(data) if self._plain else self._feed_units()

    def end(self, *, orderly: bool = True) -> list[Item]:
        """The stream has ended; not `orderly` when it was reset, or given up, instead of closed by the peer."""
        rest, self._buffer = bytes(self._buffer), bytearray()
        was_dead, self.dead = self.dead, True
        if was_dead or not rest:
            return []
        if self._plain or (self._plain is None and min(rest) >= 0x09):
            return [Lines(rest, cut=not orderly)]
        return [FrameError("cut_off", f"the stream ended inside a unit, after {len(rest)} bytes of it")]

    def _feed_lines(self, data: bytes) -> list[Item]:
        end = data.rfind(b"\n") + 1
        whole, rest = data[:end], data[end:]
        out: list[Item] = []
        if self._passing_over:
            if not end:
                return []
            self._passing_over = False
            whole = whole[whole.find(b"\n") + 1 :]
        elif end and self._buffer:
            whole = bytes(self._buffer) + whole
            self._buffer.clear()
        if whole:
            out.append(Lines(whole))
        self._buffer += rest
        if len(self._buffer) > MAX_LINE + 1:  # with the CR that may end it: this line is too long, and counts as such
            out.append(Lines(bytes(self._buffer[: MAX_LINE + 2])))
            self._buffer.clear()
            self._passing_over = True
        return out

    def _feed_units(self) -> list[Item]:
        out: list[Item] = []
        buffer, at = self._buffer, 0
        while len(buffer) - at >= self._need:
            length = int.from_bytes(buffer[at : at + 4], "little")
            if not 1 <= length <= MAX_UNIT:
                self.dead = True
                reason = "frame_too_long" if length else "frame_empty"
                out.append(FrameError(reason, f"a unit of {length} bytes; 1 to {MAX_UNIT} are allowed"))
                buffer.clear()
                return out
            if len(buffer) - at < 4 + length:
                self._need = 4 + length
                break
            out.append(_unit(bytes(buffer[at + 4 : at + 4 + length])))
            at += 4 + length
            self._need = 4
        del buffer[:at]
        return out


def _unit(data: bytes) -> Item:
    if data[0] != 0x7B:  # "{"
        return Lines(data)
    try:
        return decode_frame(data, datagram=False)
    except FrameError as error:
        return error


def encode_unit(data: bytes) -> bytes:
    """`data` with its length before it. Raises ValueError beyond the limits of a unit."""
    if not 1 <= len(data) <= MAX_UNIT:
        raise ValueError(f"a unit has 1 to {MAX_UNIT} bytes, not {len(data)}")
    return len(data).to_bytes(4, "little") + data


def encode_ack(upto: int, refused: Iterable[tuple[int, str]] = (), n: int | None = None) -> bytes:
    """One acknowledgement, a JSON object: every seq up to `upto` is stored, or `refused` (seq, reason). `n`: every
    point before it is stored, where that is said.
    """
    answer: dict[str, Any] = {"ack": upto}
    if named := [{"seq": seq, "reason": reason} for seq, reason in refused]:
        answer["refused"] = named
    if n is not None:
        answer["n"] = n
    return msgspec.json.encode(answer)


def encode_again(seconds: float) -> bytes:
    """The answer that says: nothing more is taken on this connection, come back after so many seconds."""
    return msgspec.json.encode({"again": round(seconds, 3)})
