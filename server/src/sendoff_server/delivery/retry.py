"""The decision after a request that did not settle everything: a pure function of what is known.

Three kinds of trouble, by what is at fault (wire format, section 6):
- *this body* (400, 413, 422): its batches alone, then halves, down to one line, which becomes a dead letter. But only
  on evidence: a batch is *proven* to be at fault once the destination has taken something else since it refused this.
  While nothing proves it the fault may be the destination's. So one batch is searched for a line that is accepted, a
  few requests deep, as every batch of a backlog may hold a bad line; lines refused on the way are set aside, never
  buried, and when several are the output is parked and the others stay whole.
- *the set-up* (401, 403, other 3xx and 4xx): the output is parked with an alarm, and one batch at a time probes it.
- *the moment* (408, 425, 429, 5xx, no answer, an answer that makes no sense): wait, with exponential backoff and full
  jitter up to a ceiling; what the destination asks for (Retry-After) holds for all of it. A batch that fails like this
  a few times while it is alone lets others have their turn; once one of them is accepted it is to *blame*, and is
  shelved: tried again by itself for as long as the spool keeps it, in nobody's way, never split, never buried.
"""

from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal

BASE_S = 0.5
CEILING_S = 60.0
"""Backoff: a random part of min(CEILING_S, BASE_S * 2^attempt)."""
FLOOR_S = 0.05
PROBE_BASE_S = 10.0
PROBE_CEILING_S = 300.0
RETRY_AFTER_CEILING_S = 3_600.0
"""No destination can silence an output for longer than this without being asked again."""
ASIDE_TO_PARK = 8
"""This many batches refused alone, with nothing accepted in between, say that the destination is at fault."""
PATIENCE = 3
"""So often one batch is tried in a row before others have their turn."""
SHELF_CEILING_S = 300.0
"""The longest wait of a batch that the destination fails on while it takes others."""
SHELF = 100
"""With so many of these it is the destination that is at fault, and all of it is left alone for a while."""

BODY_REFUSED = frozenset({400, 413, 422})
"""These say that this body is refused; other 4xx and 3xx that every body would be."""

Action = Literal["wait", "again", "turn", "shelve", "alone", "split", "aside", "dead", "park"]
"""Of a bad moment: *wait* says nothing about a batch; *again* counts against the one that was sent, *turn* lets others
go first, *shelve* sets it apart. Of a refusal: *alone*, *split*, *dead*, and *aside* until there is proof."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What a decision rests on. ``status``: of the trouble, None if there was no answer or no sense in it."""

    status: int | None
    retry_after_s: float | None
    attempt: int
    """Requests in a row before this one that brought nothing, or times that this batch was set aside."""
    batches: int
    """Batches in the request that have no definite answer."""
    lines: int
    """Lines of the batch, if it was alone."""
    proven: bool
    """Whether the destination accepted anything since it first refused this batch (or the one it is a piece of)."""
    aside: int
    """How many other refused batches are aside, unproven."""
    parked: bool
    reached: bool = True
    """Whether it had the request; if not, the trouble says nothing about the batches in it."""
    failures: int = 0
    """How often this batch failed before, alone, without being refused."""
    turning: bool = False
    """Whether another one's patience is used up, and others have their turn."""
    blamed: bool = False
    """Whether the destination accepted anything since this batch failed first."""
    shelved: int = 0
    """How many batches are to blame."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with the batches that have no definite answer.

    ``wait_s`` is for the whole destination, but with *aside* and *shelve* for this batch alone; ``pause_s`` is what the
    destination asked for, for all of it, beside that.
    """

    action: Action
    wait_s: float = 0.0
    pause_s: float = 0.0


def decide(situation: Situation, chance: float) -> Decision:
    """What to do. ``chance`` is a random number in [0, 1)."""
    status = situation.status
    if status is None or status in (408, 425, 429) or status >= 500 or status < 300:
        return _moment(situation, chance)
    if status not in BODY_REFUSED:
        return _park(situation, chance)
    if situation.batches > 1:
        return Decision("alone")
    if situation.proven:
        return Decision("split" if situation.lines > 1 else "dead")
    if situation.parked or situation.aside + 1 >= ASIDE_TO_PARK:
        return _park(situation, chance)
    if situation.lines > 1:
        return Decision("split")
    return Decision("aside", probe_s(situation.attempt, situation.retry_after_s, chance))


def _moment(situation: Situation, chance: float) -> Decision:
    wait = wait_s(situation.attempt, situation.retry_after_s, chance)
    if situation.batches > 1 or not situation.reached or situation.status == 429 or situation.parked:
        return Decision("wait", wait)
    if situation.blamed and situation.shelved <= SHELF:
        pause = wait if situation.retry_after_s is not None else 0.0
        return Decision("shelve", shelf_s(situation.failures, chance), pause)
    turn = situation.turning or situation.failures + 1 >= PATIENCE
    return Decision("turn" if turn else "again", wait)


def _park(situation: Situation, chance: float) -> Decision:
    attempt = situation.attempt if situation.parked else 0
    return Decision("park", probe_s(attempt, situation.retry_after_s, chance))


def wait_s(attempt: int, retry_after_s: float | None, chance: float) -> float:
    """Seconds until the next try: exponential with full jitter, never sooner than the destination asked for."""
    backoff = max(FLOOR_S, chance * min(CEILING_S, BASE_S * 2.0 ** min(attempt, 32)))
    return _at_least(backoff, retry_after_s, chance)


def probe_s(attempt: int, retry_after_s: float | None, chance: float) -> float:
    """Seconds until a parked output is probed: between half and all of an exponential up to five minutes."""
    step = min(PROBE_CEILING_S, PROBE_BASE_S * 2.0 ** min(attempt, 32))
    return _at_least(step * (0.5 + chance / 2), retry_after_s, chance)


def shelf_s(failures: int, chance: float) -> float:
    """Seconds until a batch that is to blame is tried again: between half and all of an exponential up to a ceiling."""
    return min(SHELF_CEILING_S, BASE_S * 2.0 ** min(failures, 32)) * (0.5 + chance / 2)


def _at_least(wait: float, retry_after_s: float | None, chance: float) -> float:
    if retry_after_s is None:
        return wait
    asked = min(max(retry_after_s, 0.0), RETRY_AFTER_CEILING_S)
    # A little later than asked, and each at another moment, or all senders come back in the same second.
    return max(wait, asked + chance * min(5.0, 0.1 * asked))


def parse_retry_after(value: str | None, now_s: float) -> float | None:
    """Seconds that a Retry-After header (RFC 9110, 10.2.3: seconds or a date) asks for; None if it cannot be read.

    ``now_s`` is Unix time by the destination's own clock where it gave one.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:12]), RETRY_AFTER_CEILING_S)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return min(max(0.0, at.timestamp() - now_s), RETRY_AFTER_CEILING_S)
