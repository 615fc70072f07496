"""Send exceptions and business metrics out of an application without ever making it wait.

    import sendoff
    sendoff.init(service="shop", env="production", release="1.4.2")
    sendoff.increment("orders.placed", country="PL")
    sendoff.event("order.placed", order=17, total=49.0)

Nothing here blocks, raises or prints, except that `init` raises `SettingError` for a wrong argument. Before `init`
every call is a harmless no-op. Importing does nothing but define names.
"""

from __future__ import annotations

from sendoff import current as _current
from sendoff.metrics import Counter, Distribution, Gauge, Timer, Timing, Unique
from sendoff.receipt import Receipt
from sendoff.receipt import dropped as _dropped
from sendoff.scope import context, set_request, set_user, tag
from sendoff.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Literal, overload

    from sendoff.settings import SettingError as SettingError
else:

    def overload(function: object) -> object:
        """`typing.overload`, without importing `typing`."""
        return function


__all__ = [
    "Receipt",
    "SettingError",
    "__version__",
    "capture_exception",
    "close",
    "context",
    "counter",
    "distribution",
    "distribution_of",
    "event",
    "flush",
    "gauge",
    "gauge_of",
    "increment",
    "init",
    "set_request",
    "set_user",
    "stats",
    "tag",
    "timer",
    "timing",
    "timing_of",
    "unique",
    "unique_of",
]


def init(
    address: str | None = None,
    *,
    service: str | None = None,
    env: str | None = None,
    release: str | None = None,
    enabled: bool | None = None,
    linger: float | None = None,
    scrub: Sequence[str] | None = None,
    locals: bool | None = None,
    source: bool | None = None,
    in_app: Sequence[str] | None = None,
    not_in_app: Sequence[str] | None = None,
    excepthooks: bool | None = None,
    buffer: int | None = None,
    spool: str | None = None,
    allow_plaintext: bool | None = None,
    debug: bool | None = None,
) -> None:
    """Set the client up. Harmless without an agent; called again, it replaces what was set up before.

    Each argument wins over its environment variable (`SENDOFF_SERVICE` and so on); `sendoff.settings.DECLARED`
    describes them all. `address` is None for the agent's usual Unix socket, `unix:///path`, `udp://host:port`
    (events go by TCP to the same place), `zmq+ipc:///path`, `zmq+tcp://127.0.0.1:port`; or, without an agent,
    `https://KEY@gateway` or `zmq+curve://SECRET@host:port?server=KEY`. Raises `SettingError`, and only that, if a
    setting cannot be used.
    """
    from sendoff import lifecycle

    given = dict(  # noqa: C408 - the names once, not twice
        address=address, service=service, env=env, release=release, enabled=enabled, linger=linger, scrub=scrub,
        locals=locals, source=source, in_app=in_app, not_in_app=not_in_app, excepthooks=excepthooks,
        buffer=buffer, spool=spool, allow_plaintext=allow_plaintext, debug=debug,
    )  # fmt: skip
    lifecycle.begin(given)


def increment(name: str, value: float = 1, /, *, rate: float = 1, **tags: object) -> None:
    """Add `value` to a counter. With `rate` below 1 only that share of calls is sent, and counted up again by the
    receiver.
    """
    client = _current.client
    if client is not None:
        client.named(name, "c", value, rate, tags)


def gauge(name: str, value: float, /, **tags: object) -> None:
    """Say that a level is `value` now."""
    client = _current.client
    if client is not None:
        client.named(name, "g", value, 1, tags)


def distribution(name: str, value: float, /, *, rate: float = 1, **tags: object) -> None:
    """Record a value whose spread matters, in any unit."""
    client = _current.client
    if client is not None:
        client.named(name, "d", value, rate, tags)


def timing(name: str, ms: float, /, *, rate: float = 1, **tags: object) -> None:
    """Record a duration in milliseconds."""
    client = _current.client
    if client is not None:
        client.named(name, "ms", ms, rate, tags)


def unique(name: str, member: object, /, **tags: object) -> None:
    """Record that `member` (text or another builtin value, at most 512 bytes) was there; different ones are counted."""
    client = _current.client
    if client is not None:
        client.named(name, "s", member, 1, tags)


def timer(name: str, /, *, rate: float = 1, **tags: object) -> Timer:
    """Measures a block (`with sendoff.timer("x"):`) or every call of a plain or `async` function
    (`@sendoff.timer("x")`).
    """
    return Timing(name, rate, tags).timer()


def counter(name: str, /, *, rate: float = 1, **tags: object) -> Counter:
    """A counter bound once, to be used often: `.increment(value=1)`. May be made before `init`."""
    return Counter(name, rate, tags)


def gauge_of(name: str, /, **tags: object) -> Gauge:
    """A bound gauge: `.set(value)`."""
    return Gauge(name, 1, tags)


def distribution_of(name: str, /, *, rate: float = 1, **tags: object) -> Distribution:
    """A bound distribution: `.record(value)`."""
    return Distribution(name, rate, tags)


def timing_of(name: str, /, *, rate: float = 1, **tags: object) -> Timing:
    """A bound timing: `.record(ms)`, `.timer()`."""
    return Timing(name, rate, tags)


def unique_of(name: str, /, **tags: object) -> Unique:
    """A bound set: `.add(member)`."""
    return Unique(name, 1, tags)


@overload
def event(name: str, /, *, confirm: Literal[True], **fields: object) -> Receipt: ...
@overload
def event(name: str, /, *, confirm: Literal[False] = False, **fields: object) -> str | None: ...  # noqa: F811
@overload
def event(name: str, /, *, confirm: bool, **fields: object) -> Receipt | str | None: ...  # noqa: F811
def event(name: str, /, *, confirm: bool = False, **fields: object) -> Receipt | str | None:  # noqa: F811 - ruff does not know our `overload`
    """Send a business event durably. Returns its id, or None if it was dropped (which is counted) or there is no
    client. With `confirm=True` a `Receipt` in any case, which can be waited for: `receipt.wait(2)` or `await receipt`
    is True once the event is on the agent's disk, and the agent remembers for `sendoff receipt ID` what became of it.

    Fields may be builtin values, nested up to eight deep, and dates, decimals, UUIDs and enums; NaN and infinities
    become words, and of any other object the name of its type is sent.
    """
    client = _current.client
    if confirm is True:
        return _dropped("no_client") if client is None else client.confirmed(name, fields)
    return None if client is None else client.event(name, fields)


if not TYPE_CHECKING:
    del overload  # no public name


def capture_exception(
    error: BaseException | None = None,
    /,
    *,
    tags: Mapping[str, object] | None = None,
    fields: Mapping[str, object] | None = None,
    fingerprint: Sequence[str] | None = None,
) -> str | None:
    """Send an exception durably; without `error` the one being handled. Returns its id, or None as `event` does.

    `fingerprint`, a list of texts or other builtin values, replaces the rule by which exceptions are grouped.
    """
    client = _current.client
    if client is None:
        return None
    own = list(fingerprint) if type(fingerprint) in (list, tuple) and fingerprint else None
    return client.exception(error, tags=_dict(tags), fields=_dict(fields), fingerprint=own)


def _dict(given: object) -> dict[str, object] | None:
    return given if type(given) is dict else None


def flush(timeout: float = 2.0) -> bool:
    """Wait until every point is sent and every event acknowledged, at most `timeout` seconds. False if that did not
    come about.

    The one call that waits, because it is asked to. In a coroutine: `await asyncio.to_thread(sendoff.flush, 2)`.
    """
    client = _current.client
    return True if client is None else client.flush(timeout)


def close(timeout: float | None = None) -> None:
    """Flush (by default for `linger` seconds), say goodbye to the agent, and end. Happens by itself at the end of the
    process.
    """
    client = _current.client
    if client is not None:
        client.close(timeout)


def stats() -> dict[str, object]:
    """Running totals of this process, for people and tests: `events`, `acked`, `held`, `points`, `dropped` and
    `refused` by reason, …
    """
    client = _current.client
    return {"dropped": {}} if client is None else client.stats()


def __getattr__(name: str) -> object:
    if name == "SettingError":  # lazily, as most programs never name it
        from sendoff.settings import SettingError

        return SettingError
    raise AttributeError(f"module 'sendoff' has no attribute {name!r}")
