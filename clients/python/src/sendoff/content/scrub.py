"""Secrets: which names hold them, and which texts look like them. Both err on the side of hiding.

A name is split into words (`X-Api-Key`, `userPassword`, `card_number`), so that `card` is hidden and `discard` is not.
"""

from __future__ import annotations

import re
from itertools import pairwise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

HIDDEN = "[scrubbed]"

# fmt: off
WORDS = frozenset((
    "password", "passwords", "passwd", "passphrase", "pwd", "secret", "secrets", "token", "authorization",
    "cookie", "cookies", "csrf", "xsrf", "jwt", "bearer", "credential", "credentials", "apikey", "card",
    "cvv", "cvc", "sessionid", "privatekey", "accesskey", "ssn",
))
# fmt: on
PAIRS = frozenset(
    [
        ("api", "key"),
        ("private", "key"),
        ("access", "key"),
        ("signing", "key"),
        ("encryption", "key"),
        ("session", "id"),
        ("session", "key"),
    ]
)
ENDINGS = ("password", "passwd", "secret", "token", "apikey", "cookie")

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_LOOKS = re.compile(
    r"\b(?i:Bearer|Basic)\s{1,3}[A-Za-z0-9._~+/=-]{8,4096}"
    r"|\beyJ[\w-]{8,300}\.[\w-]{4,4096}(?:\.[\w-]{0,1024})?"
    r"|-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[\s\S]*"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_\w{20,255}|\b[spr]k_(?:live|test)_\w{8,255}|\bsk_[\w-]{43}|\bxox[abprs]-[\w-]{10,255}"
    r"|(?<=://)[^/\s:@]{0,200}:[^/\s@]{1,200}(?=@)|(?<=://)[^/\s:@]{17,200}(?=@)"
)
_NAMED = re.compile(
    r"""((?i:passw(?:or)?d|passphrase|pwd|secret|token|api_?key)"""
    r"""(?:\s?=\s?['"]?|(['"])\s?:\s?['"]))((?(2)[^'"]{1,4096}|[^\s&;,'"]{1,4096}))"""
)
"""`password=…`, `token = "…"`, `'secret': '…'` and `"api_key":"…"`: queries, and dictionaries that became texts."""
_HINTS = ("earer", "asic", "EARER", "ASIC", "eyJ", "PRIVATE KEY", "AKIA", "ASIA", "gh", "k_", "xox", "://")
_CARD = re.compile(r"(?<![\d.])(?:\d[ -]?){12,18}\d(?![\d.])")
_DIGITS = re.compile(r"\d{4}")
_NAMES_KEPT = 2048


class Scrubber:
    """The rules of one client: the built-in words and those of the application."""

    __slots__ = ("_extra", "_known")

    def __init__(self, extra: Iterable[str] = ()) -> None:
        self._extra = frozenset("".join(_words(name)) for name in extra)
        self._known: dict[str, bool] = {}

    def hides(self, name: str) -> bool:
        """Whether what is called `name` is a secret."""
        known = self._known.get(name)
        if known is None:
            known = self._decide(name[:200])
            if len(self._known) >= _NAMES_KEPT:
                self._known.clear()
            self._known[name[:200]] = known
        return known

    def _decide(self, name: str) -> bool:
        words = _words(name)
        joined = "".join(words)
        return (
            not WORDS.isdisjoint(words)
            or any(pair in PAIRS for pair in pairwise(words))
            or joined.endswith(ENDINGS)
            or joined in self._extra
            or not self._extra.isdisjoint(words)
        )

    def text(self, text: str) -> str:
        """`text` with everything replaced that looks like a key, a token, a password or a payment card's number."""
        if len(text) < 8:
            return text
        if any(hint in text for hint in _HINTS):
            text = _LOOKS.sub(HIDDEN, text)
        if "=" in text or ":" in text:
            text = _NAMED.sub(rf"\1{HIDDEN}", text)
        if _DIGITS.search(text):
            text = _CARD.sub(_hide_card, text)
        return text

    def query(self, query: str) -> str:
        """A URL's query string, the values of parameters with hidden names replaced."""
        parts = []
        for part in query.split("&"):
            name, equals, _ = part.partition("=")
            parts.append(f"{name}={HIDDEN}" if equals and self.hides(name) else self.text(part))
        return "&".join(parts)


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)]


def _hide_card(found: re.Match[str]) -> str:
    digits = [int(c) for c in found[0] if c.isascii() and c.isdigit()]
    doubled = [
        digit if place % 2 == 0 else (2 * digit - 9 if digit > 4 else 2 * digit)
        for place, digit in enumerate(reversed(digits))
    ]
    return HIDDEN if sum(doubled) % 10 == 0 and len(set(digits)) > 1 else found[0]
