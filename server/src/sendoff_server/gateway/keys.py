"""Keys: who may send and look. They work on the store's file beside a running gateway, which asks it on every request.

A key is shown once, when it is made; the store keeps its SHA-256 only, or, of one for ZeroMQ, its public half. A
revoked key keeps its row, so that whoever still uses it is told so (403) instead of being a stranger (401).
"""

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import apsw

from sendoff_server.gateway.store.database import open_for_writing, transaction
from sendoff_server.gateway.store.sql import QUERIES

if TYPE_CHECKING:
    from sendoff_server.wire.curve import Pair

PROJECT = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
RESERVED = frozenset({"api", "v1", "static", "healthz", "readyz", "favicon.ico", "robots.txt"})
"""Names that are addresses of the gateway itself."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is listed. Times are Unix ms; ``hint`` is the beginning of the key, or of its public half (``curve``:
    a key for ZeroMQ).
    """

    id: int
    project: str
    hint: str
    created: int
    used: int | None
    revoked: int | None
    curve: bool


@dataclass(frozen=True, slots=True)
class Holder:
    """Whom a presented key belongs to."""

    key: int
    project: int
    project_name: str
    revoked: bool


def create(data_dir: Path, project: str, *, now_ms: int | None = None) -> str:
    """Make a key for ``project`` (begun if it is new) and return it: the only time it is to be seen.

    Raises ``ValueError`` for a project name that cannot be an address, ``StoreError`` when the store cannot be opened.
    """
    key = "sk_" + secrets.token_urlsafe(32)
    _add(data_dir, project, key_hash(key), key[:7], _now(now_ms), curve=False)
    return key


def create_curve(data_dir: Path, project: str, *, now_ms: int | None = None) -> "Pair":
    """As ``create``, for ZeroMQ: the secret of the pair is not kept."""
    from sendoff_server.wire.curve import make_pair, to_text

    pair = make_pair()
    _add(data_dir, project, pair.public, to_text(pair.public)[:7], _now(now_ms), curve=True)
    return pair


def _add(data_dir: Path, project: str, known_by: bytes, hint: str, now: int, *, curve: bool) -> None:
    if not PROJECT.fullmatch(project) or project in RESERVED:
        raise ValueError(
            f"project {project!r}: use 1 to 64 of a-z, 0-9, - and _, beginning with a letter or digit, "
            f"and none of {', '.join(sorted(RESERVED))}"
        )
    db = open_for_writing(data_dir)
    try:
        with transaction(db):
            db.execute(QUERIES["add_project"], (project, now))
            ((number,),) = db.execute(QUERIES["project_id"], (project,))
            db.execute(QUERIES["add_key"], (number, known_by, hint, now, curve))
    finally:
        db.close()


def list_keys(data_dir: Path) -> list[Key]:
    """All keys, oldest first. Raises ``StoreError``."""
    db = open_for_writing(data_dir)
    try:
        return [
            Key(number, project, hint, created, used, revoked, bool(curve))
            for number, project, hint, created, used, revoked, curve in db.execute(QUERIES["list_keys"])
        ]
    finally:
        db.close()


def revoke(data_dir: Path, key_id: int, *, now_ms: int | None = None) -> bool:
    """Take a key's power from the next request on. False when there is no such key or it was revoked before."""
    db = open_for_writing(data_dir)
    try:
        with transaction(db):
            db.execute(QUERIES["revoke_key"], (key_id, _now(now_ms)))
            changed = db.changes()
        return changed == 1
    finally:
        db.close()


def find(db: apsw.Connection, key: str) -> Holder | None:
    """Whose key this is. The look-up is by hash, so its timing tells nothing about the key."""
    presented = key_hash(key)
    for number, project, name, stored, revoked in db.execute(QUERIES["find_key"], (presented,)):
        if hmac.compare_digest(stored, presented):
            return Holder(number, project, name, revoked is not None)
    return None


def find_curve(db: apsw.Connection) -> dict[bytes, Holder]:
    """All keys for ZeroMQ that work, by their public halves."""
    rows = db.execute(QUERIES["curve_keys"])
    return {public: Holder(number, project, name, revoked=False) for public, number, project, name in rows}


def key_hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _now(now_ms: int | None) -> int:
    return time.time_ns() // 1_000_000 if now_ms is None else now_ms
