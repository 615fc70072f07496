"""`python -m sendoff.spool FOLDER`: what waits in a client's spool, and whose it is.

`--hand-over` lets the next process send what was written for another key: after a key was replaced, or a project moved.
Ask yourself first whether all of it belongs to the project of the new key.
"""

from __future__ import annotations

import os
import sys
import time

from sendoff.sending.folder import ASIDE, OURS, Folder, write_all
from sendoff.sending.kept import ANY_KEY, Label, Unreadable, look_through

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sendoff.sending.kept import Found

USAGE = "usage: python -m sendoff.spool FOLDER [--hand-over]"
PORTION = 1_048_576


def main(arguments: list[str]) -> int:
    """List the files, or hand over those that no process has. The exit code: 1 if the folder cannot be used, 2 for
    wrong arguments.
    """
    wanted = [argument for argument in arguments if argument != "--hand-over"]
    if len(wanted) != 1 or wanted[0].startswith("-"):
        print(USAGE, file=sys.stderr)
        return 2
    if not os.path.isdir(wanted[0]):
        print(f"{wanted[0]} is no folder", file=sys.stderr)
        return 1
    folder = Folder(os.path.abspath(wanted[0]))
    try:
        folder.use()
        for name, found in sorted(folder.sizes().items()):
            if name.endswith(OURS):
                age = int(time.time() - found.st_mtime)
                print(f"{name}  {found.st_size} bytes, {age} s old: {_one(folder, name, '--hand-over' in arguments)}")
            elif name.endswith(ASIDE):
                print(f"{name}  {found.st_size} bytes: cannot be read, and is never sent")
    except OSError as error:
        print(f"{folder.path}: {error.strerror or error}", file=sys.stderr)
        return 1
    finally:
        folder.close()
    return 0


def _one(folder: Folder, name: str, hand_over: bool) -> str:
    fd = folder.take(name)
    if fd is None:
        return "in use by a process that lives"
    try:
        size = os.fstat(fd).st_size
        found = look_through(lambda at, count: os.pread(fd, count, at), size)
        who = found.label.who
        words = f"{found.frames} events of {who['service'] or 'a service without a name'} {who['release']}".rstrip()
        words += f", client {found.label.client} on {who['host']}"
        if found.damaged:
            words += f", {found.damaged} bytes damaged"
        if hand_over:
            _hand_over(folder, fd, found)
            words += ", handed over to the next process"
        elif found.label.key_hash == ANY_KEY:
            words += ", for any key"
        return words
    except Unreadable as error:
        return f"cannot be read: {error}"
    finally:
        os.close(fd)


def _hand_over(folder: Folder, fd: int, found: Found) -> None:
    """Write the file anew, with a label that fits any key."""
    old = found.label
    label = Label(old.client, old.who, old.pid, ANY_KEY).to_bytes()

    def fill(new: int) -> None:
        at, to = found.begins, len(label)
        while data := os.pread(fd, PORTION, at):
            write_all(new, data, to)
            at, to = at + len(data), to + len(data)

    os.close(folder.make(old.client, label, fill))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
