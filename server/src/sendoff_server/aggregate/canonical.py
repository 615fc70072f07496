"""Strings and numbers as RFC 8785 (JSON Canonicalization Scheme) writes them: equal values are equal bytes."""

from __future__ import annotations

import json

MAX_SAFE_INTEGER = 2**53 - 1

_encode_string = json.JSONEncoder(ensure_ascii=False).encode  # escapes exactly what RFC 8785 section 3.2.2.2 escapes


def string(text: str) -> str:
    """`text` as a JSON string. Lone surrogates must have been refused before."""
    return _encode_string(text)


def number(value: float) -> str:
    """A finite double as ECMAScript's Number::toString prints it: the shortest digits that read back as the same."""
    if value == (whole := int(value)) and -(2**53) < whole < 2**53:
        return str(whole)  # and −0 as 0
    digits = repr(value)
    if "e" not in digits:  # from 1e-4 to 1e16 Python and ECMAScript agree, but for the trailing .0
        return digits.removesuffix(".0")
    mantissa, _, exponent_text = digits.partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    significant = mantissa.lstrip("-").replace(".", "")
    exponent = int(exponent_text)
    if 0 <= exponent < 21:
        return sign + significant.ljust(exponent + 1, "0")
    if -7 < exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{significant}"
    fraction = f".{significant[1:]}" if len(significant) > 1 else ""
    return f"{sign}{significant[0]}{fraction}e{exponent:+d}"
