"""What the machine gives: room on the disk, and how much the kernel holds for a socket."""

import os
from collections.abc import Iterator
from pathlib import Path

from sendoff_server.doctor.places import user_name
from sendoff_server.doctor.report import Fault

LEAST_FREE = 256 * 2**20
"""With less than so many bytes free the next outage, or somebody else's log, stops the agent from taking events."""
RMEM_MAX = Path("/proc/sys/net/core/rmem_max")


def disk(folder: Path) -> Iterator[Fault]:
    """The disk that a folder is on, or will be."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    found = os.statvfs(there)
    free = found.f_bavail * found.f_frsize
    if free < LEAST_FREE:
        yield Fault(
            "disk_nearly_full",
            f"the disk of {folder} has only {free / 2**20:,.0f} MiB left: when it is full, no event is acknowledged",
            "make room on it, or set agent.data_dir to a folder on another disk",
        )
    if found.f_flag & os.ST_RDONLY:
        yield Fault("disk_read_only", f"the disk of {folder} is mounted read-only", "mount it writable")


def writable(folder: Path) -> Iterator[Fault]:
    """Whether an agent of this user could keep its spool there. Asked where none runs."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        yield Fault(
            "data_dir_forbidden",
            f"this user ({user_name(os.getuid())}) may not write to {there}, where agent.data_dir is",
            f"start the agent as its owner, {user_name(there.stat().st_uid)}, or set agent.data_dir to another folder",
        )


def receive_buffer(wanted: int, given: int | None) -> Iterator[Fault]:
    """``given``: what a running agent got, in bytes; None where none runs, and the system's limit is asked."""
    if given is None:
        given = wanted if os.getuid() == 0 else _limit(wanted)
    if given < wanted:
        yield Fault(
            "receive_buffer_small",
            f"the kernel holds {given:,} bytes of UDP datagrams while the agent is busy, not the {wanted:,} it was "
            "asked for: a burst beyond that is dropped (and counted)",
            f"sysctl -w net.core.rmem_max={wanted}, and restart the agent; or lower inputs.udp.receive_buffer",
            serious=False,
        )


def _limit(wanted: int) -> int:
    try:
        return int(RMEM_MAX.read_text())
    except (OSError, ValueError):
        return wanted
