"""The apps of a run without an agent: which there are, how each reaches the gateway, what keys they have."""

from __future__ import annotations

from dataclasses import dataclass

PATHS = ("curve", "https", "keep")
"""ZeroMQ with CURVE, HTTPS, and HTTPS with `spool=`, which keeps what is not acknowledged in files."""
PROJECTS = ("north", "south")
STRANGER = "stranger"
"""The project of those who speak garbage: nothing of it may be found in another."""


@dataclass(frozen=True)
class App:
    """One app of the cast. `kind` is the producer's, `key` says whether its key is good, revoked on the way, or
    nobody's; `buffer` is the client's setting.
    """

    slot: str
    kind: str
    path: str
    project: str
    key: str = "good"
    buffer: int = 8_388_608

    @property
    def mortal(self) -> bool:
        """Whether it is killed on the way."""
        return self.key == "good" and not self.kind.startswith("calm")


def cast(paths: tuple[str, ...]) -> list[App]:
    """All apps of a run over these paths: a whole set for one path, a smaller one of each if there are several."""
    found = []
    for path in paths:
        few = len(paths) > 1
        south, north = reversed(PROJECTS) if PATHS.index(path) % 2 else PROJECTS
        found += [
            App(f"{path}-c1", "calm", path, north),
            App(f"{path}-m1", "confirm", path, south),
            App(f"{path}-m2", "fork", path, north),
            # More at once than ZeroMQ's high-water mark and the kernel take, and more than a small buffer takes.
            App(f"{path}-m3", "flood", path, south, buffer=67_108_864)
            if path == "curve"
            else App(f"{path}-m3", "burst", path, south, buffer=262_144),
            App(f"{path}-r1", "revoked", path, north, key="revoked"),
        ]
        if not few:
            found += [
                App(f"{path}-c2", "calm-confirm", path, south),
                App(f"{path}-m4", "large", path, north),
                App(f"{path}-m5", "plain", path, south),
                App(f"{path}-x1", "wrong", path, south, key="wrong"),
            ]
    if len(paths) > 1:
        found.append(App(f"{paths[0]}-x1", "wrong", paths[0], PROJECTS[1], key="wrong"))
    return found
