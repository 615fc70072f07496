"""The machine, the running processes, and the table: what every measurement needs."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from demo.parts import Part, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

TICK = os.sysconf("SC_CLK_TCK")


def describe() -> str:
    """One line: processor, cores, memory, kernel, Python."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = f"Linux {platform.release()}, CPython {platform.python_version()}"
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, {system}"


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, in seconds (proc(5), fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def resident_mib(pid: int) -> float:
    """Resident memory of a process now, in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextlib.contextmanager
def stage(*, key: bool = True) -> Iterator[Stage]:
    """A folder with a configuration for gateway and agent, and a key; gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="sendoff-bench-"))
    try:
        made = Stage(folder)
        made.write_config(key=None)
        if key:
            made.write_config(key=made.make_key("bench"))
        yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def started(part: Part, ready_url: str) -> Iterator[int]:
    """The part running; gives its process id."""
    part.start(ready_url)
    assert part.process is not None
    try:
        yield part.process.pid
    finally:
        part.stop()


@dataclass
class Table:
    """A title, columns, and rows of text or numbers."""

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)

    def add(self, *cells: object) -> None:
        self.rows.append([f"{cell:,.3g}" if isinstance(cell, float) else str(cell) for cell in cells])

    def markdown(self) -> str:
        lines = [f"**{self.title}**", "", "| " + " | ".join(self.columns) + " |", "|" + " --- |" * len(self.columns)]
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join(lines) + "\n"
