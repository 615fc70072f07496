"""Look into the wheels in a folder: what they promise about themselves must hold.

The client must run wherever Python does (pure, no dependencies); both must carry the licence and their type marker.
"""

import sys
import zipfile
from email import message_from_bytes
from pathlib import Path


def faults(wheel: Path) -> list[str]:
    """Everything that is wrong with a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = message_from_bytes(archive.read(next(n for n in names if n.endswith(".dist-info/METADATA"))))
    found = []
    if not wheel.name.endswith("-py3-none-any.whl"):
        found.append("is not py3-none-any")
    if not any(".dist-info/licenses/LICENSE" in name for name in names):
        found.append("has no LICENSE")
    if not any(name.endswith("/py.typed") for name in names):
        found.append("has no py.typed")
    if any("/tests/" in name or name.endswith((".pyc", ".orig")) for name in names):
        found.append("has files that do not belong into it")
    if metadata["Name"] == "sendoff" and metadata.get_all("Requires-Dist"):
        found.append(f"has dependencies: {metadata.get_all('Requires-Dist')}")
    return found


def main(folder: Path) -> int:
    wheels = sorted(folder.glob("*.whl"))
    wrong = [f"{wheel.name} {fault}" for wheel in wheels for fault in faults(wheel)]
    if len(wheels) != 2:
        wrong.append(f"{folder} has {len(wheels)} wheels instead of 2")
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
