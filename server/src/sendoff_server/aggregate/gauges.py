"""The last values of gauges: what `+` and `-` start from. They outlive windows and, through the spool, restarts."""

from __future__ import annotations

import json
from math import isfinite
from sys import float_info
from typing import TYPE_CHECKING, NamedTuple

from sendoff_server.aggregate.canonical import number

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sendoff_server.aggregate.contract import GaugeMinus


class State(NamedTuple):
    """The newest value, when it was set, and whether this gauge ever got a `+`."""

    value: float
    at: int
    plus: bool


class Resolved(NamedTuple):
    """What the values of one line come to: absolutes, in order. `unknown`: a relative one had no base but 0."""

    values: list[float]
    plus: bool
    relative: bool
    unknown: bool


class GaugeStates:
    """At most `limit` states by identity; the one that was longest untouched is forgotten first."""

    def __init__(self, stored: Iterable[bytes], limit: int, minus: GaugeMinus) -> None:
        self._limit = limit
        self._minus = minus
        self._states: dict[str, State] = {}
        self._forgotten: set[str] = set()
        for row in stored:
            key, _, text = row.partition(b"\0")
            if state := _read(text):
                self._states[key.decode(errors="replace")] = state
        self._states = dict(sorted(self._states.items(), key=lambda item: item[1].at))  # untouched longest first
        for identity in list(self._states)[: max(0, len(self._states) - limit)]:
            self._forget(identity)

    def __len__(self) -> int:
        return len(self._states)

    def resolve(self, identity: str, steps: Sequence[tuple[bytes, float]], framed: bool) -> Resolved:
        """Work out the values of a line, each given with its first character; changes nothing."""
        state = self._states.get(identity)
        value = state.value if state else None
        plus = state is not None and state.plus
        relative = unknown = False
        values = []
        for sign, step in steps:
            if sign == b"+" or (
                sign == b"-" and not framed and (self._minus == "subtract" or (self._minus == "auto" and plus))
            ):
                relative = True
                unknown = unknown or value is None
                plus = plus or sign == b"+"
                # the sum of two doubles may be infinite, which no snapshot can hold: it stops at the largest
                step = max(-float_info.max, min(float_info.max, (value or 0.0) + step))
            value = step
            values.append(step)
        return Resolved(values, plus, relative, unknown)

    def settle(self, identity: str, resolved: Resolved, at: int, *, stamped: bool) -> None:
        """Remember the last value. `stamped`: it brought its time along; if that is older, only the mark changes.

        What is set as it arrives is the newest, whatever the clock says: that may have been set back.
        """
        old = self._states.pop(identity, None)
        if old is not None and stamped and at < old.at:
            self._states[identity] = old._replace(plus=resolved.plus)
            return
        self._states[identity] = State(resolved.values[-1], at, resolved.plus)
        self._forgotten.discard(identity)
        if len(self._states) > self._limit:
            self._forget(next(iter(self._states)))

    def rows(self, identities: Iterable[str]) -> list[bytes]:
        """The rows to store: those of `identities`, and an empty state for each that was forgotten since."""
        rows = [f"{identity}\0".encode() for identity in sorted(self._forgotten)]
        self._forgotten.clear()
        kept = [(identity, state) for identity in sorted(identities) if (state := self._states.get(identity))]
        return rows + [
            f"{identity}\0[{number(state.value)},{state.at},{int(state.plus)}]".encode() for identity, state in kept
        ]

    def _forget(self, identity: str) -> None:
        del self._states[identity]
        self._forgotten.add(identity)


def _read(text: bytes) -> State | None:
    """A stored state; None for a forgotten one, and for one that is damaged: the agent starts without it."""
    try:
        value, at, plus = json.loads(text)
        state = State(float(value), int(at), bool(plus))
    except (ValueError, TypeError, OverflowError):
        return None
    return state if isfinite(state.value) else None
