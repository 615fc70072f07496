"""Asking the agent that runs on this host, through its control socket.

It lies beside the input socket and is open to its own user only, so what is asked there needs no key.
"""

import http.client
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

TIMEOUT_S = 5.0
LONGEST_ANSWER = 64 * 2**20
ANSWERS = (http.HTTPStatus.OK, http.HTTPStatus.ACCEPTED, http.HTTPStatus.CONFLICT)
"""Whatever else it says is no answer. A conflict says in its JSON why nothing was done."""


class NoAnswer(Exception):
    """No agent answered. The message says where was looked, and what to do."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def control_places(configured: Path | Literal[False] | None, environ: Mapping[str, str], uid: int) -> list[Path]:
    """Where a control socket may be, in order: beside the input socket (wire format, section 1)."""
    if configured:
        return [configured.parent / "control.sock"]
    places = [Path(environ["SENDOFF_SOCKET"])] if environ.get("SENDOFF_SOCKET") else []
    if environ.get("XDG_RUNTIME_DIR"):
        places.append(Path(environ["XDG_RUNTIME_DIR"]) / "sendoff/agent.sock")
    places += [Path("/run/sendoff/agent.sock"), Path(f"/tmp/sendoff-{uid}/agent.sock")]  # noqa: S108  # owner checked
    return [place.parent / "control.sock" for place in places]


def ask(path: str, places: list[Path], uid: int, method: str = "GET", timeout_s: float = TIMEOUT_S) -> Any:
    """The JSON at ``path`` from the first agent that answers. Raises `NoAnswer`."""
    tried: list[str] = []
    for place in places:
        try:
            if _is_somebody_elses(place.parent, uid):
                tried.append(f"{place}: its folder belongs to another user, and anybody could have made it")
                continue
            return _get(place, path, method, timeout_s)
        except FileNotFoundError:
            tried.append(f"{place}: nothing there")
        except PermissionError:
            tried.append(f"{place}: belongs to another user; ask as that user or as root")
        except ConnectionRefusedError:
            tried.append(f"{place}: left over, nobody listens")
        except (OSError, http.client.HTTPException, ValueError) as error:
            tried.append(f"{place}: {error or type(error).__name__}")
    raise NoAnswer("no agent answers on this host. Start one with `sendoff agent`. Looked at:\n  " + "\n  ".join(tried))


def _is_somebody_elses(folder: Path, uid: int) -> bool:
    """The folder in /tmp is named after its user, but anybody can make one of that name."""
    return folder.name == f"sendoff-{uid}" and os.lstat(folder).st_uid != uid


def _get(place: Path, path: str, method: str, timeout_s: float) -> Any:
    connection = _UnixConnection(place, timeout_s)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read(LONGEST_ANSWER)
        if answer.status not in ANSWERS:
            raise ValueError(f"answered {answer.status} {answer.reason}")
        return json.loads(body)
    finally:
        connection.close()
