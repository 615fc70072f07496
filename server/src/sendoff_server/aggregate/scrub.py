"""Make a rejected line fit to be shown: no secrets, no control characters, not long."""

from __future__ import annotations

import re

MAX_SHOWN = 200
_SECRETS = re.compile(
    r"(?P<key>(?:pass(?:word|wd)?|pwd|secret|token|api[-_]?key|access[-_]?key|auth(?:orization)?|bearer|cookie|session"
    r"|credential|signature)[\w.-]{0,32}(?:[\"']?\s?[:=]\s?[\"']?|\s))(?P<value>[^\s,;&|\"']{1,400})"
    r"|(?P<mail>[\w.+-]{1,64}@[\w-]{1,64}\.[\w.-]{1,64})"
    r"|(?P<long>[A-Za-z0-9+/_=-]{24,})"
    r"|(?P<digits>[0-9](?:[ -]?[0-9]){6,})",
    re.IGNORECASE,
)


def scrub(line: bytes) -> str:
    """At most 200 characters of `line`, with what looks like a secret, an address, a key or a card number masked."""
    text = line[: 4 * MAX_SHOWN].decode(errors="replace")
    text = _SECRETS.sub(lambda match: f"{match['key'] or ''}***", text)
    text = "".join(char if char.isprintable() else "�" for char in text)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"
