"""Batches as bytes (wire format, section 6): sealed by an agent, read by a gateway. No I/O.

A body comes from anyone who can reach the gateway, so every step of reading it is bounded *before* it costs memory:
frames and members are counted, decompression stops at the limit without going on, and lines are counted while they are
split. What cannot be told apart any more (a broken frame, a header whose count does not fit) refuses the whole body;
what is wrong with one line is the business of whoever looks at the line.
"""

import re
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Compression = Literal["zstd", "gzip", "identity"]

CONTENT_TYPE = "application/x-ndjson"
BATCH_ID = re.compile(r"[A-Za-z0-9_.:/-]{1,200}")

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_HAS_CHECKSUM = 0b100
"""The bit of a zstd frame's descriptor byte (RFC 8878, 3.1.1.1.1) that says a checksum follows."""
_GZIP_STEP = 65_536
"""Compressed bytes handed to zlib at once. What follows a member is copied: this bounds what a tiny member can cost."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Limits of one body (wire format, section 8), in bytes unless said otherwise."""

    raw: int = 8_388_608
    decoded: int = 67_108_864
    batches: int = 64
    line: int = 1_048_576
    header: int = 65_536
    members: int = 1_024
    """zstd frames or gzip members; a body needs one a batch."""
    lines: int = 1_048_576
    """Lines in a body. The shortest legal line has more than 64 bytes, so no legal body comes near."""


_PEEK = 1_024
DEFAULT = BodyLimits()


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch: its header as it came (``batch`` and ``count`` are checked, nothing else) and its lines without LF."""

    header: dict[str, Any]
    lines: list[bytes]

    @property
    def id(self) -> str:
        return str(self.header["batch"])


class BodyError(Exception):
    """The whole body is refused. The attributes are those of the problem that the sender is told.

    ``status`` is the HTTP status: 400 (cannot be read), 413 (too large), 415 (encoding not known), 422 (read, but not a
    sequence of batches).
    """

    def __init__(self, status: int, title: str, detail: str, remedy: str, field: str = "body") -> None:
        super().__init__(f"{title}: {detail}")
        self.status = status
        self.title = title
        self.detail = detail
        self.remedy = remedy
        self.field = field


def encode_batch(header: dict[str, Any], lines: Sequence[bytes], compression: Compression = "zstd") -> bytes:
    """Seal one batch: its header and lines, each ended by LF, compressed as one blob.

    Raises ``ValueError`` when ``header["count"]`` is not the number of lines or a line contains LF: such a batch could
    not be read back.
    """
    if header.get("count") != len(lines):
        raise ValueError(f"header says count {header.get('count')!r} but there are {len(lines)} lines")
    plain = b"".join((msgspec.json.encode(header), b"\n", *(part for line in lines for part in (line, b"\n"))))
    if plain.count(b"\n") != len(lines) + 1:
        raise ValueError("a line contains a line feed")
    return _compress(plain, compression)


def transcode(blob: bytes, compression: Compression) -> bytes:
    """A blob of ``encode_batch`` (zstd) in another compression. Raises ``BodyError`` if it is damaged."""
    if compression == "zstd":
        return blob
    return _compress(decompress(blob, "zstd", DEFAULT), compression)


def decode_body(raw: bytes, encoding: str, limits: BodyLimits = DEFAULT) -> list[Batch]:
    """All batches of a body, in order. ``encoding`` is the Content-Encoding header. Raises ``BodyError``."""
    if len(raw) > limits.raw:
        raise _too_large("on the wire", len(raw), limits.raw)
    data = decompress(raw, encoding, limits)
    if not data:
        raise BodyError(400, "The body is empty", "there is no batch in it", "send 1 to 64 batches")
    return _split(data, limits)


def peek_header(blob: bytes) -> dict[str, Any]:
    """The header of one whole batch in one zstd frame, without decoding the rest. Raises ``ValueError``."""
    start = b""
    try:
        unpack = zstd.ZstdDecompressor()
        start = unpack.decompress(blob, max_length=_PEEK)
        while b"\n" not in start and not unpack.eof and not unpack.needs_input:
            start += unpack.decompress(b"", max_length=_PEEK)
        header = msgspec.json.decode(start.partition(b"\n")[0])
    except (zstd.ZstdError, msgspec.DecodeError) as error:
        raise ValueError(f"no header can be read: {error}") from error
    if not isinstance(header, dict):
        raise ValueError("the header is no object")
    return header


def _compress(plain: bytes, compression: Compression) -> bytes:
    if compression == "zstd":
        options: dict[int, int] = {
            zstd.CompressionParameter.compression_level: 3,
            zstd.CompressionParameter.checksum_flag: 1,
        }
        return zstd.compress(plain, options=options)
    if compression == "gzip":
        packer = zlib.compressobj(6, zlib.DEFLATED, 31)
        return packer.compress(plain) + packer.flush()
    if compression == "identity":
        return plain
    raise ValueError(f"compression {compression!r} is not one of zstd, gzip, identity")


def decompress(raw: bytes, encoding: str, limits: BodyLimits) -> bytes:
    """A body as it was before it was encoded. Raises ``BodyError``, as soon as it is larger than it may be."""
    match encoding.strip().lower():
        case "" | "identity":
            if len(raw) > limits.decoded:
                raise _too_large("decoded", len(raw), limits.decoded)
            return raw
        case "zstd":
            return _unzstd(raw, limits)
        case "gzip" | "x-gzip":
            return _gunzip(raw, limits)
    raise BodyError(
        415,
        "The content encoding is not known",
        f"Content-Encoding is {encoding[:100]!r}",
        "use zstd, gzip or identity",
        "Content-Encoding",
    )


def _unzstd(raw: bytes, limits: BodyLimits) -> bytes:
    """Each frame's end is found first (a walk over block headers), so nothing that follows it is ever copied."""
    out: list[bytes] = []
    total = at = members = 0
    view = memoryview(raw)
    while at < len(raw):
        members = _count_member(members, limits)
        try:
            size = zstd.get_frame_size(view[at:])
        except zstd.ZstdError as error:
            raise _broken("zstd", at, "the frame is cut off, or this is no zstd frame") from error
        frame = view[at : at + size]
        if frame[:4] == _ZSTD_MAGIC:  # the other kind is a skippable frame, which holds no data
            piece = _unzstd_frame(frame, at, limits.decoded - total, limits)
            total += len(piece)
            out.append(piece)
        at += size
    return b"".join(out)


def _unzstd_frame(frame: memoryview, at: int, room: int, limits: BodyLimits) -> bytes:
    if not frame[4] & _HAS_CHECKSUM:
        raise BodyError(
            400,
            "A zstd frame has no checksum",
            f"the frame at byte {at} could be damaged without anyone seeing it",
            "compress with the checksum flag set",
        )
    # No honest frame needs a window beyond the decoded limit; without this a few bytes could ask for 128 MiB.
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 26}
    unpack = zstd.ZstdDecompressor(options=options)
    try:
        piece = unpack.decompress(frame, max_length=room + 1)
    except zstd.ZstdError as error:
        raise _broken("zstd", at, "its checksum is wrong or its data is damaged") from error
    if len(piece) > room:
        raise _too_large("decoded", None, limits.decoded)
    if not unpack.eof:
        raise _broken("zstd", at, "the frame is cut off")
    return piece


def _gunzip(raw: bytes, limits: BodyLimits) -> bytes:
    out: list[bytes] = []
    total = members = begun = 0
    unpack: Any = None
    for step in range(0, len(raw), _GZIP_STEP):
        rest = raw[step : step + _GZIP_STEP]
        end = step + len(rest)
        while rest:
            if unpack is None:
                members, begun, unpack = _count_member(members, limits), end - len(rest), zlib.decompressobj(31)
            try:
                piece = unpack.decompress(rest, limits.decoded - total + 1)
            except zlib.error as error:
                raise _broken("gzip", begun, "it is damaged, or this is no gzip member") from error
            total += len(piece)
            if total > limits.decoded:
                raise _too_large("decoded", None, limits.decoded)
            out.append(piece)
            rest = unpack.unused_data if unpack.eof else unpack.unconsumed_tail
            if unpack.eof:
                unpack = None
    if unpack is not None:
        raise _broken("gzip", begun, "the member is cut off")
    return b"".join(out)


def _split(data: bytes, limits: BodyLimits) -> list[Batch]:
    batches: list[Batch] = []
    at = total = 0
    while at < len(data):
        number = len(batches) + 1
        if number > limits.batches:
            raise BodyError(
                413, "Too many batches", f"a body holds at most {limits.batches}", "send them in several requests"
            )
        header, at = _header(data, at, number, limits)
        count = header["count"]
        total += count
        if total > limits.lines:
            raise BodyError(
                413, "Too many lines", f"a body holds at most {limits.lines}", "send the batches in several requests"
            )
        lines: list[bytes] = []
        for line in range(1, count + 1):
            end = data.find(b"\n", at)
            if end < 0:
                raise BodyError(
                    400,
                    "The body ends too early",
                    f"batch {number} ({header['batch']}) says {count} lines, but line {line} is missing or has no LF",
                    "send the whole batch, each line ended by LF",
                    "count",
                )
            lines.append(data[at:end])
            at = end + 1
        batches.append(Batch(header, lines))
    return batches


def _header(data: bytes, at: int, number: int, limits: BodyLimits) -> tuple[dict[str, Any], int]:
    end = data.find(b"\n", at, at + limits.header + 1)
    if end < 0:
        problem = "is cut off" if len(data) - at <= limits.header else f"is longer than {limits.header} bytes"
        raise _bad_header(number, problem, "header")
    try:
        header = msgspec.json.decode(data[at:end])
    except (ValueError, RecursionError) as error:
        raise _bad_header(number, f"is not JSON ({error})", "header") from error
    if not isinstance(header, dict):
        raise _bad_header(number, "is not a JSON object", "header")
    batch, count = header.get("batch"), header.get("count")
    if not isinstance(batch, str) or not BATCH_ID.fullmatch(batch):
        raise _bad_header(number, "needs a batch id of 1 to 200 characters of A–Z a–z 0–9 - _ . : /", "batch")
    if type(count) is not int or count < 0:
        raise _bad_header(number, "needs the number of lines that follow", "count")
    return header, end + 1


def _count_member(members: int, limits: BodyLimits) -> int:
    if members >= limits.members:
        raise BodyError(
            413,
            "Too many compressed parts",
            f"the body has more than {limits.members} zstd frames or gzip members",
            "compress each batch as one",
        )
    return members + 1


def _bad_header(number: int, problem: str, field: str) -> BodyError:
    return BodyError(
        422,
        "A batch's header cannot be read",
        f"the header of batch {number} {problem}",
        "a header line begins a batch exactly where the one before has had its count of lines",
        field,
    )


def _broken(what: str, at: int, problem: str) -> BodyError:
    return BodyError(
        400,
        f"The body is not good {what}",
        f"at byte {at}: {problem}",
        "check what the body passed on its way; send the batches one by one to find the damaged one",
    )


def _too_large(where: str, size: int | None, limit: int) -> BodyError:
    detail = f"{size:,} bytes {where}" if size is not None else f"more than {limit:,} bytes {where}"
    return BodyError(413, "The body is too large", f"{detail}; at most {limit:,}", "send fewer batches at once")
