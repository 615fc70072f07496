"""The folder of a client's spool: who may use it, making files, finding those whose owner is dead.

Every operation may hang with the disk, so all is for the spool's own thread. A file belongs to whoever holds its
`flock`. That lock belongs to the open file, which a forked child shares: the child must close its copy, and must not
unlock it. A process that dies lets go of it, however it dies.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_BYTES = 67_108_864
"""Bytes in one folder, of all processes together; nothing more is kept beyond."""
MAX_FILES = 1_000
MAX_ASIDE = 10
"""Unreadable files that are set aside; the oldest beyond that are deleted."""
UNFINISHED_AGE = 600.0
"""Seconds after which a file that its maker never finished is cleared away."""
OURS = ".sendoff"
MAKING = ".making"
ASIDE = ".damaged"
_OPEN = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Unusable(OSError):
    """The folder cannot be used, or is full. The message says why, and what to do."""


def is_ours(name: str, suffix: str = OURS) -> bool:
    """Whether a file is named like a client's: 32 hex digits and the suffix."""
    stem = name.removesuffix(suffix)
    return len(stem) == 32 and len(name) == 32 + len(suffix) and set(stem) <= set("0123456789abcdef")


class Folder:
    """The folder at `path`, opened when it is first used."""

    def __init__(self, path: str, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES) -> None:
        self.path = path
        self.fd = -1
        self._max_bytes = max_bytes
        self._max_files = max_files

    def use(self) -> None:
        """Make it if need be, and make sure that it is this user's alone to write. Raises `OSError`."""
        if self.fd >= 0 and os.fstat(self.fd).st_nlink:
            return
        self.close()
        with suppress(FileExistsError):
            os.mkdir(self.path, 0o700)
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        found = os.fstat(fd)
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            os.close(fd)
            raise Unusable(errno.EPERM, "must belong to the user of the process, and be writable by nobody else")
        self.fd = fd

    def sizes(self, suffixes: tuple[str, ...] = (OURS, MAKING, ASIDE)) -> dict[str, os.stat_result]:
        """The files in it that are the spool's, by name. Raises `OSError`."""
        found = {}
        for name in os.listdir(self.fd):
            if any(is_ours(name, suffix) for suffix in suffixes):
                with suppress(FileNotFoundError):
                    found[name] = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        return found

    def room(self) -> int:
        """Bytes that may still be written, by anybody. Raises `Unusable` where no more files may be made."""
        sizes = self.sizes()
        if len(sizes) >= self._max_files:
            raise Unusable(errno.EDQUOT, f"has {self._max_files} files in it, which is all it may have")
        return self._max_bytes - sum(found.st_size for found in sizes.values())

    def make(self, stem: str, beginning: bytes, fill: Callable[[int], None] = lambda _: None) -> int:
        """Make, or replace, the file of the client `stem`: its lock is held before it has its name, so nobody can take
        it for a dead one's. `fill` may write more before that. Returns the descriptor; raises `OSError`.
        """
        making = stem + MAKING
        with suppress(FileNotFoundError):
            os.unlink(making, dir_fd=self.fd)
        fd = os.open(making, _OPEN | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self.fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            write_all(fd, beginning, 0)
            fill(fd)
            os.rename(making, stem + OURS, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except BaseException:
            os.close(fd)
            with suppress(OSError):
                os.unlink(making, dir_fd=self.fd)
            raise
        return fd

    def take(self, name: str) -> int | None:
        """Lock a file whose owner is dead. None if it lives, or if it is no file of this user's; raises `OSError`."""
        try:
            fd = os.open(name, _OPEN, dir_fd=self.fd)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.EACCES, errno.EISDIR, errno.ENXIO):
                return None
            raise
        try:
            found = os.fstat(fd)
            right = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1
            if right and not found.st_mode & 0o022:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self.still(name, fd):
                    return fd
        except BlockingIOError:
            pass  # its owner lives, or another heir has it
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None

    def still(self, name: str, fd: int) -> bool:
        """Whether `name` is the file that is open as `fd`, and not one that has replaced it before it was locked."""
        try:
            named, opened = os.stat(name, dir_fd=self.fd, follow_symlinks=False), os.fstat(fd)
        except FileNotFoundError:
            return False
        return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)

    def delete(self, name: str) -> None:
        """Delete a file that is locked. Raises `OSError`."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.fd)

    def set_aside(self, name: str) -> None:
        """Rename a locked file that nobody can read, and forget the oldest of those. Raises `OSError`."""
        os.rename(name, name.removesuffix(OURS) + ASIDE, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        aside = sorted(self.sizes((ASIDE,)).items(), key=lambda item: item[1].st_mtime)
        for old, _ in aside[:-MAX_ASIDE]:
            self.delete(old)

    def clear(self) -> None:
        """Delete what makers that died have left unfinished: there are no events in it that are not elsewhere."""
        for name, found in self.sizes((MAKING,)).items():
            if time.time() - found.st_mtime > UNFINISHED_AGE:
                self.delete(name)

    def close(self) -> None:
        """Close the descriptor."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __repr__(self) -> str:
        return f"Folder({self.path}, fd={self.fd})"


def write_all(fd: int, data: bytes, at: int) -> None:
    """Write all of `data` at a place. Raises `OSError`, after writing some of it perhaps."""
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, at)
        view, at = view[count:], at + count


def close_inherited(folder: str) -> None:
    """In the child after a fork: close every descriptor into `folder`, also one that another thread had opened just
    then. What stays open in the child would keep its parent's lock after the parent's death.
    """
    try:
        numbers = os.listdir("/proc/self/fd")
    except OSError:
        return  # not Linux: those that are known have been closed
    for number in numbers:
        with suppress(OSError):
            path = os.readlink(f"/proc/self/fd/{number}")
            place, _, name = path.removesuffix(" (deleted)").rpartition("/")
            if place == folder and any(is_ours(name, suffix) for suffix in (OURS, MAKING, ASIDE)):
                os.close(int(number))
