"""Event lines: what is added, what is hidden, ids; and how many points a payload holds."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from sendoff_server.aggregate import Found
from sendoff_server.intake.events import event_line, found_line, make_id
from sendoff_server.intake.points import count_points
from sendoff_server.intake.scrub import HIDDEN, hides, scrub, scrub_address
from sendoff_server.spool import ClientState
from sendoff_server.wire.frame import decode_frame

from .support import frame, uuid7

STATE = ClientState("a" * 32, service="shop", env="prod", release="7", host="web-1")


def line_of(kind: str, body: dict[str, Any]) -> dict[str, Any]:
    decoded = decode_frame(frame("a" * 32, kind, body, seq=3), datagram=False)
    found: dict[str, Any] = json.loads(event_line(decoded, STATE))
    return found


def test_an_event_line_has_the_keys_of_the_wire_format_in_their_order() -> None:
    assert line_of("event", {"name": "order.placed", "fields": {"total": 12.5}}) == {
        "id": uuid7(3), "kind": "event", "t": 1_700_000_000_000, "service": "shop", "env": "prod", "release": "7",
        "host": "web-1", "client": "a" * 32, "seq": 3, "name": "order.placed", "user": None, "tags": {},
        "fields": {"total": 12.5},
    }  # fmt: skip


def test_an_exception_line_is_complete_where_the_client_left_things_out() -> None:
    found = line_of("exception", {"name": "E", "fingerprint": "a" * 32, "chain": [{"type": "E"}]})
    assert found["chain"] == [{"type": "E", "message": "", "frames": [], "notes": []}]
    assert (found["fingerprint"], found["request"], found["repeats"]) == ("a" * 32, None, 0)


def test_secrets_are_hidden_in_fields_user_tags_request_and_locals() -> None:
    trace = [{"file": "a.py", "line": 1, "vars": {"password": "hunter2", "n": "1"}}]
    found = line_of(
        "exception",
        {
            "name": "E",
            "fingerprint": "a" * 32,
            "user": {"id": 1, "session": {"accessToken": "hunter2"}},
            "tags": {"api_key": "hunter2"},
            "fields": {"deep": [{"secret": {"x": "hunter2"}}]},
            "chain": [{"type": "E", "frames": trace}],
            "request": {"url": "/x?token=hunter2&a=1", "query": "a=1&api-key=hunter2",
                        "headers": {"Authorization": "hunter2", "Cookie": "hunter2", "Accept": "*/*"}},
        },
    )  # fmt: skip
    text = json.dumps(found)
    assert "hunter2" not in text
    assert text.count(HIDDEN) == 8
    assert found["request"]["url"] == f"/x?token={HIDDEN}&a=1"
    assert found["request"]["headers"]["Accept"] == "*/*"
    assert found["chain"][0]["frames"][0]["vars"]["n"] == "1"


SECRETS = "password userPassword PASSWD X-Api-Key apiKey csrftoken access_token Set-Cookie client.secret"
HARMLESS = "tokens_used tokenizer secretary author key api pass"


@pytest.mark.parametrize("name", SECRETS.split())
def test_these_names_are_secrets(name: str) -> None:
    assert hides(name)


@pytest.mark.parametrize("name", [*HARMLESS.split(), "", "x" * 5_000])
def test_these_are_not(name: str) -> None:
    assert not hides(name)


def test_scrubbing_leaves_other_values_alone() -> None:
    value = {"a": [1, {"b": None}], "token": None, "c": "token"}
    assert scrub(json.loads(json.dumps(value))) == value
    assert scrub_address("no parameters") == "no parameters"


def test_a_found_event_gets_service_and_host_and_no_client() -> None:
    found = Found("event", "deploy", {"text": "done", "secret": "x"}, {"service": "shop", "env": "prod"}, None, None)
    assert json.loads(found_line(found, uuid7(1), 99, None, "web-1")) == {
        "id": uuid7(1), "kind": "event", "t": 99, "service": "shop", "env": "prod", "release": "", "host": "web-1",
        "name": "deploy", "user": None, "tags": {"service": "shop", "env": "prod"},
        "fields": {"text": "done", "secret": HIDDEN},
    }  # fmt: skip


def test_ids_are_uuids_of_version_7_that_begin_with_the_time() -> None:
    made = make_id(0x01939C5A7C00, bytes(range(10)))
    assert re.fullmatch(r"01939c5a-7c00-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", made)
    assert make_id(1, b"\xff" * 10) == "00000000-0001-7fff-bfff-ffffffffffff"
    assert make_id(-1, b"\0" * 10).startswith("ffffffff-ffff-7")


@pytest.mark.parametrize(
    ("payload", "points"),
    [
        (b"", 0),
        (b"a:1|c", 1),
        (b"a:1:2:3|d|@0.5|#x:y", 3),
        (b"a:x:y|s", 1),
        (b"a:1|c\nb:2:3|ms\n\nc:1|g", 4),
        (b"a:bad|c", 1),
        (b"no value", 0),
        (b"a:1|c|#url:http://x|y:z", 1),
        (b"_e{5,4}:title|te:xt\na:1|c\n_sc|db|0|h:a", 1),
    ],
)
def test_points_are_counted_as_the_client_counts_them(payload: bytes, points: int) -> None:
    assert count_points(payload) == points
