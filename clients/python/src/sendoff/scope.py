"""What is known about the work at hand: its user, its tags, the request. Follows threads, asyncio tasks and greenlets.

A `Scope` is never changed, only replaced, so a task that was given its parent's scope cannot alter it.
"""

from __future__ import annotations

from contextvars import ContextVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType


class Scope:
    """One state of the context, as the application gave it: it is scrubbed when it is sent."""

    __slots__ = ("request", "tags", "user")

    def __init__(
        self, user: dict[str, object] | None, tags: dict[str, object], request: dict[str, object] | None
    ) -> None:
        self.user = user
        self.tags = tags
        self.request = request

    def __repr__(self) -> str:
        return f"Scope(user={self.user is not None}, tags={sorted(self.tags)}, request={self.request is not None})"


EMPTY = Scope(None, {}, None)
_scope: ContextVar[Scope] = ContextVar("sendoff.scope", default=EMPTY)


def in_force() -> Scope:
    """The scope in force."""
    return _scope.get()


def set_user(**user: object) -> None:
    """Say who the work is done for (`id=`, `name=`, …); without arguments, for nobody."""
    now = _scope.get()
    _scope.set(Scope(user or None, now.tags, now.request))


def tag(**tags: object) -> None:
    """Add tags to the events and exceptions that follow in this context."""
    now = _scope.get()
    _scope.set(Scope(now.user, {**now.tags, **tags}, now.request))


def set_request(**request: object) -> None:
    """Describe the request being served: `method`, `url`, `route`, `headers`, `query`, `remote`."""
    now = _scope.get()
    _scope.set(Scope(now.user, now.tags, request or None))


class context:
    """What is set inside ends with it."""

    __slots__ = ("_before", "_tags")

    def __init__(self, **tags: object) -> None:
        self._tags = tags
        self._before: list[Scope] = []

    def __enter__(self) -> context:
        now = _scope.get()
        self._before.append(now)
        _scope.set(Scope(now.user, {**now.tags, **self._tags}, now.request))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before:
            _scope.set(self._before.pop())


class fresh_context(context):
    """Begins with nothing known, as each request should; for integrations."""

    __slots__ = ()

    def __enter__(self) -> context:
        super().__enter__()
        _scope.set(Scope(None, dict(self._tags), None))
        return self
