"""Network namespaces: the run's own, so that its ports are nobody else's, and in it one for the apps, at the other end
of a cable that can be pulled. Where the machine does not allow it, there is no cable, and the run says so.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from dataclasses import dataclass

CLONE_NEWNET = 0x40000000
HERE = "10.213.7.1"
THERE = "10.213.7.2"


@dataclass
class Cable:
    """From the apps to everything else. `why_not`: why there is none, empty if there is one."""

    why_not: str = "not asked for"
    _holder: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        """Under which address the apps reach what listens here."""
        return "127.0.0.1" if self.why_not else HERE

    def around(self, command: list[str]) -> list[str]:
        """The command, run at the far end."""
        if self.why_not:
            return command
        assert self._holder is not None
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", *command]

    def lay(self, leashed: list[str]) -> None:
        """Make both namespaces. `leashed` is a command that holds one and ends with this process."""
        self.why_not = own_namespace()
        if self.why_not:
            return
        # It says that it is there before the cable's other end is given to it.
        self._holder = subprocess.Popen(leashed, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert self._holder.stdout is not None
        self._holder.stdout.readline()
        inside = f"nsenter --net=/proc/{self._holder.pid}/ns/net"
        steps = (
            "ip link set lo up",
            f"ip link add apps type veth peer name world netns {self._holder.pid}",
            f"ip addr add {HERE}/30 dev apps",
            "ip link set apps up",
            f"{inside} ip addr add {THERE}/30 dev world",
            f"{inside} ip link set world up",
            f"{inside} ip link set lo up",
        )
        for step in steps:
            done = subprocess.run(step.split(), capture_output=True, text=True, check=False)
            if done.returncode:
                self.cut()
                self.why_not = f"{step}: {done.stderr.strip()}"
                return

    def pull(self) -> None:
        subprocess.run(["ip", "link", "set", "apps", "down"], check=True)

    def plug(self) -> None:
        subprocess.run(["ip", "link", "set", "apps", "up"], check=True)

    def cut(self) -> None:
        """The end of it all; the kernel takes the namespaces away with their last process."""
        if self._holder is not None:
            self._holder.kill()
            self._holder.wait()
            assert self._holder.stdout is not None
            self._holder.stdout.close()


HOLD = ["unshare", "--net", "sh", "-c", "echo ready; exec sleep infinity"]


def own_namespace() -> str:
    """Give this process a network of its own. Why not, or '' when it has one."""
    if os.geteuid() != 0:
        return "a network namespace needs root"
    if not (shutil.which("ip") and shutil.which("nsenter") and shutil.which("unshare")):
        return "ip, nsenter or unshare is not installed"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        return f"no network namespace: {os.strerror(ctypes.get_errno())}"
    up = subprocess.run(["ip", "link", "set", "lo", "up"], capture_output=True, text=True, check=False)
    return up.stderr.strip()
