"""``POST /v1/frames``: a request is a connection of one client (wire format, sections 1 and 3). Its answer, after the
commit, is the acknowledgement.
"""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from time import monotonic

from aiohttp import web

from sendoff_server.gateway import access
from sendoff_server.gateway.body import Bodies
from sendoff_server.gateway.direct.direct import Direct
from sendoff_server.gateway.direct.intake import REQUESTS
from sendoff_server.gateway.direct.limits import FULL_S
from sendoff_server.gateway.direct.project import Project
from sendoff_server.gateway.direct.session import BLOCKED_S, DirectSession
from sendoff_server.gateway.keys import Holder
from sendoff_server.gateway.problems import Problem, retry_later
from sendoff_server.gateway.store import Store
from sendoff_server.wire.batch import BodyError, BodyLimits, decompress
from sendoff_server.wire.frame import MAX_UNIT, Frame, FrameError, decode_frame

CONTENT_TYPE = "application/vnd.sendoff.frames"
ENCODINGS = ("", "identity", "gzip", "x-gzip")
LIMITS = BodyLimits(raw=4_194_304, decoded=16_777_216)
MOST_UNITS = 100_000
MOST_WRONG = 1_000
"""Refused units in one request, beyond which it is refused: no client that knows the format makes so many."""
AT_ONCE = 8
"""Decoded bodies that are held at once. The others wait."""
SLICE_S = 0.005
"""How long frames are taken before others have their turn. Those of the last frame come on top: see MOST_POINTS."""
SMALL = 4_096
"""Bytes on the wire that are decompressed on the spot: at worst they become 4 MiB."""
STORE_DEADLINE = 30.0
"""Seconds in which what was taken must be stored. It is stored later, too, but then the client is to ask again."""
SMALLER = "send fewer frames at once"


class Frames:
    def __init__(self, store: Store, direct: Direct) -> None:
        self._store = store
        self._direct = direct
        self._bodies = Bodies(LIMITS.raw, SMALLER)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="gateway-frames")
        self._decoded = asyncio.Semaphore(AT_ONCE)

    def close(self) -> None:
        self._pool.shutdown()

    async def post(self, request: web.Request) -> web.Response:
        holder = await access.sender(request, self._store.keys)
        encoding = _checked(request)
        project = self._direct.project(holder.project)
        if project.blocked:
            raise _cannot_store(project.blocked)
        size = request.content_length or 0
        with self._bodies.reserve(request.content_length, holder.project):
            if wait := project.admit(size):
                raise _too_much(wait)
            raw = await self._bodies.read(request)
            async with project.turns, self._decoded:
                if wait := project.owes(size):
                    raise _too_much(wait)
                data = await self._decompress(raw, encoding)
                project.allowance.spend(len(data) - size)
                session = await self._enter(holder, data)
                del data
        try:
            return web.Response(body=await session.answer(), content_type="application/json")
        finally:
            session.ended(orderly=True)

    async def _enter(self, holder: Holder, data: bytes) -> "RequestSession":
        """Hand over all that is in a body. Raises as `_take` does."""
        project = self._direct.project(holder.project)  # the one of before may be put away by now
        project.use_key(holder.key)
        session = RequestSession(project)
        project.enter(session)
        try:
            await _take(session, data)
        except BaseException:
            session.ended(orderly=False)
            raise
        return session

    async def _decompress(self, raw: bytes, encoding: str) -> bytes:
        if len(raw) <= SMALL:
            return decompress(raw, encoding, LIMITS)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, decompress, raw, encoding, LIMITS)


class _Answer:
    """The way back over HTTP: nothing is said but the last word."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.is_last = False
        self.said = b""

    def reply(self, data: bytes) -> bool:
        self.changed.set()
        if self.is_last:
            self.said = data
        return self.is_last

    def close(self) -> None: ...


class RequestSession(DirectSession):
    """One request."""

    def __init__(self, project: Project) -> None:
        self._answer = _Answer()
        self._later: Problem | None = None
        super().__init__(project, REQUESTS, self._answer)

    def say_later(self, seconds: float) -> None:
        blocked = self._project.blocked
        crowded = not blocked and seconds != BLOCKED_S
        self._later = _too_much(seconds) if crowded else _cannot_store(blocked or "the store does not answer")
        self._answer.changed.set()

    @property
    def is_full(self) -> bool:
        return self._project.allowance.is_full

    async def begun(self) -> None:
        """Wait until the client is known. Raises ``Problem``."""
        await self.opened()
        if self._later is not None:
            raise self._later

    async def answer(self) -> bytes:
        """The acknowledgement, once everything that was taken is stored. Raises ``Problem`` 503."""
        client = self.stored_as
        assert client is not None
        given, n, rounds = client.given, client.live().n, self._project.rounds
        try:
            async with asyncio.timeout(STORE_DEADLINE):
                while self._later is None and not rounds.has_stored(client, given, n):
                    self._answer.changed.clear()
                    await self._answer.changed.wait()
        except TimeoutError:
            raise _cannot_store(f"the disk has not answered for {STORE_DEADLINE:g} s") from None
        if self._later is not None:
            raise self._later
        self._answer.is_last = True
        self.acknowledge()
        return self._answer.said

    def ended(self, *, orderly: bool) -> None:
        self._answer.is_last = True
        self.acknowledge()
        super().ended(orderly=orderly)


async def _take(session: RequestSession, data: bytes) -> None:
    """Hand all frames of a body over. Raises ``Problem``, or ``BodyError`` when it is no sequence of frames."""
    units = list(_units(data))
    wrong = 0
    began = monotonic()
    for number, (start, end) in enumerate(units):
        item = _decode(data[start:end])
        if number == 0:
            _require_hello(item)
        elif isinstance(item, Frame) and item.kind == "hello":
            raise _unreadable(f"frame {number + 1} is another hello; a request has one, at its beginning")
        if isinstance(item, FrameError):
            wrong += 1
            if wrong > MOST_WRONG:
                raise _unreadable(f"more than {MOST_WRONG:,} frames are wrong, the last one: {item}")
        session.take(item)
        if number == 0:
            await session.begun()
        elif session.is_full:
            raise _too_much(FULL_S)  # what was taken of it is a repeat the next time
        elif monotonic() - began > SLICE_S:
            await asyncio.sleep(0)
            began = monotonic()


def _units(data: bytes) -> Iterator[tuple[int, int]]:
    """Where each unit begins and ends. Raises ``BodyError``."""
    at = count = 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        at += 4
        if not 1 <= length <= MAX_UNIT:
            raise _unreadable(f"frame {count + 1} has {length:,} bytes; 1 to {MAX_UNIT:,} are allowed")
        if at + length > len(data):
            raise _unreadable(f"frame {count + 1} is cut off")
        count += 1
        if count > MOST_UNITS:
            raise BodyError(413, "Too many frames", f"a request holds at most {MOST_UNITS:,}", SMALLER)
        yield at, at + length
        at += length
    if not count:
        raise _unreadable("it is empty")


def _decode(data: bytes) -> Frame | FrameError:
    try:
        return decode_frame(data, datagram=False)
    except FrameError as error:
        return error


def _require_hello(item: Frame | FrameError) -> None:
    if isinstance(item, FrameError):
        raise _unreadable(f"its first frame is wrong: {item}")
    if item.kind != "hello":
        raise _unreadable(f"its first frame is of kind {item.kind}; a request begins with a hello")


def _checked(request: web.Request) -> str:
    """The encoding. Raises ``Problem`` 415."""
    if request.content_type != CONTENT_TYPE:
        detail = f"Content-Type is {request.headers.get('Content-Type', 'missing')[:100]!r}"
        raise Problem(415, "The content type is not known", detail, f"send {CONTENT_TYPE}", "Content-Type")
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ENCODINGS:
        detail = f"Content-Encoding is {encoding[:100]!r}"
        raise Problem(415, "The content encoding is not known", detail, "use gzip or identity", "Content-Encoding")
    return encoding


def _unreadable(detail: str) -> BodyError:
    return BodyError(400, "The body is no sequence of frames", detail[:500], "see protocol/wire-format.md, section 1")


def _too_much(seconds: float) -> Problem:
    detail = "this project sends more than it may without an agent ([gateway.direct] in the gateway's settings)"
    return retry_later("Too much at once", detail, max(1, ceil(seconds)), 429)


def _cannot_store(why: str) -> Problem:
    return retry_later("The gateway cannot store", why, int(BLOCKED_S))
