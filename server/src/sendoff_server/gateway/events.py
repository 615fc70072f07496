"""An event line of a batch (wire format, section 6): decoded, checked, and what the store wants to know of it. Pure."""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Text = Annotated[str, Meta(max_length=200)]
Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Json = dict[str, Any]

HEAVIEST = 2**31
"""Occurrences that one event stands for at most: no honest one comes near, and SQLite can hold the sums."""
NESTING = 12
"""Levels of ``fields``, ``user`` and ``request``. Agents allow fewer; this keeps what is stored fit to be shown."""
MESSAGE_SHOWN = 1_000


class Frame(msgspec.Struct):
    """One call of a stack."""

    file: str
    line: int
    func: str = ""
    module: str | None = None
    in_app: bool = False
    pre: Annotated[list[str], Meta(max_length=5)] = []
    code: str | None = None
    post: Annotated[list[str], Meta(max_length=5)] = []
    vars: dict[str, str] | None = None


class ChainedException(msgspec.Struct):
    """One exception of a chain; ``parent`` is the index of the one it belongs to."""

    type: Annotated[str, Meta(min_length=1, max_length=1_000)]
    message: str = ""
    frames: Annotated[list[Frame], Meta(max_length=101)] = []
    notes: Annotated[list[str], Meta(max_length=17)] = []
    parent: Annotated[int, Meta(ge=0, le=31)] | None = None
    link: Literal["cause", "context", "member"] | None = None


class Event(msgspec.Struct):
    """One event as a batch carries it."""

    id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:-]{1,100}\Z")]
    kind: Literal["event", "exception"]
    t: Count
    name: Annotated[str, Meta(min_length=1, max_length=200)]
    service: Text = ""
    env: Text = ""
    release: Text = ""
    host: Text = ""
    client: Text | None = None
    seq: Count | None = None
    user: Json | None = None
    tags: dict[str, str] = {}
    fields: Json = {}
    fingerprint: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")] | None = None
    chain: Annotated[list[ChainedException], Meta(min_length=1, max_length=32)] | None = None
    request: Json | None = None
    repeats: Count = 0


_decoder = msgspec.json.Decoder(Event)


class LineError(Exception):
    """A line is refused; the message names the field. ``id`` is the event's where it could be read."""

    def __init__(self, detail: str, event_id: str | None = None) -> None:
        super().__init__(detail)
        self.id = event_id


@dataclass(frozen=True, slots=True)
class Group:
    """What an exception adds to its group."""

    fingerprint: str
    message: str
    place: str
    user: bytes | None


@dataclass(frozen=True, slots=True)
class EventRow:
    """One checked event with its line as it came. ``event`` keeps the plain values only; the line has the rest."""

    event: Event
    line: bytes
    digest: bytes
    group: Group | None

    @property
    def weight(self) -> int:
        """How many occurrences it stands for."""
        return min(1 + self.event.repeats, HEAVIEST)


def read(line: bytes) -> Event:
    """Decode one event. Raises ``LineError``."""
    try:
        return _decoder.decode(line)
    except msgspec.ValidationError as error:
        raise LineError(plain(str(error)), _id_of(line)) from error
    except (ValueError, RecursionError) as error:
        raise LineError(f"not JSON: {error}") from error


def check(line: bytes) -> EventRow:
    """Decode and check one event line. Raises ``LineError`` naming the field that is wrong."""
    event = read(line)
    if line.count(b"{") + line.count(b"[") > NESTING:  # with fewer brackets nothing can be too deep
        for name in ("user", "fields", "request"):
            if not _shallow(getattr(event, name), NESTING):
                raise LineError(f"{name}: nested deeper than {NESTING}", event.id)
    group = None
    if event.kind == "exception":
        if event.fingerprint is None or event.chain is None:
            missing = "fingerprint" if event.fingerprint is None else "chain"
            raise LineError(f"{missing}: missing, though kind is exception", event.id)
        for index, exception in enumerate(event.chain):
            if exception.parent is not None and exception.parent >= index:
                raise LineError(f"chain[{index}].parent: not the index of an exception before it", event.id)
        group = _group(event, event.fingerprint, event.chain)
    # A body of 64 MiB of JSON can be more than a gigabyte of objects, so only one line's are held at a time.
    event.user = event.request = event.chain = None
    event.tags, event.fields = {}, {}
    return EventRow(event, line, digest(line), group)


def digest(*parts: bytes) -> bytes:
    """Sixteen bytes that tell whether content that came under one id is the same."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()


def place(frames: list[Frame]) -> str:
    """Where it happened, in words: the innermost frame of the application, or of all if none is."""
    known = [frame for frame in frames if frame.file]
    chosen = next((frame for frame in reversed(known) if frame.in_app), known[-1] if known else None)
    if chosen is None:
        return ""
    return f"{chosen.file}:{chosen.line}" + (f" in {chosen.func}" if chosen.func else "")


def user_key(user: Json | None) -> bytes | None:
    """Eight bytes of a hash that tell users apart: by their ``id``, else by all that is known of them."""
    if not user:
        return None
    known = user if user.get("id") is None else user["id"]
    return hashlib.blake2b(msgspec.json.encode(known, order="sorted"), digest_size=8).digest()


def _group(event: Event, fingerprint: str, chain: list[ChainedException]) -> Group:
    message = chain[0].message[:MESSAGE_SHOWN]
    return Group(fingerprint, message, place(chain[0].frames)[:MESSAGE_SHOWN], user_key(event.user))


def _shallow(value: object, levels: int) -> bool:
    """Whether containers are nested at most ``levels`` deep. Walks by level: hostile depth must not use the stack."""
    layer = [value]
    for _ in range(levels):
        layer = [item for outer in layer for item in _items(outer)]
        if not layer:
            return True
    return not any(isinstance(item, dict | list) for item in layer)


def _items(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def plain(message: str) -> str:
    """msgspec's message with the field in front: ``chain[0].type: Expected …``."""
    text, _, path = message.partition(" - at `")
    field = path.rstrip("`").removeprefix("$").removeprefix(".")
    return f"{field}: {text}" if field else text


def _id_of(line: bytes) -> str | None:
    try:
        found = msgspec.json.decode(line)
    except (ValueError, RecursionError):
        return None
    known = found.get("id") if isinstance(found, dict) else None
    return known[:100] if isinstance(known, str) else None
