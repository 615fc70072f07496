"""Event lines as the spool keeps them (wire format, section 6): what a frame says, and what is known of its client."""

from typing import Any

import msgspec

from sendoff_server.aggregate import Found
from sendoff_server.intake.scrub import scrub, scrub_address
from sendoff_server.spool import ClientState
from sendoff_server.wire.frame import Frame

_encode = msgspec.json.encode


def event_line(frame: Frame, client: ClientState) -> bytes:
    """The line of a durable frame, scrubbed. Changes the frame's body."""
    body = frame.body or {}
    line: dict[str, Any] = {
        "id": frame.id,
        "kind": frame.kind,
        "t": frame.t,
        "service": client.service,
        "env": client.env,
        "release": client.release,
        "host": client.host,
        "client": frame.client,
        "seq": frame.seq,
        "name": body["name"],
        "user": scrub(body.get("user")),
        "tags": scrub(body.get("tags") or {}),
        "fields": scrub(body.get("fields") or {}),
    }
    if frame.kind == "exception":
        line["fingerprint"] = body["fingerprint"]
        line["chain"] = [_link(link) for link in body["chain"]]
        line["request"] = _request(body.get("request"))
        line["repeats"] = 0
    return _encode(line)


def found_line(found: Found, event_id: str, now_ms: int, client: ClientState | None, host: str) -> bytes:
    """The line of an event or check that a StatsD client sent. `host`: this agent's, where the line names none."""
    tags = scrub(dict(found.tags))
    return _encode(
        {
            "id": event_id,
            "kind": "event",
            "t": now_ms if found.t is None else found.t,
            "service": client.service if client else tags.get("service", ""),
            "env": client.env if client else tags.get("env", ""),
            "release": client.release if client else tags.get("version", ""),
            "host": found.host or host,
            "name": found.name,
            "user": None,
            "tags": tags,
            "fields": scrub(found.fields),
        }
    )


def make_id(now_ms: int, random: bytes) -> str:
    """A UUIDv7 (RFC 9562, 5.7) of a time in Unix ms and ten random bytes."""
    number = (now_ms & (2**48 - 1)) << 80 | int.from_bytes(random[:10], "big")
    number = number & ~(0xF << 76) | 7 << 76
    number = number & ~(3 << 62) | 2 << 62
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _link(link: dict[str, Any]) -> dict[str, Any]:
    link.setdefault("message", "")
    link["frames"] = link.get("frames") or []
    link["notes"] = link.get("notes") or []
    for frame in link["frames"]:
        if frame.get("vars"):
            scrub(frame["vars"])
    return link


def _request(request: dict[str, Any] | None) -> dict[str, Any] | None:
    if not request:
        return request
    for key in ("url", "query"):
        if isinstance(request.get(key), str):
            request[key] = scrub_address(request[key])
    scrub(request)
    return request
