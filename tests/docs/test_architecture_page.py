"""ARCHITECTURE.md leads to files that exist."""

from __future__ import annotations

import re

from tests.docs.pages import ROOT


def test_every_file_and_folder_that_the_page_names_exists() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text()
    named = re.findall(r"`([\w/.…]+(?:\.py|/))`", page)
    assert len(named) > 40
    sources = [
        path.relative_to(ROOT).as_posix()
        for top in ("clients", "protocol", "server/src")
        for path in (ROOT / top).rglob("*")
    ]
    sources += [path.name for path in ROOT.iterdir()]
    for name in named:
        tail = name.rsplit("…/", 1)[-1].rstrip("/")
        assert any(source == tail or source.endswith(f"/{tail}") for source in sources) or (ROOT / tail).exists(), name
