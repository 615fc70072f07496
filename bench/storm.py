"""A storm of one exception: what one more costs the agent, folded and (with `spool.storm = 0`) kept one by one."""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

from bench.machine import Table, cpu_seconds, stage, started
from demo.parts import get_json, wait_until

if TYPE_CHECKING:
    from demo.parts import Stage

EXCEPTIONS = 20_000
FRAMES = 20
CLIENT = "5" * 32


def measure() -> Table:
    table = Table(
        f"A storm: {EXCEPTIONS:,} exceptions of one fingerprint with {FRAMES} frames, acknowledged, no output",
        ["exceptions/s", "µs CPU of the agent per exception", "KiB of spool", "lines to deliver"],
    )
    for name, limit in (("folded beyond 100 a minute", "100"), ("all kept", "0")):
        with stage() as made:
            made.write_config(key=None)
            part = made.agent()
            part.env["SENDOFF_SPOOL_STORM"] = limit
            with started(part, f"{made.agent_url}/readyz") as pid:
                before, began = cpu_seconds(pid), time.perf_counter()
                _send(made)
                took = time.perf_counter() - began
                spent = cpu_seconds(pid) - before
                status = _status(made)
                [book] = status["books"]["events"]
                assert book["received"] == book["pending"] == EXCEPTIONS
                folding = status["spool"]["folding"]
                table.add(
                    name,
                    f"{EXCEPTIONS / took:,.0f}",
                    f"{spent / EXCEPTIONS * 1e6:.0f}",
                    f"{status['spool']['used_bytes'] / 1024:,.0f}",
                    f"{EXCEPTIONS - folding['exceptions'] + folding['lines']:,}",
                )
    return table


def _status(made: Stage) -> dict[str, Any]:
    found: dict[str, Any] = get_json(f"{made.agent_url}/status.json")
    return found


def _send(made: Stage) -> None:
    """Write all as one client and read acknowledgements until the last is acknowledged."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(f"{made.folder}/agent.sock")
        sock.settimeout(60)
        sock.sendall(_unit("hello", {"service": "bench", "env": "test", "resume_from": 1}))
        for first in range(1, EXCEPTIONS + 1, 500):
            sock.sendall(b"".join(_exception(seq) for seq in range(first, first + 500)))
        wait_until("all acknowledged", lambda: _status(made)["spool"]["queued"] == 0, seconds=60)


def _exception(seq: int) -> bytes:
    frames = [
        {
            "file": f"/srv/shop/part_{number}.py",
            "line": number,
            "func": f"step_{number}",
            "in_app": True,
            "code": "x = f(y)",
        }
        for number in range(FRAMES)
    ]
    body = {
        "name": "KeyError",
        "fingerprint": "1" * 32,
        "chain": [{"type": "KeyError", "message": "sku", "frames": frames}],
    }
    return _unit("exception", body, seq=seq, id=f"01939c5a-7c00-7000-8000-{seq:012x}", t=1_700_000_000_000)


def _unit(kind: str, body: dict[str, Any], **header: Any) -> bytes:
    head = json.dumps({"v": 1, "client": CLIENT, "kind": kind, **header}).encode()
    frame = head + b"\n" + json.dumps(body).encode()
    return struct.pack("<I", len(frame)) + frame
