"""Which environment variable is which setting: ``SENDOFF_`` and the path in upper case.

The prefix is shared: clients have variables of their own, and Kubernetes makes some for every service whose name begins
with "sendoff". So a variable is ours when it begins with one of our sections, or when it nearly is one of our names.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from sendoff_server.settings.declared import ANY, PREFIX, Setting, settings
from sendoff_server.settings.faults import Fault, closest
from sendoff_server.settings.model import Settings

_KUBERNETES = re.compile(
    r"SENDOFF(_[A-Z0-9_]+)?_(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT(_[0-9]+_(TCP|UDP|SCTP)(_[A-Z]+)?)?)"
)

Values = dict[tuple[str, ...], tuple[str, object]]


def from_environment(environ: Mapping[str, str], file: Mapping[str, Any]) -> tuple[Values, list[Fault]]:
    """By path: the variable and its value. ``file`` tells which names outputs have. Unknown variables are faults."""
    plain = {each.variable: each for each in settings() if ANY not in each.path}
    of_output = [each for each in settings() if ANY in each.path]
    written = file.get("outputs")
    names = {str(name).upper().replace("-", "_"): str(name) for name in written} if isinstance(written, dict) else {}
    values: Values = {}
    faults: list[Fault] = []
    for variable, text in sorted(environ.items()):
        if not variable.startswith(PREFIX) or _KUBERNETES.fullmatch(variable):
            continue
        path = plain[variable].path if variable in plain else _output_path(variable, of_output, names)
        if path is not None:
            values[path] = (variable, _value(path, text))
            continue
        fault = _unknown(variable, plain, of_output)
        if fault:
            faults.append(fault)
    return values, faults


def _output_path(variable: str, of_output: list[Setting], names: Mapping[str, str]) -> tuple[str, ...] | None:
    begin = PREFIX + "OUTPUTS_"
    if not variable.startswith(begin):
        return None
    for each in sorted(of_output, key=lambda each: -len(each.path[-1])):
        end = "_" + each.path[-1].upper()
        name = variable[len(begin) : -len(end)]
        if variable.endswith(end) and name:
            return ("outputs", names.get(name, name.lower()), each.path[-1])
    return None


def _value(path: tuple[str, ...], text: str) -> object:
    """All settings read text, but for tables, which are JSON in a variable."""
    if path[-1] in ("headers", "clients"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text


def _unknown(variable: str, plain: Mapping[str, Setting], of_output: list[Setting]) -> Fault | None:
    """A variable in one of our sections must exist; outside of them only one that is nearly ours is worth a word."""
    section, _, rest = variable[len(PREFIX) :].lower().partition("_")
    if section in Settings.model_fields and not rest:  # called like a section: SENDOFF_SPOOL is a client's
        return None
    ours = section in Settings.model_fields
    near = closest(variable, plain, cutoff=0.88)
    if near is None and not ours:
        return None
    if near is None and section == "outputs":
        ends = ", ".join(each.path[-1].upper() for each in of_output)
        return Fault(variable, "", None, "is no setting", f"write {PREFIX}OUTPUTS_NAME_ and one of {ends}")
    remedy = f"did you mean {near}?" if near else "`sendoff check --show` lists the variables there are"
    return Fault(variable, "", None, "is no setting", remedy)
