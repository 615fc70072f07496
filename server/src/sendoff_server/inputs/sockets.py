"""Sockets that listen: where, with which rights, and in nobody's place.

A Unix socket file that nobody answers on is left over from a crash and is removed; one that somebody answers on is
another agent's, and an error.
"""

import errno
import logging
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

from sendoff_server.inputs.contract import InputError
from sendoff_server.settings import split_listen

log = logging.getLogger(__name__)

MAX_PATH = 107
"""Bytes of a Unix socket's path (108 with the NUL that ends it)."""
SO_RCVBUFFORCE = 33
SO_MEMINFO = 55
_MEMINFO_DROPS = 8


def default_unix_path(environ: Mapping[str, str], uid: int, *, shared: Path = Path("/run")) -> Path:
    """The first of the wire format's places (section 1) whose directory can be created or written to.

    Raises InputError if none can be used, which says what is wrong with each.
    """
    own = Path(f"/tmp/sendoff-{uid}/agent.sock")  # noqa: S108  # owner checked
    candidates = [Path(environ["SENDOFF_SOCKET"])] if environ.get("SENDOFF_SOCKET") else []
    if environ.get("XDG_RUNTIME_DIR"):
        candidates.append(Path(environ["XDG_RUNTIME_DIR"]) / "sendoff/agent.sock")
    candidates += [shared / "sendoff/agent.sock", own]
    faults = []
    for path in candidates:
        try:
            make_directory(path, owner=uid if path == own else None)
        except InputError as error:
            faults.append(str(error))
        else:
            if faults and environ.get("SENDOFF_SOCKET"):
                log.warning("listening on %s instead of $SENDOFF_SOCKET: %s", path, faults[0])
            return path
    raise InputError("no place for the Unix socket; set inputs.unix.path. " + "; ".join(faults))


def make_directory(path: Path, *, owner: int | None = None, mode: int = 0o660) -> None:
    """Make the directory of a socket, if it is missing: 0700 in a user's own places, 0755 where others are to connect.

    `owner`: the directory must belong to this user and be closed to others, as one in /tmp has to. Raises InputError.
    """
    directory = path.parent
    private = owner is not None or str(directory).startswith("/run/user/") or not mode & 0o077
    try:
        directory.mkdir(mode=0o700 if private else 0o755, parents=True, exist_ok=True)
        found = os.lstat(directory) if owner is not None else os.stat(directory)
    except OSError as error:
        raise InputError(f"{directory} cannot be made: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise InputError(f"{directory} is no directory")
    if owner is not None and (found.st_uid != owner or found.st_mode & 0o077):
        raise InputError(
            f"{directory} must belong to user {owner} and be closed to others (mode 0700): anybody could have made it"
        )
    if not os.access(directory, os.W_OK | os.X_OK):
        raise InputError(f"{directory} cannot be written to")


def listen_unix(path: Path, kind: socket.SocketKind, mode: int, setting: str) -> socket.socket:
    """A bound Unix socket, non-blocking; a stream listens. Raises InputError."""
    if len(os.fsencode(path)) > MAX_PATH:
        raise InputError(
            f"{setting}: {path} is longer than the {MAX_PATH} bytes that it may have; choose a shorter path"
        )
    _clear_place(path, kind, setting)
    made = socket.socket(socket.AF_UNIX, kind)
    try:
        made.setblocking(False)
        before = os.umask(0o777 & ~mode)  # right from the start: between bind and chmod anybody could connect
        try:
            made.bind(str(path))
        finally:
            os.umask(before)
        path.chmod(mode)
        if kind == socket.SOCK_STREAM:
            made.listen(512)
    except OSError as error:
        made.close()
        raise InputError(f"{setting}: cannot listen on {path}: {error.strerror}") from error
    return made


def _clear_place(path: Path, kind: socket.SocketKind, setting: str) -> None:
    """Remove a socket file that nobody answers on."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise InputError(f"{setting}: {path} exists and is no socket; move it away or choose another path")
        with socket.socket(socket.AF_UNIX, kind) as probe:
            probe.setblocking(False)
            probe.connect(str(path))
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
        return
    except BlockingIOError:
        pass  # its queue is full: somebody is there
    except OSError as error:
        if error.errno == errno.EPROTOTYPE:
            raise InputError(f"{setting}: a socket of another type is in use at {path}; choose another path") from error
        raise InputError(f"{setting}: {path} is in the way: {error.strerror}") from error
    raise InputError(f"{setting}: another agent answers on {path}; stop it, or give this one another path")


def listen_ip(listen: str, kind: socket.SocketKind, setting: str) -> socket.socket:
    """A bound TCP or UDP socket, non-blocking; TCP listens. Raises InputError."""
    address = split_listen(listen)
    made = None
    try:
        family, _, _, _, where = socket.getaddrinfo(address.host, address.port, type=kind, flags=socket.AI_PASSIVE)[0]
        made = socket.socket(family, kind)
        made.setblocking(False)
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(where)
        if kind == socket.SOCK_STREAM:
            made.listen(512)
    except OSError as error:
        if made is not None:
            made.close()
        remedy = "; stop what uses it, or choose another port" if error.errno == errno.EADDRINUSE else ""
        raise InputError(f"{setting}: cannot listen on {listen}: {error.strerror}{remedy}") from error
    return made


def set_receive_buffer(sock: socket.socket, wanted: int, setting: str) -> int:
    """Ask for a receive buffer of `wanted` bytes, beyond the system's limit if we may; what the kernel gave."""
    there = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
    for option in (SO_RCVBUFFORCE, socket.SO_RCVBUF):
        if option == socket.SO_RCVBUF and wanted > there >= _most_we_may_ask():
            break  # systemd gave more than we could get: asking would only take it away
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, wanted)
            break
        except PermissionError:
            continue
    given = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # the kernel doubles it for its own overhead
    if given < wanted:
        log.warning(
            "%s: the kernel gave %d bytes instead of %d; bursts may be dropped (and counted). "
            "Raise the limit: sysctl -w net.core.rmem_max=%d",
            setting, given, wanted, wanted,
        )  # fmt: skip
    return given


def _most_we_may_ask() -> int:
    """The limit for who is not root, bytes."""
    try:
        return int(Path("/proc/sys/net/core/rmem_max").read_text())
    except (OSError, ValueError):
        return 2**31


def kernel_drops(sock: socket.socket) -> int:
    """Datagrams the kernel dropped because the socket's buffer was full, since it was made (a u32 that wraps)."""
    raw = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36)
    return int.from_bytes(raw[4 * _MEMINFO_DROPS : 4 * _MEMINFO_DROPS + 4], "little") if len(raw) >= 36 else 0


def shown(sock: socket.socket) -> str:
    """The address of a socket for people: `127.0.0.1:8125`, `[::1]:8125`, a path."""
    name = sock.getsockname()
    if isinstance(name, tuple):
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
    return os.fsdecode(name)


def inode_of(path: Path | None) -> int | None:
    """Which file that is now, if it is there."""
    try:
        return os.lstat(path).st_ino if path else None
    except OSError:
        return None


def remove_file(path: Path, inode: int | None) -> None:
    """Remove the socket's file if it is still the one that was made."""
    try:
        if os.lstat(path).st_ino == inode:
            path.unlink()
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("%s could not be removed: %s", path, error.strerror)
