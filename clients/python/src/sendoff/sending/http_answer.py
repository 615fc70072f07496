"""An answer of HTTP/1.1 (RFC 9112), read from bytes in any chunking and bounded in every direction. Pure.

It is strict: what two readers could understand differently is refused, as is an answer that is compressed although
none was asked for.
"""

from __future__ import annotations

HEAD_LIMIT = 32_768
"""Bytes of status lines and header fields, of interim answers (1xx) as well."""
BODY_LIMIT = 1_048_576
CHUNKS_LIMIT = 262_144
"""Bytes of the lines between and after chunks: a body in single bytes costs its sender more than us."""

_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_HEX = frozenset(b"0123456789abcdefABCDEF")


class AnswerError(ValueError):
    """What came is no answer of HTTP, or not one that is taken; the connection is of no use any more."""


class Answer:
    """Give it bytes by `feed` until it is `done`; `end` when no more come. `to_connect`: a proxy's answer to CONNECT,
    which has no body if it is a yes.

    `status`, and `headers` by their lower-case names (several of one name joined by commas), are there once the body
    begins. `keep`: the connection may carry another request.
    """

    __slots__ = (
        "_chunked",
        "_expect",
        "_left",
        "_overhead",
        "_rest",
        "_scanned",
        "_to_connect",
        "body",
        "done",
        "headers",
        "keep",
        "status",
    )

    def __init__(self, *, to_connect: bool = False) -> None:
        self._to_connect = to_connect
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.done = False
        self.keep = False
        self._rest = bytearray()
        self._scanned = 0
        self._expect = "status"
        self._left: int | None = None
        """Bytes of the body, or of the chunk, that are still to come; None: all until the end."""
        self._chunked = False
        self._overhead = 0

    @property
    def begun(self) -> bool:
        """Whether anything has come."""
        return self._expect != "status" or bool(self._rest)

    def feed(self, data: bytes) -> None:
        """Take what has come. Raises `AnswerError`."""
        self._rest += data
        while not self.done and (self._take_body() if self._expect == "body" else self._take_line()):
            pass
        if self.done and self._rest:
            self.keep = False  # nothing was asked to which this could be an answer

    def end(self) -> None:
        """The peer has ended the connection in order. Raises `AnswerError` if that is too early."""
        if not self.done and self._expect == "body" and self._left is None:
            self.done = True
        if not self.done:
            raise AnswerError("the connection ended in the middle of the answer")

    def _take_line(self) -> bool:
        end = self._rest.find(b"\r\n", max(0, self._scanned - 1))
        self._scanned = len(self._rest)
        in_head = self._expect in ("status", "header")
        if self._overhead + (len(self._rest) if end < 0 else end + 2) > (HEAD_LIMIT if in_head else CHUNKS_LIMIT):
            raise AnswerError("the head of the answer is too long" if in_head else "the answer is in too small chunks")
        if end < 0:
            if self._expect == "status" and not b"HTTP/1.".startswith(self._rest[:7]):
                raise AnswerError("the answer is not HTTP")
            return False
        line = bytes(self._rest[:end])
        del self._rest[: end + 2]
        self._scanned = 0
        self._overhead += end + 2
        {
            "status": self._status_line,
            "header": self._header_line,
            "size": self._size_line,
            "after": self._after_chunk,
            "trailer": self._trailer_line,
        }[self._expect](line)
        return True

    def _status_line(self, line: bytes) -> None:
        version, _, rest = line.partition(b" ")
        code = rest[:3]
        if version not in (b"HTTP/1.1", b"HTTP/1.0") or not code.isdigit() or rest[3:4] not in (b"", b" "):
            raise AnswerError("the answer is not HTTP")
        self.status = int(code)
        self.keep = version == b"HTTP/1.1"
        self.headers = {}
        self._expect = "header"

    def _header_line(self, line: bytes) -> None:
        if not line:
            self._head_ends()
            return
        name, colon, value = line.partition(b":")
        if not (colon and name and _TOKEN.issuperset(name)) or b"\n" in value or b"\r" in value or b"\0" in value:
            raise AnswerError("a line of the answer's head is no header field")
        key, text = name.decode().lower(), value.strip(b" \t").decode("latin-1")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def _head_ends(self) -> None:
        if self.status == 101 or self.status < 100:
            raise AnswerError(f"the answer has the status {self.status}, which nobody asked for")
        if self.status < 200:
            self._expect = "status"
            return
        headers = self.headers
        if headers.get("content-encoding", "").lower() not in ("", "identity"):
            raise AnswerError("the answer is compressed, although none was asked for")
        self.keep = self.keep and "close" not in headers.get("connection", "").lower().replace(" ", "").split(",")
        self._chunked = "transfer-encoding" in headers and not self._says_yes
        self._left = self._length()
        self.keep = self.keep and (self._chunked or self._left is not None)
        self._overhead = 0
        self._expect = "size" if self._chunked else "body"
        self.done = not self._chunked and self._left == 0

    @property
    def _says_yes(self) -> bool:
        return self._to_connect and self.status // 100 == 2

    def _length(self) -> int | None:
        headers = self.headers
        if self.status in (204, 304) or self._says_yes:
            return 0
        if "transfer-encoding" in headers:
            if headers["transfer-encoding"].lower() != "chunked" or "content-length" in headers:
                raise AnswerError("the answer's length cannot be known")
            return None
        if "content-length" not in headers:
            return None
        lengths = {part.strip() for part in headers["content-length"].split(",")}
        length = lengths.pop()
        if lengths or not (length.isascii() and length.isdigit()) or len(length) > 15:
            raise AnswerError("the answer's length cannot be known")
        if int(length) > BODY_LIMIT:
            raise AnswerError("the answer is too long")
        return int(length)

    def _take_body(self) -> bool:
        """What there is of the body. True if a line of a chunked body comes next."""
        rest, left = self._rest, self._left
        piece = rest if left is None else rest[:left]
        self.body += piece
        del rest[: len(piece)]
        if len(self.body) > BODY_LIMIT:
            raise AnswerError("the answer is too long")
        if left is None:
            return False
        self._left = left - len(piece)
        if self._left:
            return False
        if self._chunked:
            self._expect = "after"
        else:
            self.done = True
        return self._chunked

    def _size_line(self, line: bytes) -> None:
        digits = line.partition(b";")[0].strip(b" \t")
        if not digits or len(digits) > 12 or not _HEX.issuperset(digits):
            raise AnswerError("a chunk of the answer has no length")
        self._left = int(digits, 16)
        if len(self.body) + self._left > BODY_LIMIT:
            raise AnswerError("the answer is too long")
        self._expect = "body" if self._left else "trailer"

    def _after_chunk(self, line: bytes) -> None:
        if line:
            raise AnswerError("a chunk of the answer is longer than it says")
        self._expect = "size"

    def _trailer_line(self, line: bytes) -> None:
        self.done = not line

    def __repr__(self) -> str:
        return f"Answer(status={self.status}, body={len(self.body)}, done={self.done}, keep={self.keep})"
