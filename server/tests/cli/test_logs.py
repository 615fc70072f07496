"""The log stays readable under repeats, and never holds up or breaks who logs."""

import io
import json
import logging
import threading
from typing import Any

import pytest

from sendoff_server.process.logs import Logs, TextFormatter, json_formatter, logging_to
from sendoff_server.process.repeats import Repeats


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def record(message: str, *args: Any, name: str = "a") -> logging.LogRecord:
    return logging.LogRecord(name, logging.WARNING, __file__, 1, message, args, None)


def test_repeats_are_held_back_and_counted_with_the_next_one_after_the_window() -> None:
    clock = Clock()
    repeats = Repeats(clock, burst=2, window_s=10)
    assert [repeats.filter(record("refused %d", number)) for number in range(5)] == [True, True, False, False, False]
    clock.now = 10
    late = record("refused %d", 5)
    assert repeats.filter(late)
    assert late.getMessage() == "refused 5 (and 3 more like it before)"


def test_repeats_that_nothing_follows_are_told_once_their_window_is_over() -> None:
    clock = Clock()
    repeats = Repeats(clock, burst=1, window_s=10)
    for _ in range(4):
        repeats.filter(record("full"))
    assert list(repeats.overdue()) == []
    clock.now = 10
    assert [each.getMessage() for each in repeats.overdue()] == ["3 more like this were not shown: full"]
    assert list(repeats.overdue()) == []


def test_other_messages_loggers_and_levels_are_not_held_back() -> None:
    repeats = Repeats(Clock(), burst=1)
    assert repeats.filter(record("x"))
    assert repeats.filter(record("y"))
    assert repeats.filter(record("x", name="b"))
    assert not repeats.filter(record("x"))


def test_memory_for_repeats_is_bounded_and_no_count_is_forgotten() -> None:
    repeats = Repeats(Clock(), burst=1, most_kinds=10)
    for number in range(1000):
        repeats.filter(record(f"message {number}"))
        repeats.filter(record(f"message {number}"))
    assert len(repeats._seen) == 10
    assert len(list(repeats.overdue(everything=True))) == 1000


def test_a_message_whose_arguments_do_not_fit_is_still_written() -> None:
    stream = io.StringIO()
    logs = Logs(stream, TextFormatter())
    logs.handle(record("%d apples", "three"))
    logs.finish(5)
    assert "%d apples (its arguments do not fit" in stream.getvalue()


class Rude:
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


def test_an_argument_that_cannot_be_shown_hurts_nobody_not_even_as_a_repeat() -> None:
    stream = io.StringIO()
    logs = Logs(stream, TextFormatter())
    logs.handle(record("a guest: %s", Rude()))
    logs.handle(record("the next"))
    logs.finish(5)
    assert "a guest: %s (its arguments do not fit" in stream.getvalue()
    assert "the next" in stream.getvalue()
    clock = Clock()
    repeats = Repeats(clock, burst=1, window_s=10)
    assert [repeats.filter(record("a guest: %s", Rude())) for _ in range(3)] == [True, False, False]
    clock.now = 10
    late = record("a guest: %s", Rude())
    assert repeats.filter(late)
    assert "and 2 more like it before" in late.getMessage()


def test_a_full_queue_loses_lines_counts_them_and_never_blocks() -> None:
    class Stuck(io.StringIO):
        freed = threading.Event()

        def write(self, text: str) -> int:
            self.freed.wait(30)
            return super().write(text)

    stream = Stuck()
    logs = Logs(stream, TextFormatter(), most_waiting=5)
    for number in range(50):
        logs.handle(record(f"line {number}"))
    assert logs.lost >= 44
    stream.freed.set()
    logs.finish(5)
    logs.tick()
    assert stream.getvalue().count("line ") >= 5


@pytest.mark.parametrize("failure", [BrokenPipeError(), KeyError("a fault in a formatter or stream")])
def test_a_write_that_fails_loses_that_line_and_no_other(failure: Exception) -> None:
    class Broken(io.StringIO):
        failures = 1

        def write(self, text: str) -> int:
            if self.failures:
                self.failures -= 1
                raise failure
            return super().write(text)

    stream = Broken()
    logs = Logs(stream, TextFormatter())
    logs.handle(record("first"))
    logs.handle(record("second"))
    logs.finish(5)
    assert "second" in stream.getvalue()
    assert logs.lost == 1


def test_lost_lines_are_told_when_there_is_room_again() -> None:
    stream = io.StringIO()
    logs = Logs(stream, TextFormatter())
    logs.lost = 7
    logs.tick()
    logs.finish(5)
    assert "7 log lines were lost" in stream.getvalue()


def test_json_lines_carry_time_level_logger_message_and_traceback() -> None:
    stream = io.StringIO()
    logs = Logs(stream, json_formatter())
    try:
        raise RuntimeError("why")
    except RuntimeError as error:
        logs.handle(logging.LogRecord("a.b", logging.ERROR, __file__, 1, "bad", None, (RuntimeError, error, None)))
    logs.finish(5)
    line = json.loads(stream.getvalue())
    assert (line["level"], line["logger"], line["message"]) == ("ERROR", "a.b", "bad")
    assert "RuntimeError: why" in line["exc_info"]


def test_what_was_set_up_for_logging_comes_back() -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    with logging_to(io.StringIO(), {"SENDOFF_LOG": "json"}):
        assert root.handlers != before[0]
    assert (root.handlers, root.level) == before


@pytest.mark.parametrize(("wanted", "begins"), [("text", "0123456789"), ("json", "{"), ("", "{"), ("loud", "{")])
def test_the_variable_chooses_the_form(wanted: str, begins: str) -> None:
    stream = io.StringIO()
    with logging_to(stream, {"SENDOFF_LOG": wanted}):
        logging.getLogger("x").info("hello")
    assert stream.getvalue()[0] in begins
    assert ("write text or json" in stream.getvalue()) == (wanted == "loud")
