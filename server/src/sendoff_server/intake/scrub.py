"""The second look at secrets, before the spool: clients scrub, but not every client is ours.

Only what has a name is looked at here: keys, and parameters of addresses. A name is split into words, so that
`access_token` is hidden and `tokens_used` is not.
"""

import re
from functools import lru_cache
from itertools import pairwise
from typing import Any

HIDDEN = "[scrubbed]"

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SECRET = frozenset(
    "password passwords passwd passphrase pwd secret secrets token authorization cookie cookies apikey credential "  # noqa: SIM905
    "credentials csrf xsrf jwt bearer privatekey accesskey sessionid card cvv cvc ssn".split()
)
_PAIRS = frozenset((kind, "key") for kind in ("api", "private", "access", "signing", "encryption", "session")) | {
    ("session", "id")
}
_ENDINGS = ("password", "passwd", "secret", "token", "apikey", "cookie")
_PARAMETER = re.compile(r"(?P<name>[^\s?&;=#]{1,100})=(?P<value>[^\s&;#]+)")
_MAX_NAME = 200


def hides(name: str) -> bool:
    """Whether what is called `name` is a secret."""
    return _decide(name) if len(name) <= 64 else _decide.__wrapped__(name[:_MAX_NAME])


@lru_cache(4096)
def _decide(name: str) -> bool:
    words = [word.lower() for word in _WORDS.findall(name)]
    return (
        any(word in _SECRET or word.endswith(_ENDINGS) for word in words)
        or any(pair in _PAIRS for pair in pairwise(words))
    )  # fmt: skip


def scrub(value: Any) -> Any:
    """Hide, in place, what stands under the name of a secret anywhere in `value`, which came from JSON.

    Its depth is bounded by the check of frames, so walking it level by level needs no more than its own size.
    """
    row = [value]
    while row:
        below: list[Any] = []
        for each in row:
            if isinstance(each, dict):
                for key, inner in each.items():
                    if inner is not None and hides(key):
                        each[key] = HIDDEN
                    elif isinstance(inner, dict | list):
                        below.append(inner)
            elif isinstance(each, list):
                below += [inner for inner in each if isinstance(inner, dict | list)]
        row = below
    return value


def scrub_address(text: str) -> str:
    """Hide the values of parameters with the name of a secret in a URL or a query."""
    if "=" not in text:
        return text
    return _PARAMETER.sub(lambda found: f"{found['name']}={HIDDEN}" if hides(found["name"]) else found[0], text)
