"""The format of the spool's files: whatever is cut off or flipped, what is believed was written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendoff.sending.kept import HEAD, Found, Label, Unreadable, hash_of, look_through, record, records

LABEL = Label(
    "0123456789abcdef0123456789abcdef",
    {"service": "shop", "env": "prod", "release": "7", "host": "web-1", "lib": "sendoff-python/0"},
    4711,
    hash_of("sk_secret"),
)
Entries = list[tuple[int, bytes]]


def reader(data: bytes) -> Callable[[int, int], bytes]:
    return lambda at, count: data[at : at + count]


def written(entries: Entries) -> bytes:
    return LABEL.to_bytes() + b"".join(record(number, frame) for number, frame in entries)


def left(data: bytes) -> tuple[Found, Entries]:
    """What an heir would send."""
    found = look_through(reader(data), len(data))
    source = records(reader(data), found.begins, found.good)
    return found, [(number, frame) for number, frame, _ in source if frame and number > found.settled]


def test_a_file_says_whose_it_is_and_what_is_not_settled() -> None:
    found, frames = left(written([(1, b"one"), (2, b"two"), (1, b""), (3, b"three")]))
    assert frames == [(2, b"two"), (3, b"three")]
    assert (found.frames, found.settled, found.damaged) == (2, 1, 0)
    assert (found.label.client, found.label.who, found.label.pid) == (LABEL.client, LABEL.who, LABEL.pid)
    assert found.label.key_hash == LABEL.key_hash


def test_a_file_has_no_key_in_it() -> None:
    assert b"sk_secret" not in LABEL.to_bytes()
    assert hash_of("sk_secret") != hash_of("sk_other")


ENTRIES = [(1, b"first frame"), (2, b"second frame, longer"), (1, b""), (3, b"x"), (5, b"after a gap")]


def test_a_file_cut_off_at_any_byte_has_the_records_that_are_whole() -> None:
    data = written(ENTRIES)
    ends = [len(LABEL.to_bytes())]
    for number, frame in ENTRIES:
        ends.append(ends[-1] + len(record(number, frame)))
    for cut in range(len(data) + 1):
        if cut < ends[0]:
            with pytest.raises(Unreadable):
                left(data[:cut])
            continue
        whole = ENTRIES[: sum(end <= cut for end in ends) - 1]
        found, frames = left(data[:cut])
        settled = max((number for number, frame in whole if not frame), default=0)
        assert frames == [(number, frame) for number, frame in whole if frame and number > settled], cut
        assert found.damaged == cut - max(end for end in ends if end <= cut)


def test_a_file_with_any_bit_flipped_gives_nothing_that_was_not_written() -> None:
    data = written(ENTRIES)
    believed = [(number, frame) for number, frame in ENTRIES if frame]
    for at in range(len(data)):
        for bit in range(8):
            harmed = bytearray(data)
            harmed[at] ^= 1 << bit
            try:
                found, frames = left(bytes(harmed))
            except Unreadable:
                assert at < len(LABEL.to_bytes())
                continue
            assert at >= len(LABEL.to_bytes()), "a label that was changed is not believed"
            assert frames == believed[: len(frames)] or frames == believed[1 : 1 + len(frames)]
            assert found.damaged > 0
            assert found.good <= at, "all before the damage is good, nothing behind it is believed"


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.binary(max_size=200), max_size=12),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 255)), max_size=4),
    st.integers(0, 4000),
)
def test_no_damage_gives_a_frame_that_was_not_written_or_one_out_of_order(
    bodies: list[bytes], flips: list[tuple[int, int]], cut: int
) -> None:
    entries = [(number, body) for number, body in enumerate(bodies, 1) if body]
    data = bytearray(written(entries))
    for at, mask in flips:
        data[at % len(data)] ^= mask
    del data[max(cut, 20) :]
    try:
        _, frames = left(bytes(data))
    except Unreadable:
        return
    assert frames == entries[: len(frames)]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_garbage_is_unreadable_and_nothing_worse(garbage: bytes) -> None:
    for data in (garbage, LABEL.to_bytes()[:8] + garbage):
        with pytest.raises(Unreadable):
            left(data)
    _, frames = left(LABEL.to_bytes() + garbage)
    assert frames == [] or len(garbage) >= HEAD


@pytest.mark.parametrize(
    "words",
    [b"[]", b"{", b'{"client":1}', b'{"client":"c","who":{},"pid":1,"key":""}', b"[" * 5000, b"\xff"],
    ids=repr,
)
def test_a_label_in_other_words_is_unreadable(words: bytes) -> None:
    data = b"sendoff1" + record(0, words)
    with pytest.raises(Unreadable):
        look_through(reader(data), len(data))
