"""Where the module's functions and the bound instruments find the client of this process. None: everything is a
no-op.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from sendoff.metrics import Series
    from sendoff.receipt import Receipt
    from sendoff.tally import Tally

    class Client(Protocol):
        """What takes points, events and exceptions: `sendoff.client.Client`, or the recorder of `sendoff.testing`."""

        @property
        def tally(self) -> Tally: ...
        @property
        def linger(self) -> float: ...
        def point(self, series: Series | None, value: object) -> None: ...
        def named(self, name: str, kind: str, value: object, rate: float, tags: dict[str, object]) -> None: ...
        def event(self, name: str, fields: dict[str, object]) -> str | None: ...
        def confirmed(self, name: str, fields: dict[str, object]) -> Receipt: ...
        def exception(
            self,
            error: BaseException | None,
            *,
            tags: dict[str, object] | None = None,
            fields: dict[str, object] | None = None,
            fingerprint: list[str] | None = None,
            again: bool = True,
        ) -> str | None: ...
        def log(self, template: str, message: str, logger: str, frame: dict[str, object]) -> str | None: ...
        def flush(self, timeout: float) -> bool: ...
        def close(self, timeout: float | None) -> None: ...
        def stats(self) -> dict[str, object]: ...


client: Client | None = None


def tally() -> Tally | None:
    """Where an integration counts what went wrong in it."""
    return None if client is None else client.tally
