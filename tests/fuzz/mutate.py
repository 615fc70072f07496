"""A small mutation fuzzer for every decoder: known inputs, damaged at random, must never break the target.

`run(target, corpus)` calls `target` for FUZZ_SECONDS (default 2) with the corpus itself and then with mutations of it.
A target returns on anything it accepts or refuses in its documented way, and raises only on a real bug. The seed is
printed; FUZZ_SEED repeats a run. A failure shows the seed and the input in hex.
"""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_INPUT = 70_000  # a little over a datagram: enough to cross every limit of a line, small enough to stay quick
INTERESTING = [
    b"\x00", b"\x00\x00\x00\x00", b"\x7f", b"\x80", b"\xff", b"\xff\xff\xff\xff", b"\x00\x00\x10\x00",
    b"\x01\x00\x10\x00", b"\xc3", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\r\n", b"\n\n", b"{", b"}", b"[", b"]",
    b'"', b"\\", b"|", b":", b",", b"0", b"-0", b"-1", b"1e400", b"-1e400", b"1e-400", b"NaN", b"Infinity", b"9" * 310,
    b"0." + b"0" * 300 + b"1", b"9007199254740991", b"9007199254740992", b"18446744073709551616", b"4294967295",
    b"2147483648", b"1.5", b"null", b"true", b'"\\ud800"', b"\\u0000", b"[" * 600, b'{"a":' * 600,
]  # fmt: skip


def mutate(data: bytes, corpus: Sequence[bytes], rng: random.Random) -> bytes:
    """One mutation of `data`; `corpus` is where spliced parts come from."""
    out = bytearray(data)
    start = rng.randrange(len(out) + 1)
    end = min(len(out), start + rng.choice((1, 2, 4, 8, 64, 1024)))
    match rng.randrange(9):
        case 0 if out:  # flip one bit
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
        case 1:  # cut the end off
            del out[start:]
        case 2:  # remove a part
            del out[start:end]
        case 3:  # splice the end of another input in
            other = rng.choice(corpus)
            out[start:] = other[rng.randrange(len(other) + 1) :]
        case 4:  # insert something that has broken decoders before
            out[start:start] = rng.choice(INTERESTING)
        case 5:  # put it in place of what was there
            out[start:end] = rng.choice(INTERESTING)
        case 6:  # repeat a part
            out[start:start] = out[start:end] * rng.choice((1, 2, 16, 300))
        case 7:  # insert noise
            out[start:start] = rng.randbytes(rng.choice((1, 3, 16)))
        case _:  # exchange two parts
            out[start:end], out[:0] = b"", bytes(out[start:end])
    return bytes(out[:MAX_INPUT])


def run(target: Callable[[bytes], None], corpus: Sequence[bytes]) -> int:
    """Fuzz `target` and return the number of inputs tried.

    Raises AssertionError, which shows the seed and the input in hex, when the target raises.
    """
    assert corpus, "a fuzz run needs at least one input to start from"
    seed = int(os.environ.get("FUZZ_SEED") or random.SystemRandom().randrange(2**32))
    seconds = float(os.environ.get("FUZZ_SECONDS") or 2)
    print(f"FUZZ_SEED={seed} FUZZ_SECONDS={seconds:g}")
    rng = random.Random(seed)
    deadline = time.monotonic() + seconds
    tried = 0
    for data in corpus:
        _try(target, data, seed)
        tried += 1
    while time.monotonic() < deadline:
        data = rng.choice(corpus)
        for _ in range(rng.choice((1, 1, 2, 4, 8))):
            data = mutate(data, corpus, rng)
        _try(target, data, seed)
        tried += 1
    return tried


def _try(target: Callable[[bytes], None], data: bytes, seed: int) -> None:
    try:
        target(data)
    except Exception as error:
        raise AssertionError(
            f"{type(error).__name__}: {error}\nrepeat with FUZZ_SEED={seed}\n"
            f"input (hex, {len(data)} bytes): {data.hex()}"
        ) from error
