"""The key pair of a server that others connect to with CURVE: made once, kept in a file that only its user can read.

Clients have the public key in their address, so a new one locks all of them out: a file that cannot be read is an
error, and never a reason to make another.
"""

import os
import re
import secrets
import stat
from pathlib import Path

from sendoff_server.inputs.contract import InputError
from sendoff_server.settings.units import CURVE_KEY
from sendoff_server.wire.curve import Pair, from_text, make_pair, pair_of, to_text

NAME = "zmq.key"


def server_pair(folder: Path) -> Pair:
    """The pair in a folder of data, which is made if it is missing. Raises InputError."""
    path = folder / NAME
    try:
        return read_pair(path)
    except FileNotFoundError:
        pass
    try:
        if not folder.exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _belong(folder)
        _write(path, to_text(make_pair().secret))
    except OSError as error:
        raise InputError(f"the key for ZeroMQ cannot be written to {path}: {error.strerror}") from error
    return read_pair(path)


def read_pair(path: Path) -> Pair:
    """The pair of a file. Raises InputError, or FileNotFoundError."""
    try:
        with path.open(encoding="ascii") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(1_000).strip()
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the key for ZeroMQ in {path} cannot be read: {error}") from error
    if not re.fullmatch(CURVE_KEY, text):
        raise InputError(
            f"{path} holds no key; put the right one back, or remove it and give each client a new address"
        )
    if mode & 0o077:
        raise InputError(
            f"{path} can be read by others (mode {mode:04o}), who could take the server's place: chmod 600 it. If one "
            f"of them may have read it, remove it instead, and give each client a new address"
        )
    return pair_of(from_text(text))


def _write(path: Path, text: str) -> None:
    """Whole or not at all; whoever comes first wins."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "w") as file:
            owner = path.parent.stat()
            if os.geteuid() == 0 and owner.st_uid != 0:  # a command of root's for a server that runs as somebody else
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        _belong(draft)
        os.link(draft, path)
    except FileExistsError:
        pass  # another one was faster, and its key is out already
    finally:
        draft.unlink(missing_ok=True)


def _belong(path: Path) -> None:
    """What root makes in another one's folder is that one's: an agent or gateway that runs as its own user reads it."""
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid)
