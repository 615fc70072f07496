"""The sockets: whether an application that is started here would find the agent, and may talk to it."""

import errno
import grp
import os
import pwd
import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from sendoff_server.doctor.report import Fault

MAX_PATH = 107
"""Bytes of a Unix socket's path (wire format, section 1)."""
SYSTEM = Path("/run/sendoff/agent.sock")
CONNECT_S = 2.0


def client_places(environ: Mapping[str, str], uid: int) -> list[Path]:
    """Where a client looks for the agent's socket, in order (wire format, section 1)."""
    places = [Path(environ["SENDOFF_SOCKET"])] if environ.get("SENDOFF_SOCKET") else []
    if environ.get("XDG_RUNTIME_DIR"):
        places.append(Path(environ["XDG_RUNTIME_DIR"]) / "sendoff/agent.sock")
    return [*places, SYSTEM, Path(f"/tmp/sendoff-{uid}/agent.sock")]  # noqa: S108  # owner checked


def found_by_clients(environ: Mapping[str, str], uid: int) -> Path | None:
    """The socket that a client in this environment takes: the first that exists."""
    for place in client_places(environ, uid):
        if _is_socket(place) and not (_in_tmp(place, uid) and unsafe_folder(place.parent, uid)):
            return place
    return None


def look(environ: Mapping[str, str], uid: int, configured: Path | None) -> Iterator[Fault]:
    """What is wrong with the places themselves, whether an agent runs or not."""
    given = environ.get("SENDOFF_SOCKET")
    for path, of in ((Path(given) if given else None, "SENDOFF_SOCKET"), (configured, "inputs.unix.path")):
        if path is not None and len(os.fsencode(path)) > MAX_PATH:
            yield Fault(
                "path_too_long",
                f"{of} names a path of {len(os.fsencode(path))} bytes, and a socket's path may have {MAX_PATH}: {path}",
                f"choose a shorter path for {of}",
            )
    for place in client_places(environ, uid):
        if _in_tmp(place, uid) and place.parent.exists() and (why := unsafe_folder(place.parent, uid)):
            yield Fault(
                "folder_unsafe",
                f"the folder {place.parent} {why}, so clients do not trust what is in it",
                f"remove it, or make it yours alone: chown {uid} {place.parent} && chmod 700 {place.parent}",
            )


def unsafe_folder(folder: Path, uid: int) -> str | None:
    """Why a folder in /tmp cannot be trusted, or None: anybody could have made it."""
    try:
        found = os.lstat(folder)
    except OSError:
        return "cannot be looked at"
    if found.st_uid != uid:
        return f"belongs to {user_name(found.st_uid)}"
    return "is open to others" if found.st_mode & 0o077 else None


def reach(place: Path) -> Fault | None:
    """Connect to a socket as a client does: None if somebody answers, else why that cannot be."""
    if len(os.fsencode(place)) > MAX_PATH:
        words = f"the path of the socket has {len(os.fsencode(place))} bytes, and may have {MAX_PATH}: {place}"
        return Fault("path_too_long", words, "choose a shorter inputs.unix.path")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(CONNECT_S)
            sock.connect(str(place))
    except FileNotFoundError:
        return Fault("socket_missing", f"there is no socket at {place}", "start the agent with `sendoff agent`")
    except PermissionError:
        return _forbidden(place)
    except ConnectionRefusedError:
        words = f"{place} is left over from an agent that is gone: nobody listens there"
        return Fault("socket_stale", words, "start the agent with `sendoff agent`, which clears it away")
    except OSError as error:
        if error.errno == errno.EPROTOTYPE:
            words = f"{place} is a socket for datagrams, where clients expect one for streams"
            return Fault("socket_wrong", words, "give inputs.unix.path and inputs.unix_datagram.path different paths")
        words = f"{place} does not answer: {error.strerror or error}"
        return Fault("socket_silent", words, "look at the agent's log; is it stopped, or overloaded?")
    return None


def _forbidden(place: Path) -> Fault:
    """Who may and who is in the way: a folder above, or the socket itself."""
    for folder in reversed(place.parents):
        if not os.access(folder, os.X_OK):
            words = f"the folder {folder} ({_rights(folder)}) does not let this user ({user_name(os.getuid())}) through"
            return Fault("folder_forbidden", words, f"let others through with: chmod a+x {folder}")
    words = f"this user ({user_name(os.getuid())}) may not write to {place} ({_rights(place)})"
    remedy = 'put the user of the application into the group of the socket, or set inputs.unix.mode = "0666"'
    return Fault("socket_forbidden", words, remedy)


def _rights(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return "cannot be looked at"
    mode, owner, group = stat.S_IMODE(found.st_mode), user_name(found.st_uid), _group_name(found.st_gid)
    return f"owner {owner}, group {group}, mode {mode:04o}"


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _in_tmp(place: Path, uid: int) -> bool:
    return place.parent.name == f"sendoff-{uid}"


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except (OSError, ValueError):
        return False
