"""An exception as a chain: its causes, contexts and group members, their frames, source lines and local variables.

Attributes of exceptions are read through the descriptors of `BaseException`, so no property of a subclass runs; the
one piece of foreign code that is run is an exception's own `__str__`, guarded. Everything is bounded.
"""

from __future__ import annotations

import os

from sendoff import guard
from sendoff.content.render import shown, type_name, vars_of
from sendoff.content.scrub import HIDDEN
from sendoff.content.source import lines_around

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Any

    from sendoff.content.scrub import Scrubber
    from sendoff.settings import Settings

CHAIN = 32
FRAMES = 100
OUTER = 20
"""Of those, how many outermost ones are kept when the middle is left out."""
WITH_VARS = 25
"""Innermost frames of an exception that carry local variables."""
VARS = 40
VARS_TOTAL = 200_000
"""Characters of variables in one chain: rendering more would take the caller's time for what is shed afterwards."""
MESSAGE = 4_000
NOTES = 16
NOTE = 1_000
MARK = "_sendoff_id"
"""Set in the exception's dictionary once it was reported, so that integrations report it once."""

_cause = BaseException.__dict__["__cause__"].__get__
_context = BaseException.__dict__["__context__"].__get__
_suppressed = BaseException.__dict__["__suppress_context__"].__get__
_traceback = BaseException.__dict__["__traceback__"].__get__
_args = BaseException.__dict__["args"].__get__
_members = BaseExceptionGroup.__dict__["exceptions"].__get__
_STDLIB = os.path.dirname(os.path.realpath(os.__file__)) + os.sep
_STDLIB_AS_IMPORTED = os.path.dirname(os.__file__) + os.sep
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_PLAIN = (str, int, float, bool, bytes, type(None))


class Room:
    """How many characters of variables one chain may still have."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = VARS_TOTAL


class Capturer:
    """Turns exceptions into chains, by one client's settings."""

    __slots__ = ("_scrubber", "_settings")

    def __init__(self, settings: Settings, scrubber: Scrubber) -> None:
        self._settings = settings
        self._scrubber = scrubber

    def chain(self, error: BaseException) -> list[dict[str, Any]]:
        """The chain of `error`, at most 32 long: each exception, then all below its cause or context, then its
        members.
        """
        found: list[dict[str, Any]] = []
        room = Room()
        seen: set[int] = set()
        todo: list[tuple[BaseException, int | None, str]] = [(error, None, "")]
        while todo and len(found) < CHAIN:
            one, parent, link = todo.pop()
            if id(one) in seen:
                continue
            seen.add(id(one))
            index = len(found)
            item = self._exception(one, room)
            if parent is not None:
                item["parent"] = parent
                item["link"] = link
            found.append(item)
            if issubclass(type(one), BaseExceptionGroup):
                todo += [(member, index, "member") for member in reversed(_members(one)[:CHAIN])]
            cause = _cause(one)
            context = None if cause is not None or _suppressed(one) else _context(one)
            if cause is not None:
                todo.append((cause, index, "cause"))
            elif context is not None:
                todo.append((context, index, "context"))
        return found

    def _exception(self, error: BaseException, room: Room) -> dict[str, Any]:
        item: dict[str, Any] = {
            "type": type_name(type(error)),
            "message": self._scrubber.text(message(error, self._scrubber)),
            "frames": self._frames(_traceback(error), room),
        }
        notes = vars_of(error).get("__notes__")
        if type(notes) is list and notes:
            item["notes"] = [self._scrubber.text(note[:NOTE]) for note in list(notes) if type(note) is str][:NOTES]
        return item

    def _frames(self, trace: TracebackType | None, room: Room) -> list[dict[str, Any]]:
        steps: list[tuple[FrameType, int]] = []
        while trace is not None:
            steps.append((trace.tb_frame, trace.tb_lineno))
            trace = trace.tb_next
        left_out = len(steps) - FRAMES + 1 if len(steps) > FRAMES else 0
        kept = steps if not left_out else steps[:OUTER] + steps[OUTER + left_out :]
        frames = [self._frame(frame, line) for frame, line in kept]
        if self._settings.locals:
            inward = zip(reversed(frames), reversed(kept), range(WITH_VARS), strict=False)
            for described, (frame, _), _ in inward:  # the innermost first, which matter most
                found = self._vars(frame, room)
                if found:
                    described["vars"] = found
        if left_out:
            frames.insert(OUTER, {"file": "", "line": 0, "func": f"… {left_out} frames left out"})
        return frames

    def _frame(self, frame: FrameType, line: int) -> dict[str, Any]:
        code = frame.f_code
        module = frame.f_globals.get("__name__") if type(frame.f_globals) is dict else None
        return self.place(code.co_filename, line or 0, code.co_qualname, module if type(module) is str else "")

    def place(self, file: str, line: int, func: str, module: str) -> dict[str, Any]:
        """A frame without variables."""
        described: dict[str, Any] = {"file": file[:1000], "line": line, "func": func[:300]}
        if module:
            described["module"] = module[:300]
        described["in_app"] = self._in_app(file, module)
        if self._settings.source:
            described.update(lines_around(file, line))
        return described

    def _in_app(self, file: str, module: str) -> bool:
        if _under(module, self._settings.not_in_app):
            return False
        if _under(module, self._settings.in_app):
            return True
        if file.startswith(("<frozen ", _OURS)) or "/site-packages/" in file or "/dist-packages/" in file:
            return False
        return not file.startswith((_STDLIB, _STDLIB_AS_IMPORTED))

    def _vars(self, frame: FrameType, room: Room) -> dict[str, str]:
        # not a function: a module's globals are no locals, a class body's may be any mapping. And in our own frames an
        # address with its key goes from hand to hand
        if not frame.f_code.co_flags & 0x1 or frame.f_code.co_filename.startswith(_OURS):
            return {}
        found: dict[str, str] = {}
        for name, value in list(frame.f_locals.items())[:VARS]:
            if room.left <= 0:
                break
            text = HIDDEN if self._scrubber.hides(name) else shown(value, self._scrubber)
            found[name[:200]] = text
            room.left -= len(text)
        return found


def _under(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in names)


def message(error: BaseException, scrubber: Scrubber) -> str:
    """The text of an exception, at most 4,000 characters.

    Where the class has no `__str__` of its own and its arguments are not all plain, they are rendered here instead:
    `str` would run the `repr` of whatever they are.
    """
    args = _args(error)
    if not all(type(arg) in _PLAIN for arg in args) and not _has_own_str(type(error)):
        texts = [arg if type(arg) is str else shown(arg, scrubber) for arg in args[:10]]
        return (texts[0] if len(args) == 1 else f"({', '.join(texts)})")[:MESSAGE]
    try:
        text = str(error)
    except Exception as wrong:
        if guard.from_signal_handler(wrong):
            raise
        return f"<unprintable {type_name(type(error))}>"
    return str.__str__(text)[:MESSAGE]


def _has_own_str(kind: type) -> bool:
    """Whether a `__str__` written in Python is found before those of the builtin exceptions."""
    for base in type.__dict__["__mro__"].__get__(kind):
        if "__str__" in type.__dict__["__dict__"].__get__(base):
            return type(type.__dict__["__dict__"].__get__(base)["__str__"]) is not type(BaseException.__str__)
    return False


def reported(error: BaseException) -> str | None:
    """The id under which `error` was reported already, or None."""
    found = vars_of(error).get(MARK)
    return found if type(found) is str else None


def mark(error: BaseException, event_id: str) -> None:
    """Remember that `error` was reported."""
    vars_of(error)[MARK] = event_id
