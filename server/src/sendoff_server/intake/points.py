"""How many metric points a payload holds by its client's own count, whatever becomes of them here.

The numbering of frames (`n`, wire format, section 2) goes on with every point a client wrote, those of rejected lines
included. Read as a Sendoff client writes lines: `name:v[:v…]|type…`; the value of a set is one point. Events and checks
among the lines are no points.
"""

import re

_VALUES = re.compile(rb"^(?!_e\{)[^:|\n]*:([^|\n]*)\|([a-z]?)", re.MULTILINE)


def count_points(payload: bytes) -> int:
    return sum(1 if kind == b"s" else 1 + values.count(b":") for values, kind in _VALUES.findall(payload))
