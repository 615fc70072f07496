"""Asking the agent that runs on this host, through its control socket.

It lies beside the input socket and is open to its own user only, so what is asked there needs no key.
"""

import http.client
import json
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")
TIMEOUT_S = 5.0
LONGEST_ANSWER = 64 * 2**20
ANSWERS = (http.HTTPStatus.OK, http.HTTPStatus.ACCEPTED, http.HTTPStatus.CONFLICT)
"""Whatever else it says is no answer. A conflict says in its JSON why nothing was done."""


class NoAnswer(Exception):
    """No agent answered. The message says where was looked, and what to do."""


class Refused(Exception):
    """The agent answered, and does not do what it was asked. The message is its own."""

    def __init__(self, words: str, status: int, answer: Any) -> None:
        super().__init__(words)
        self.status = status
        self.answer = answer


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


@dataclass(frozen=True, slots=True)
class Silent:
    """Why a control socket gave no answer. ``why``: absent, untrusted, forbidden, stale, or odd (the words say)."""

    place: Path
    why: str
    words: str


def ask(path: str, places: list[Path], uid: int, method: str = "GET", timeout_s: float = TIMEOUT_S) -> Any:
    """The JSON at ``path`` from the first agent that answers. Raises `NoAnswer`."""
    return _first(places, uid, lambda place: _get(place, path, method, timeout_s))


def find(places: list[Path], uid: int) -> Path:
    """The control socket of the first agent that answers. Raises `NoAnswer`."""

    def answers(place: Path) -> Path:
        _get(place, "/healthz", "GET", TIMEOUT_S)
        return place

    return _first(places, uid, answers)


def exchange(
    place: Path, path: str, body: bytes | None = None, timeout_s: float = TIMEOUT_S
) -> tuple[bytes, Mapping[str, str]]:
    """What the agent there answers to a GET, or to a POST of JSON, and the answer's headers.

    Raises `Refused` for what it does not do, `NoAnswer` if it ended meanwhile.
    """
    connection = _UnixConnection(place, timeout_s)
    try:
        connection.request("GET" if body is None else "POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        found = answer.read(LONGEST_ANSWER)
        if answer.status != http.HTTPStatus.OK:
            raise _refused(answer, found)
        return found, dict(answer.headers)
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(f"the agent at {place} answers no more: {error or type(error).__name__}") from error
    finally:
        connection.close()


def _refused(answer: http.client.HTTPResponse, body: bytes) -> Refused:
    try:
        found = json.loads(body)
    except ValueError:
        found = {}
    words = found.get("detail") or found.get("why") if isinstance(found, dict) else None
    return Refused(words or f"the agent answered {answer.status} {answer.reason}", answer.status, found)


def _first(places: list[Path], uid: int, work: Callable[[Path], T]) -> T:
    tried: list[str] = []
    for place in places:
        answer = _try(place, uid, work)
        if not isinstance(answer, Silent):
            return answer
        tried.append(f"{place}: {answer.words}")
    raise NoAnswer("no agent answers on this host. Start one with `sendoff agent`. Looked at:\n  " + "\n  ".join(tried))


def ask_one(path: str, place: Path, uid: int, timeout_s: float = TIMEOUT_S) -> Any:
    """The JSON at ``path`` from the agent at one control socket, or a `Silent`."""
    return _try(place, uid, lambda place: _get(place, path, "GET", timeout_s))


def _try(place: Path, uid: int, work: Callable[[Path], T]) -> T | Silent:
    try:
        if _is_somebody_elses(place.parent, uid):
            return Silent(place, "untrusted", "its folder belongs to another user, and anybody could have made it")
        return work(place)
    except FileNotFoundError:
        return Silent(place, "absent", "nothing there")
    except PermissionError:
        return Silent(place, "forbidden", "belongs to another user; ask as that user or as root")
    except ConnectionRefusedError:
        return Silent(place, "stale", "left over, nobody listens")
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Silent(place, "odd", str(error) or type(error).__name__)


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
