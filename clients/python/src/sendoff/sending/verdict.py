"""What a gateway's answer over HTTP means (protocol/wire-format.md, sections 1 and 6): a decision, and words. Pure.

The words may hold what the peer said; they never hold the key, even if the peer sends it back.
"""

from __future__ import annotations

import json

from sendoff.frame import cut
from sendoff.sending import loading
from sendoff.sending.contract import Gone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sendoff.sending.http_answer import Answer

LONGEST_WAIT = 300.0
"""Seconds that a Retry-After may ask for, at most."""
SET_UP_WRONG = 30.0
"""Seconds to wait where a person has to do something: a wrong key, a wrong address."""
TOO_MUCH = (400, 413, 422)
LATER = (408, 425, 429)


def judge(answer: Answer, where: str, key: str, wall_s: float) -> Gone:
    """The end that an answer other than 200 puts to a request at `where`, at the Unix time `wall_s`. Whether a refused
    request has one frame to blame is not known here.
    """
    status = answer.status
    said = _said(answer, key)
    if status in LATER or status >= 500:
        wait = retry_after(answer.headers.get("retry-after", ""), wall_s)
        asks = "asks to be sent less" if status == 429 else "cannot take the request now"
        return Gone(f"{where} {asks} ({status}){said}", wait=wait)
    if status in TOO_MUCH:
        doubt = "" if is_refusal(answer) else ", though not in a gateway's words: check the address"
        return Gone(f"{where} refused the request ({status}){said}{doubt}")
    return Gone(_set_up(status, where, said), wait=SET_UP_WRONG)


def is_refusal(answer: Answer) -> bool:
    """Whether it holds against what was sent: a gateway says so in JSON, and whatever lies before it may say that
    something is too long. A 400 from anybody else (a server that wants TLS, say) tells nothing about a frame.
    """
    return answer.status == 413 or "json" in answer.headers.get("content-type", "")


def _set_up(status: int, where: str, said: str) -> str:
    if status == 401:
        return f"{where} does not know the key (401): compare it with what `sendoff gateway keys` says{said}"
    if status == 403:
        return f"{where} does not accept the key any more, or not for this (403){said}"
    if 300 <= status < 400:
        return f"{where} redirects ({status}), which is never followed: use the address it leads to"
    if status in (404, 405):
        return f"there is no gateway at {where} ({status}): check the address"
    return f"{where} does not answer as a gateway does ({status}){said}"


def no_gateway(answer: Answer, where: str) -> Gone:
    """For a 200 that is no acknowledgement."""
    kind = answer.headers.get("content-type", "").partition(";")[0]
    what = "a page for people" if kind == "text/html" else "no acknowledgement"
    return Gone(f"{where} is no gateway: it answered with {what}; check the address", wait=SET_UP_WRONG)


def retry_after(value: str, wall_s: float) -> float | None:
    """Seconds of a Retry-After, which has seconds or a date; None if it has neither."""
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), LONGEST_WAIT)
    if not value.endswith("GMT") or len(value) > 40:
        return None
    loading.module("email.utils")
    from email.utils import parsedate_to_datetime

    try:
        return min(max(0.0, parsedate_to_datetime(value).timestamp() - wall_s), LONGEST_WAIT)
    except (ValueError, OverflowError):
        return None


def _said(answer: Answer, key: str) -> str:
    """The peer's own words, of a problem in JSON."""
    if "json" not in answer.headers.get("content-type", ""):
        return ""
    try:
        found = json.loads(bytes(answer.body))
        words = found.get("detail") or found.get("title")
    except (ValueError, AttributeError, RecursionError):
        return ""
    if type(words) is not str or not words:
        return ""
    return f": {cut(words.replace(key, '…') if key else words, 200)}"
