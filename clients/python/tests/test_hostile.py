"""Values that lie, raise, recurse or never end: encoded without running their code, within bounds, as valid JSON."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import linecache
import os
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sendoff
from sendoff import metrics
from sendoff.content.render import shown
from sendoff.content.scrub import HIDDEN, Scrubber
from sendoff.frame import PAYLOAD_LIMIT
from sendoff.testing import Recorder, recording

RAN: list[str] = []


class Hostile:
    """Every piece of code that an encoder might run notes that it ran, and raises."""

    def _run(self, what: str) -> Any:
        RAN.append(what)
        raise RuntimeError(what)

    def __repr__(self) -> str:
        return str(self._run("repr"))

    def __str__(self) -> str:
        return str(self._run("str"))

    def __len__(self) -> int:
        return int(self._run("len"))

    def __iter__(self) -> Any:
        return self._run("iter")

    def __hash__(self) -> int:
        return int(self._run("hash"))

    def __eq__(self, other: object) -> bool:
        return bool(self._run("eq"))

    def __bool__(self) -> bool:
        return bool(self._run("bool"))

    def __getattr__(self, name: str) -> Any:
        return self._run(f"getattr {name}")

    __class__ = property(lambda self: self._run("class"))
    __dict__ = property(lambda self: self._run("dict"))


class HostileStr(str):
    __slots__ = ()

    def __str__(self) -> str:
        RAN.append("str of a str")
        raise RuntimeError

    __repr__ = __str__


class HostileDict(dict[str, Any]):
    def items(self) -> Any:
        RAN.append("items of a dict")
        raise RuntimeError

    __iter__ = __len__ = __repr__ = items


class Meta(type):
    def __getattribute__(cls, name: str) -> Any:
        RAN.append(f"metaclass {name}")
        raise RuntimeError

    def __instancecheck__(cls, instance: object) -> bool:
        RAN.append("instancecheck")
        raise RuntimeError


class WithMeta(metaclass=Meta):
    pass


class Colour(enum.Enum):
    RED = "red"
    NESTED = (1, 2)

    def __str__(self) -> str:
        RAN.append("str of an enum")
        raise RuntimeError


def hostile_values() -> list[Any]:
    endless: list[Any] = []
    endless.append(endless)
    around: dict[str, Any] = {}
    around["around"] = around
    return [
        Hostile(), HostileStr("text"), HostileDict(a=1), WithMeta(), Hostile, WithMeta, endless, around, 10**5000,
        -(10**5000), float("nan"), float("inf"), "\ud800 lone", b"\xff\xfe", bytearray(b"x"), memoryview(b"x"), {1, 2},
        frozenset(), range(10**9),
        iter([1]), (n for n in range(3)), object(), lambda: 1, Colour.RED, Colour.NESTED, 1j, ..., NotImplemented,
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_ran() -> Any:
    RAN.clear()
    yield
    assert RAN == [], "code of the application ran on its own thread"


@pytest.fixture
def sent() -> Any:
    with recording() as recorder:
        yield recorder
        assert recorder.stats()["internal_error"] == 0


@pytest.mark.parametrize("index", range(len(hostile_values())))
def test_a_hostile_value_is_shown_without_running_its_code(sent: Recorder, index: int) -> None:
    value = hostile_values()[index]
    assert sendoff.event("x", value=value, nested={"a": [value]}, after=1)
    assert sent.one("x")["fields"]["after"] == 1
    sendoff.tag(value=value)
    sendoff.set_user(id=value)
    try:
        raise ValueError(value)
    except ValueError:
        local = value  # noqa: F841 - it is to be seen among the local variables
        assert sendoff.capture_exception(fields={"value": value}, tags={"value": value})
    sendoff.increment("x", tag=value)
    sendoff.unique("y", value)


def test_what_hostile_values_become(sent: Recorder) -> None:
    sendoff.event(
        "x", foreign=Hostile(), text=HostileStr("a"), nan=float("nan"), inf=float("-inf"), huge=10**5000, big=2**63,
        lone="a\ud800b", raw=b"\xffa", when=datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
        day=datetime.date(2026, 1, 2), took=datetime.timedelta(seconds=1.5), money=decimal.Decimal("1.10"),
        id=uuid.UUID(int=7), colour=Colour.RED, keys={1: 2, None: 3},
    )  # fmt: skip
    module = Hostile.__module__
    assert sent.one("x")["fields"] == {
        "foreign": f"<{module}.Hostile>",
        "text": f"<{module}.HostileStr>",
        "nan": "NaN",
        "inf": "-Infinity",
        "huge": "<int of 16610 bits>",
        "big": "9223372036854775808",
        "lone": "a?b",
        "raw": "\ufffda",
        "when": "2026-01-02T03:04:05+00:00",
        "day": "2026-01-02",
        "took": 1.5,
        "money": "1.10",
        "id": "00000000-0000-0000-0000-000000000007",
        "colour": "red",
        "keys": {"1": 2, "": 3},
    }


def test_a_timezone_of_the_applications_own_is_not_asked(sent: Recorder) -> None:
    class Zone(datetime.tzinfo):
        def utcoffset(self, moment: datetime.datetime | None) -> datetime.timedelta:
            RAN.append("utcoffset")
            raise RuntimeError

        dst = utcoffset

        def tzname(self, moment: datetime.datetime | None) -> str:
            raise RuntimeError

    sendoff.event("x", when=datetime.datetime(2026, 1, 2, tzinfo=Zone()))
    assert sent.one("x")["fields"] == {"when": "2026-01-02T00:00:00"}


def test_nesting_ends_where_the_protocol_says(sent: Recorder) -> None:
    value: Any = 1
    for _ in range(30):
        value = {"a": value}
    sendoff.event("x", a=value)
    fields, depth = sent.one("x")["fields"], 1
    while isinstance(fields, dict):
        fields, depth = fields["a"], depth + 1
    assert (depth, fields) == (8, "{…}")


@pytest.mark.parametrize(
    "fields", [{"text": "x" * 300_000}, {"text": "é" * 140_000}, {"many": list(range(100_000))}, {"k" * 300_000: 1}]
)
def test_an_event_that_is_too_long_is_dropped_and_counted(sent: Recorder, fields: dict[str, Any]) -> None:
    assert sendoff.event("x", **fields) is None
    assert sent.dropped == {"event.too_long": 1}


def test_a_name_that_is_no_name_is_dropped_and_counted(sent: Recorder) -> None:
    for name in ("", None, 7, Hostile(), b"x"):
        assert sendoff.event(name) is None  # type: ignore[arg-type]
    sendoff.event("n\n" * 500)
    assert sent.dropped == {"event.invalid": 5}
    assert sent.events[0]["name"] == "n_" * 100


def test_points_with_values_that_are_no_numbers_are_dropped_and_counted(sent: Recorder) -> None:
    bad: list[Any] = ["7", None, Hostile(), float("nan"), float("inf"), 10**400, 1e250, b"1", [], 1j, HostileStr("1")]
    for value in bad:
        sendoff.increment("x", value)
    for name in ("", None, "n" * 513, Hostile()):
        sendoff.increment(name)  # type: ignore[arg-type]
    for rate in (0, -1, float("nan"), "1", None, 1e-7):
        sendoff.increment("x", rate=rate)  # type: ignore[arg-type]
    for member in ("", None, "m" * 513, " "):
        sendoff.unique("x", member)
    assert sent.points == []
    assert sent.dropped == {"metric.invalid": len(bad) + 4 + 6 + 4}
    RAN[:] = [what for what in RAN if what not in ("getattr __float__",)]


def test_numbers_of_every_kind_are_taken(sent: Recorder) -> None:
    class Count(int):
        def __int__(self) -> int:
            RAN.append("int")
            raise RuntimeError

    numbers: list[Any] = [True, Count(3), decimal.Decimal("1.5"), 2**60, -0.0]
    for value in numbers:
        sendoff.increment("x", value)
    assert [point.value for point in sent.points] == [1, 3, 1.5, float(2**60), -0.0]


def test_a_dictionary_that_another_thread_changes_never_raises(sent: Recorder) -> None:
    shared: dict[str, Any] = {str(n): n for n in range(100)}
    done = threading.Event()

    def change() -> None:
        n = 0
        while not done.is_set():
            n += 1
            shared[str(n % 1000)] = n
            shared.pop(str((n * 7) % 1000), None)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(300):
            assert sendoff.event("x", shared=shared) is not None
    finally:
        done.set()
        thread.join()


def test_a_stack_that_is_nearly_full_raises_nothing_of_ours(sent: Recorder) -> None:
    def deep(left: int) -> None:
        if left:
            deep(left - 1)
        else:
            sendoff.event("deep")
            sendoff.increment("deep")

    limit = sys.getrecursionlimit()
    for left in range(limit - 150, limit):
        try:
            deep(left)
        except RecursionError as error:
            trace = error.__traceback__
            assert trace is not None
            while trace.tb_next is not None:
                trace = trace.tb_next
            code = trace.tb_frame.f_code  # with no room for a single call the caller's own limit is what it meets
            assert "sendoff/__init__" in code.co_filename or code is deep.__code__
            break
    assert sent.stats()["internal_error"] == sent.outbox.tally.full_stack > 0
    sent.outbox.tally.full_stack = 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.builds(object),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.none(), inner) | st.tuples(inner),
    max_leaves=30,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(), json_values))
def test_whatever_the_fields_the_payload_is_json_of_bounded_depth(fields: dict[str, Any]) -> None:
    with recording() as sent:
        sendoff.event("x", **{key: value for key, value in fields.items() if key})
        for event in sent.events:
            json.dumps(event, allow_nan=False).encode()
        assert sent.stats()["internal_error"] == 0


@settings(max_examples=150, deadline=None)
@given(json_values)
def test_a_local_variable_is_shown_in_bounded_text(value: Any) -> None:
    assert len(shown(value, Scrubber())) <= 1_100


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1), st.text(), st.text(), st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_whatever_the_names_a_line_is_one_line_of_the_emitted_form(
    name: str, key: str, value: str, number: float
) -> None:
    with recording() as sent:
        sendoff.gauge(name, number, **{key: value})
        for point in sent.points:
            assert point.name
            assert not set(point.name) & set(":|@#,;[] \n\r\t")
            for tag in point.tags:
                assert not set(tag) & set("|,\n\r")
                assert len(tag.encode()) <= 512
    assert PAYLOAD_LIMIT == 262_144


def test_long_names_and_values_of_tags_are_not_remembered(sent: Recorder) -> None:
    before = len(metrics._known)
    sendoff.increment("x", path="/" * 100_000)
    sendoff.increment("x", **{"k" * 100_000: 1})
    sendoff.increment("x", number=10**10_000)
    assert len(sent.points) == 3
    assert len(metrics._known) == before


def test_wide_and_deep_variables_cost_the_caller_little(sent: Recorder) -> None:
    wide = [[[f"token=abcdefgh {i} {j} {k} " * 10 for k in range(10)] for j in range(10)] for i in range(10)]

    def down(left: int) -> None:
        a = b = c = d = e = f = g = h = i = j = k = l = m = n = o = p = q = r = s = t = wide  # noqa: E741, F841
        down(left - 1) if left else 1 / 0

    with pytest.raises(ZeroDivisionError) as raised:
        down(30)
    began = time.process_time()
    assert sendoff.capture_exception(raised.value) is not None
    assert time.process_time() - began < 2, "rendering all of it took half a minute"
    frames = sent.exceptions[0]["chain"][0]["frames"]
    assert len(frames[-1]["vars"]) == 23, "the innermost frame has all of them"


def test_a_pair_with_the_name_of_a_secret_hides_what_it_names(sent: Recorder) -> None:
    headers = [(b"host", b"shop"), (b"cookie", b"session=abc"), ["Authorization", "Basic abc"]]
    sendoff.event("x", headers=headers)
    assert sent.events[0]["fields"]["headers"] == [["host", "shop"], ["cookie", HIDDEN], ["Authorization", HIDDEN]]
    assert shown(headers, Scrubber()) == (f"[(b'host', b'shop'), (b'cookie', {HIDDEN}), ['Authorization', {HIDDEN}]]")


def test_source_is_only_read_from_regular_files_and_never_asked_of_a_loader(sent: Recorder, tmp_path: Path) -> None:
    class Loader:
        def get_source(self, name: str) -> str:
            RAN.append("get_source")
            raise RuntimeError

    pipe = tmp_path / "pipe.py"
    os.mkfifo(pipe)  # opening it would wait for a writer
    for file in (str(pipe), "/nowhere/lazy.py"):
        space: dict[str, Any] = {"__name__": "lazy", "__loader__": Loader()}
        exec(compile("def fail(): 1 / 0", file, "exec"), space)
        linecache.lazycache(file, space)
        try:
            space["fail"]()
        except ZeroDivisionError:
            assert sendoff.capture_exception() is not None
        assert "code" not in sent.exceptions[-1]["chain"][0]["frames"][-1]


def test_builtin_values_of_a_fingerprint_count_as_their_text(sent: Recorder) -> None:
    for own in (["order", 17], ["order", 18], ["order", "18"]):
        sendoff.capture_exception(ValueError("x"), fingerprint=own)  # type: ignore[arg-type]
    first, second, third = (got["fingerprint"] for got in sent.exceptions)
    assert first != second == third
