"""Where damaged files are kept for whoever wants to look, bounded so that they cannot fill the disk.

The rule: at most ``FOLDERS`` damaged spools and ``BLOBS`` damaged batches, and together never more bytes than the disk
still has free. What is oldest goes first; a spool that was just set apart only after what can be read was taken over.

A spool is set apart in steps that a crash may part, each on the disk before the next one: a mark ``moving`` in the new
folder, the files, the mark is now called ``rescuing``, the new spool, no mark. So the next start knows where to go on.
"""

import logging
import os
import shutil
from pathlib import Path
from time import gmtime, strftime

log = logging.getLogger(__name__)

FOLDERS = 5
BLOBS = 100
FILES = ("spool.db", "spool.db-wal", "spool.db-shm")
MOVING, RESCUING = "moving", "rescuing"
SUSPECT = "suspect"
"""Beside the spool: what is wrong with it, for the next start."""


def new_folder(spool: Path, now_ms: int) -> Path:
    """A new folder for what is set apart. Raises ``OSError``."""
    name = strftime("%Y%m%dT%H%M%SZ", gmtime(now_ms / 1000))
    kept = spool / "quarantine" / name
    number = 1
    while kept.exists():
        number += 1
        kept = spool / "quarantine" / f"{name}-{number}"
    kept.mkdir(parents=True)
    sync_folder(kept.parent)
    sync_folder(spool)
    return kept


def set_apart(spool: Path, why: str, now_ms: int) -> Path:
    """Move a damaged spool's files into a folder of their own, marked until ``finished``. Raises ``OSError``."""
    kept = new_folder(spool, now_ms)
    with (kept / MOVING).open("w") as file:
        file.write(why)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(kept)
    _move(spool, kept)
    return kept


def unfinished(spool: Path) -> tuple[Path, str] | None:
    """What a start before this one began to set apart, and why. Its last files are moved now. Raises ``OSError``."""
    for mark in sorted((spool / "quarantine").glob(f"*/{MOVING}")):
        why = mark.read_text(errors="replace")
        _move(spool, mark.parent)
        return mark.parent, why
    for mark in sorted((spool / "quarantine").glob(f"*/{RESCUING}")):
        if not (spool / "spool.db").exists():
            return mark.parent, mark.read_text(errors="replace")
        finished(mark.parent)  # The new spool was there already; only the mark was left.
    return None


def finished(kept: Path) -> None:
    """What can be read of it is in a new spool, or was given up. Raises ``OSError``."""
    (kept / RESCUING).unlink(missing_ok=True)
    sync_folder(kept)


def suspect(spool: Path, why: str) -> None:
    """Note for the next start that a spool that is in use is damaged."""
    mark = spool / SUSPECT
    if mark.exists():
        return
    log.error("the spool is damaged (%s): restart the agent, which rescues what can be read", why)
    try:
        mark.write_text(why)
    except OSError as error:
        log.warning("that could not be noted for the next start: %s", error)


def suspicion(spool: Path) -> str:
    """What a run before this one found wrong with the spool; empty if nothing."""
    try:
        return (spool / SUSPECT).read_text(errors="replace") or "damage was found in it"
    except OSError:
        return ""


def keep_blob(spool: Path, name: str, blob: bytes) -> None:
    """Keep one damaged batch, if the disk lets us."""
    folder = spool / "quarantine"
    try:
        folder.mkdir(exist_ok=True)
        (folder / f"{name.replace('/', '+')[:200]}.zst").write_bytes(blob)
    except (OSError, ValueError) as error:
        log.warning("the damaged blob of %s could not be kept: %s", name, error)
    bound(spool)


def bound(spool: Path) -> None:
    """Let the oldest go until the rule above holds."""
    try:
        kept = sorted((spool / "quarantine").iterdir(), key=lambda path: (path.stat().st_mtime, path.name))
        sizes = {path: _size(path) for path in kept}
        disk = os.statvfs(spool)
        free = disk.f_bavail * disk.f_frsize
        left = {True: FOLDERS, False: BLOBS}
        for is_folder, most in left.items():
            of_kind = [path for path in kept if path.is_dir() == is_folder]
            for path in of_kind[: max(0, len(of_kind) - most)]:
                free += _let_go(path, sizes)
        for path in kept:
            if sum(sizes.values()) > free:
                free += _let_go(path, sizes)
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("what is kept of damaged spools could not be bounded: %s", error)


def _let_go(path: Path, sizes: dict[Path, int]) -> int:
    """Delete what is kept, unless it is still to be rescued or gone already; how many bytes that gave back."""
    if path not in sizes or (path / MOVING).exists() or (path / RESCUING).exists():
        return 0
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    log.warning("%s was deleted: what is kept of damaged spools is bounded", path)
    return sizes.pop(path)


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size


def sync_folder(folder: Path) -> None:
    """The names of new and moved files are on the disk only when their folder is. Raises ``OSError``."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _move(spool: Path, kept: Path) -> None:
    """The database last: without it a log that is still there would be deleted by SQLite."""
    for name in reversed(FILES):
        if (spool / name).exists():
            (spool / name).rename(kept / name)
    sync_folder(kept)
    sync_folder(spool)
    (spool / SUSPECT).unlink(missing_ok=True)
    (kept / MOVING).rename(kept / RESCUING)
    sync_folder(kept)
