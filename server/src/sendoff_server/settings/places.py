"""Where the agent's Unix socket is looked for: the rule of `protocol/wire-format.md`, section 1."""

from collections.abc import Mapping
from pathlib import Path


def socket_places(configured: Path | None, environ: Mapping[str, str], uid: int) -> list[Path]:
    """The paths to try, in order. A configured path is the only one, and so is ``$SENDOFF_SOCKET``.

    The last place lies in a folder that anyone can write to, so whoever uses it must check the owner of its folder.
    """
    named = environ.get("SENDOFF_SOCKET", "")
    if configured is not None:
        return [configured]
    if named:
        return [Path(named)]
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    places = [Path(runtime) / "sendoff/agent.sock"] if runtime.startswith("/") else []
    return [*places, Path("/run/sendoff/agent.sock"), Path(f"/tmp/sendoff-{uid}/agent.sock")]  # noqa: S108
