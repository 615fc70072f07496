"""What a request says about itself, scrubbed: shared by the WSGI and the ASGI middleware."""

from __future__ import annotations

from sendoff import current
from sendoff.scrub import HIDDEN, Scrubber

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

HEADERS = 40
TEXT = 1_000

_default = Scrubber()


def described(
    method: str, url: str, query: str, remote: str, headers: Iterable[tuple[str, str]], route: str = ""
) -> dict[str, object]:
    """The request part of an exception. Header and parameter names decide what is hidden, and so do values that look
    like secrets.
    """
    scrubber: Scrubber = getattr(current.client, "scrubber", _default)
    found: dict[str, object] = {"method": method[:20], "url": scrubber.text(url[:TEXT])}
    if route:
        found["route"] = route[:TEXT]
    if query:
        found["query"] = scrubber.query(query[:TEXT])
    if remote:
        found["remote"] = remote[:100]
    found["headers"] = {
        name[:100]: HIDDEN if scrubber.hides(name) else scrubber.text(value[:TEXT])
        for name, value in list(headers)[:HEADERS]
    }
    return found
