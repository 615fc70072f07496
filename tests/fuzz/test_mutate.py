"""The fuzzer itself: it finds a planted bug, says how to repeat it, and leaves a sound target alone."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.mutate import MAX_INPUT, mutate, run


def test_it_finds_a_planted_bug_and_shows_seed_and_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUZZ_SEED", "7")

    def target(data: bytes) -> None:
        if b"\x00" in data:
            raise ZeroDivisionError("planted")

    with pytest.raises(AssertionError, match=r"(?s)ZeroDivisionError: planted.*FUZZ_SEED=7.*hex.*00"):
        run(target, [b"abc:1|c", b"x" * 100])


def test_it_leaves_a_sound_target_alone_and_tries_the_corpus_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUZZ_SECONDS", "0.05")
    seen: list[bytes] = []
    assert run(seen.append, [b"first", b"second", b""]) == len(seen) >= 3
    assert seen[:3] == [b"first", b"second", b""]


def test_the_same_seed_gives_the_same_mutations_within_bounds() -> None:
    corpus = [b"abc:1|c|#x:y", b"z" * MAX_INPUT]
    one, two = (
        [mutate(corpus[i % 2], corpus, rng) for i in range(500)] for rng in (random.Random(1), random.Random(1))
    )
    assert one == two
    assert max(map(len, one)) <= MAX_INPUT
