"""Exceptions: chains, frames, variables, secrets, and that they always fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

import sendoff
from sendoff.content.fingerprint import custom
from sendoff.content.payload import exception
from sendoff.content.scrub import HIDDEN, Scrubber
from sendoff.frame import PAYLOAD_LIMIT
from sendoff.scope import EMPTY
from sendoff.testing import Recorder, recording


@pytest.fixture
def sent() -> Iterator[Recorder]:
    with recording() as recorder:
        yield recorder
        assert recorder.stats()["internal_error"] == 0


def chain(sent: Recorder) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = sent.exceptions[-1]["chain"]
    return found


def charge(cents: int, password: str, card_number: str) -> None:
    note = "Authorization: Bearer abcdefghijklmnop"
    raise ValueError(f"cannot charge {cents} ({note[:13]})")


def test_an_exception_has_its_frames_source_and_variables(sent: Recorder) -> None:
    try:
        charge(4900, "hunter2", "4111 1111 1111 1111")
    except ValueError:
        event_id = sendoff.capture_exception()
    got = sent.one("ValueError")
    assert got["id"] == event_id
    assert got["chain"][0]["type"] == "ValueError"
    assert got["chain"][0]["message"] == "cannot charge 4900 (Authorization)"
    outer, inner = got["chain"][0]["frames"]
    assert outer["func"] == "test_an_exception_has_its_frames_source_and_variables"
    assert inner["func"] == "charge"
    assert inner["module"] == __name__
    assert inner["in_app"] is True
    assert inner["code"].strip().startswith("raise ValueError")
    assert inner["pre"][-1].strip().startswith("note =")
    assert len(inner["pre"]) <= 5
    assert inner["vars"] == {
        "cents": "4900",
        "password": HIDDEN,
        "card_number": HIDDEN,
        "note": f"'Authorization: {HIDDEN}'",
    }


def test_causes_contexts_and_members_are_linked_in_order(sent: Recorder) -> None:
    def fail() -> None:
        try:
            raise KeyError("first")
        except KeyError as first:
            try:
                raise OSError("second")
            except OSError as second:
                raise ExceptionGroup("group", [ValueError("a"), TypeError("b")]) from (second if first else None)

    with pytest.raises(ExceptionGroup) as raised:
        fail()
    sendoff.capture_exception(raised.value)
    assert [(e["type"], e.get("parent"), e.get("link")) for e in chain(sent)] == [
        ("ExceptionGroup", None, None),
        ("OSError", 0, "cause"),
        ("KeyError", 1, "context"),
        ("ValueError", 0, "member"),
        ("TypeError", 0, "member"),
    ]


def test_a_suppressed_context_is_left_out_and_cycles_end(sent: Recorder) -> None:
    try:
        try:
            raise KeyError("hidden")
        except KeyError:
            raise ValueError("shown") from None
    except ValueError as error:
        sendoff.capture_exception(error)
    assert [e["type"] for e in chain(sent)] == ["ValueError"]
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    sendoff.capture_exception(one)
    assert [e["message"] for e in chain(sent)] == ["one", "two"]


def test_long_chains_and_wide_groups_are_bounded(sent: Recorder) -> None:
    error: BaseException = ValueError("deepest")
    for _ in range(2_000):
        outer = ValueError("x")
        outer.__cause__ = error
        error = outer
    sendoff.capture_exception(error)
    assert len(chain(sent)) == 32
    sendoff.capture_exception(ExceptionGroup("wide", [ValueError(str(n)) for n in range(10_000)]))
    assert len(chain(sent)) == 32


def test_notes_are_kept(sent: Recorder) -> None:
    error = ValueError("x")
    error.add_note("while importing row 7")
    sendoff.capture_exception(error)
    assert chain(sent)[0]["notes"] == ["while importing row 7"]


def test_deep_recursion_leaves_the_middle_out(sent: Recorder) -> None:
    def down(n: int) -> None:
        if n:
            down(n - 1)
        raise ValueError("deep")

    try:
        down(500)
    except ValueError:
        sendoff.capture_exception()
    frames = chain(sent)[0]["frames"]
    assert len(frames) == 100
    assert frames[20] == {"file": "", "line": 0, "func": "… 403 frames left out"}
    assert frames[0]["func"].startswith("test_deep_recursion")
    assert frames[-1]["vars"]["n"] == "0"


def test_a_message_that_cannot_be_made_is_said_to_be_so(sent: Recorder) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

        __repr__ = __str__

    sendoff.capture_exception(Mute())
    assert (
        chain(sent)[0]["message"]
        == f"<unprintable {__name__}.test_a_message_that_cannot_be_made_is_said_to_be_so.<locals>.Mute>"
    )


def test_the_arguments_of_an_exception_are_not_asked_for_their_repr(sent: Recorder) -> None:
    class Lazy:
        def __repr__(self) -> str:
            raise AssertionError("a query would have been run")

    sendoff.capture_exception(KeyError(Lazy()))
    sendoff.capture_exception(ValueError("text", Lazy(), 10**5000))
    assert sent.exceptions[0]["chain"][0]["message"].endswith(".Lazy>")
    assert sent.exceptions[1]["chain"][0]["message"].startswith("(text, <")


def test_an_exception_with_too_much_in_it_is_shed_until_it_fits(sent: Recorder) -> None:
    def fat(n: int) -> None:
        a = b = c = d = e = f = g = h = ["v" * 190] * 10  # noqa: F841
        if n:
            fat(n - 1)
        raise ValueError("m" * 10_000)

    error: BaseException | None = None
    for _ in range(20):
        try:
            try:
                fat(60)
            except ValueError as now:
                if error is not None:
                    now.__cause__ = error
                raise
        except ValueError as now:
            error = now
    assert sendoff.capture_exception(error, fields={"rows": ["r" * 1000] * 200}) is not None
    got = sent.exceptions[-1]
    assert len(json.dumps(got, ensure_ascii=False).encode()) < PAYLOAD_LIMIT + 5_000
    assert got["chain"][0]["frames"]
    assert got["chain"][0]["frames"][-1]["func"].endswith("fat")


def test_even_the_worst_chain_fits() -> None:
    frames = [
        {"file": "\x01" * 1000, "line": 1, "func": "\x01" * 300, "module": "\x01" * 300, "in_app": True}
        for _ in range(100)
    ]
    worst = [
        {"type": "\x01" * 200, "message": "\x01" * 4000, "frames": list(frames), "notes": ["\x01" * 1000] * 16}
        for _ in range(32)
    ]
    raw = exception(EMPTY, Scrubber(), worst, "0" * 32, {"t": "\x01" * 9999}, {"f": "\x01" * 200_000})
    assert len(raw) <= PAYLOAD_LIMIT


def test_the_applications_own_fingerprint_replaces_ours(sent: Recorder) -> None:
    sendoff.capture_exception(ValueError("x"), fingerprint=["billing", "down"])
    assert sent.exceptions[0]["fingerprint"] == custom(["billing", "down"])


def test_without_an_exception_nothing_is_sent(sent: Recorder) -> None:
    assert sendoff.capture_exception() is None
    assert sendoff.capture_exception("no exception") is None  # type: ignore[arg-type]
    assert sent.dropped == {"event.invalid": 2}


def test_modules_can_be_declared_in_and_out_of_the_application() -> None:
    from sendoff.content.chain import Capturer
    from sendoff.settings import Settings

    settings = Settings({"in_app": ["lib"], "not_in_app": ["lib.vendor"], "source": False}, {})
    capturer = Capturer(settings, Scrubber())
    where = {
        "lib.core": "/x/site-packages/lib/core.py",
        "lib.vendor.y": "/x/site-packages/lib/vendor/y.py",
        "other": "/x/site-packages/other.py",
        "json": json.__file__,
        "app": "/srv/app.py",
    }
    found = {module: capturer.place(file, 1, "f", module)["in_app"] for module, file in where.items()}
    assert found == {"lib.core": True, "lib.vendor.y": False, "other": False, "json": False, "app": True}


@pytest.mark.parametrize(
    "name",
    ["password", "userPassword", "PASSWD", "X-Api-Key", "api_key", "apikey", "access_token", "accesstoken",
     "Set-Cookie",
     "Authorization", "card", "cardNumber", "card_number", "client_secret", "sessionid", "session_id", "privateKey",
     "csrfmiddlewaretoken"],
)  # fmt: skip
def test_names_of_secrets_are_known(name: str) -> None:
    assert Scrubber().hides(name)


@pytest.mark.parametrize(
    "name",
    ["discard", "cardinality", "passenger", "tokens_used", "keyboard", "secretary_id", "monkey", "order", "id", ""],
)
def test_names_of_other_things_are_left_alone(name: str) -> None:
    assert not Scrubber().hides(name)


def test_names_can_be_added() -> None:
    scrubber = Scrubber(["iban", "Tax-Id"])
    assert scrubber.hides("customer_iban")
    assert scrubber.hides("tax_id")
    assert not scrubber.hides("urbane")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Authorization: Bearer abcdefgh12345678", f"Authorization: {HIDDEN}"),
        ("postgres://shop:hunter2@db/shop", f"postgres://{HIDDEN}@db/shop"),
        (f"zmq+curve://{'aB3-' * 10}xyz@host:1?server=x", f"zmq+curve://{HIDDEN}@host:1?server=x"),
        (f"https://{'aB3_' * 8}@errors.example/1", f"https://{HIDDEN}@errors.example/1"),
        ("ssh://git@host/shop", "ssh://git@host/shop"),
        ("paid with 4111-1111-1111-1111 today", f"paid with {HIDDEN} today"),
        ("order 4111111111111112", "order 4111111111111112"),
        ("key AKIAIOSFODNN7EXAMPLE.", f"key {HIDDEN}."),
        ("token=abc123def&x=1", f"token={HIDDEN}&x=1"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE", HIDDEN),
        ("nothing to see in 12345", "nothing to see in 12345"),
        ("got {'password': 'hunter2', 'a': 1}", f"got {{'password': '{HIDDEN}', 'a': 1}}"),
        ('got {"api_key": "abc", "a": 1}', f'got {{"api_key": "{HIDDEN}", "a": 1}}'),
        ('{"clientSecret":"a b, c"}', f'{{"clientSecret":"{HIDDEN}"}}'),
        ("PWD = hunter2", f"PWD = {HIDDEN}"),
        ("token='abc'", f"token='{HIDDEN}'"),
        ("authorization: bearer abcdefgh12345678", f"authorization: {HIDDEN}"),
        ("unexpected token: <", "unexpected token: <"),
        ("tokens=12", "tokens=12"),
    ],
)
def test_texts_that_look_like_secrets_are_hidden(text: str, left: str) -> None:
    assert Scrubber().text(text) == left


def test_our_own_frames_show_no_variables_as_an_address_with_its_key_is_among_them(sent: Recorder) -> None:
    try:
        sendoff.init("https:/" + "/".join("key"))
    except sendoff.SettingError as error:
        sendoff.capture_exception(error)
    ours = [frame for frame in chain(sent)[0]["frames"] if frame.get("module", "").startswith("sendoff")]
    assert {frame["func"] for frame in ours} >= {"init", "begin", "Settings.__init__"}
    assert not any("vars" in frame for frame in ours)


@pytest.mark.parametrize(
    "part", ["eyJ-", "://a:", "://abc", "1111 ", "Bearer ", "-----BEGIN ", "token=", "password", "token='"]
)
def test_scrubbing_hostile_text_takes_linear_time(part: str) -> None:
    import time

    text = part * (250_000 // len(part))
    began = time.process_time()
    Scrubber().text(text)
    assert time.process_time() - began < 2


def test_the_applications_own_names_of_secrets_hold_in_messages_too() -> None:
    from sendoff.content.chain import message

    assert "hunter" not in message(KeyError({"salary": "hunter"}), Scrubber(["salary"]))
    assert "hunter" in message(KeyError({"salary": "hunter"}), Scrubber())
