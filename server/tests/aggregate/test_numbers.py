"""Numbers and strings after RFC 8785, buckets against real logarithms, the estimator against known cardinalities."""

from __future__ import annotations

import json
import random
import re
from decimal import Decimal, localcontext
from math import isclose, ldexp, nextafter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendoff_server.aggregate.canonical import number, string
from sendoff_server.aggregate.histogram import BOUNDS, MAX_INDEX, MIN_INDEX, index
from sendoff_server.aggregate.hyperloglog import REGISTERS, Distinct, estimate
from sendoff_server.aggregate.scrub import scrub

# RFC 8785, appendix B: the bits of a double, and how it is written
SAMPLES = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}


@pytest.mark.parametrize(("bits", "text"), SAMPLES.items())
def test_numbers_are_written_as_rfc_8785_says(bits: str, text: str) -> None:
    assert number(float.fromhex("0x0p0") if set(bits) == {"0"} else _double(bits)) == text


def _double(bits: str) -> float:
    n = int(bits, 16)
    sign, exponent, fraction = n >> 63, n >> 52 & 0x7FF, n & ((1 << 52) - 1)
    value = ldexp(fraction + (1 << 52 if exponent else 0), max(exponent, 1) - 1075)
    return -value if sign else value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_reads_back_and_has_the_form_of_ecmascript(value: float) -> None:
    text = number(value)
    assert float(text) == float(json.loads(text)) == value
    assert re.fullmatch(r"-?(?:0|[1-9][0-9]{0,20})(?:\.[0-9]*[1-9])?|-?[1-9](?:\.[0-9]*[1-9])?e[+-][1-9][0-9]*", text)
    magnitude = abs(value)
    assert ("e" in text) == (magnitude >= 1e21 or 0 < magnitude < 1e-6)
    # the shortest digits are Python's
    assert Decimal(text).normalize().as_tuple().digits == Decimal(repr(value)).normalize().as_tuple().digits


def test_strings_have_the_necessary_escapes_only() -> None:
    assert string('a"\\/\b\t\n\f\r\x01\x7fé\u2028😀') == '"a\\"\\\\/\\b\\t\\n\\f\\r\\u0001\x7fé\u2028😀"'


def test_the_32_bounds_are_the_nearest_doubles() -> None:
    with localcontext(prec=50):
        assert [float((Decimal(2).ln() * j / 32).exp()) for j in range(32)] == list(BOUNDS)


def _index_by_logarithm(value: float) -> int:
    with localcontext(prec=50):
        exact = Decimal(value).ln() / Decimal(2).ln() * 32
        nearest = exact.to_integral_value()
        if abs(exact - nearest) < Decimal("1e-40"):  # a power of two, which no finite logarithm hits exactly
            return int(nearest) - 1
        return int(exact.to_integral_value(rounding="ROUND_CEILING")) - 1


@given(st.floats(5e-324, 1e200) | st.floats(0.001, 1000))
def test_an_index_is_that_of_the_logarithm_but_at_the_bounds_themselves(value: float) -> None:
    found, real = index(value), _index_by_logarithm(value)
    if found != real:  # the nearest double of a bound lies on the other side of the bound
        e = found // 32
        bounds = [ldexp(bound, one) for bound in BOUNDS for one in (e, e + 1)]
        assert any(nextafter(value, 0) <= bound <= nextafter(value, 2e200) for bound in bounds)
    middle = 2 ** ((found + 0.5) / 32)
    assert abs(middle - value) <= 0.011 * value or value < 1e-300


def test_indices_span_all_doubles() -> None:
    assert (index(5e-324), index(1.7976931348623157e308)) == (MIN_INDEX, MAX_INDEX)
    assert (index(1.0), index(nextafter(1.0, 2)), index(2.0), index(0.5)) == (-1, 0, 31, -33)


@pytest.mark.parametrize("members", [1100, 5_000, 40_000, 200_000])
def test_an_estimate_is_within_three_percent(members: int) -> None:
    distinct = Distinct()
    for i in range(members):
        distinct.add(b"user-%d" % i)
    assert isclose(distinct.est, members, rel_tol=0.03)


def test_estimates_of_empty_and_impossible_registers_are_finite() -> None:
    assert estimate(bytes(REGISTERS)) == 0
    assert estimate(bytes([51]) * REGISTERS) == 2**53 - 1
    rng = random.Random(1)
    assert 0 < estimate(bytes(rng.randrange(52) for _ in range(REGISTERS))) <= 2**53 - 1


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"orders:1|c|#country:de", "orders:1|c|#country:de"),
        (b"a:1|c|#api_key:abc,x:y", "a:1|c|#api_key:***,x:y"),
        (b"Authorization: Bearer abc", "Authorization: *** abc"),
        (b"a|#user:jo.doe+x@example.com", "a|#user:***"),
        (b"a:4111 1111 1111 1111|c", "a:***|c"),
        (b"x:sk_0123456789abcdefghijABCDEFGHIJ0123456789abc|c", "x:***|c"),
        (b"x:0.250|ms|#id:123456", "x:0.250|ms|#id:123456"),
        (b"\x1b[31m\xffa\nb", "\ufffd[31m\ufffda\ufffdb"),
    ],
)
def test_what_looks_secret_is_masked(line: bytes, shown: str) -> None:
    assert scrub(line) == shown


def test_a_long_line_is_cut() -> None:
    assert len(scrub(b"ab " * 30_000)) == 200
