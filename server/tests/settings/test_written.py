"""What is generated from the declaration: the sample file, the page, the list of values in force."""

import re
import tomllib
from pathlib import Path

import pytest

from sendoff_server.settings import load
from sendoff_server.settings.declared import settings
from sendoff_server.settings.pages import with_generated
from sendoff_server.settings.written import HIDDEN, in_force, sample, tables

ROOT = Path(__file__).resolve().parents[3]


def test_the_committed_sample_is_what_the_declaration_gives() -> None:
    assert (ROOT / "packaging/sendoff.toml").read_text(encoding="utf-8") == sample(), "run `make format`"


def test_the_sample_as_it_is_changes_nothing() -> None:
    path = ROOT / "packaging/sendoff.toml"
    assert load(path, {}) == load(None, {})


def test_the_sample_with_every_setting_taken_in_loads_and_sets_all_of_them(tmp_path: Path) -> None:
    path = tmp_path / "all.toml"
    path.write_text(re.sub(r"^#(?=[a-z\[])", "", sample(), flags=re.MULTILINE))
    loaded = load(path, {}, uid=0)
    assert set(loaded.origins) == {each.key.replace("NAME", "main") for each in settings()}
    assert loaded.gateway == load(None, {}, uid=0).gateway


def test_the_committed_page_has_the_tables_that_the_declaration_gives() -> None:
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert with_generated(page, tables()) == page, "run `make format`"


def test_every_setting_has_help_and_a_variable_of_its_own() -> None:
    every = settings()
    assert all(len(each.help) > 10 for each in every)
    assert len({each.variable for each in every}) == len(every)


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the lines"):
        with_generated("# A page\n", "x")


def test_what_is_in_force_says_where_it_came_from_and_hides_secrets(tmp_path: Path) -> None:
    path = tmp_path / "sendoff.toml"
    path.write_text('[outputs.my-shop]\nurl = "https://x.example/?token=hush"\nheaders = { X = "hush" }\n')
    shown = {each.key: each for each in in_force(load(path, {"SENDOFF_OUTPUTS_MY_SHOP_KEY": "hush"}))}
    assert "hush" not in repr(shown)
    key = shown["outputs.my-shop.key"]
    assert (key.value, key.origin, key.variable) == (
        HIDDEN,
        "SENDOFF_OUTPUTS_MY_SHOP_KEY",
        "SENDOFF_OUTPUTS_MY_SHOP_KEY",
    )
    assert shown["outputs.my-shop.headers"].origin == str(path)
    assert (shown["spool.events.limit"].value, shown["spool.events.limit"].origin) == ("1536 MiB", "default")
    assert tomllib.loads(sample()).keys() >= {"agent", "inputs", "web", "gateway"}
