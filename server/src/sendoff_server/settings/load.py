"""From a file and the environment to `Settings`, or one `SettingsError` that has every fault.

A value on the command line beats the environment, which beats the file, which beats the default.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sendoff_server.settings.environment import from_environment
from sendoff_server.settings.faults import Fault, SettingsError, from_pydantic
from sendoff_server.settings.kinds import default_data_dir
from sendoff_server.settings.model import Settings, port_conflict, tcp_of
from sendoff_server.settings.units import read_endpoint, read_listen

SYSTEM_FILE = Path("/etc/sendoff/sendoff.toml")
LONGEST_FILE = 2**20


def find_file(given: Path | None, environ: Mapping[str, str], system_file: Path = SYSTEM_FILE) -> Path | None:
    """The file to read: the one that was given, else ``$SENDOFF_CONFIG``, else the system's if there is one."""
    if given is not None:
        return given
    named = environ.get("SENDOFF_CONFIG")
    if named:
        return Path(named)
    return system_file if system_file.exists() else None


def load(
    path: Path | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, object] | None = None,
    *,
    uid: int | None = None,
) -> Settings:
    """Read and check everything.

    ``path`` is the file, or None for none (see `find_file`). ``overrides`` are values from the command line by dotted
    key. ``uid`` decides on the data folder (default: this process's). Raises `SettingsError`.
    """
    faults: list[Fault] = []
    data: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if path is not None:
        data, fault = _read(path)
        faults += [fault] if fault else []
        origins = dict.fromkeys(_leaves(data), str(path))
    values, unknown = from_environment(environ, data)
    faults += unknown
    for keys, (variable, value) in values.items():
        _put(data, keys, value)
        origins[".".join(keys)] = variable
    for key, value in (overrides or {}).items():
        _put(data, tuple(key.split(".")), value)
        origins[key] = "command line"
    folder = default_data_dir(environ, os.getuid() if uid is None else uid)
    for part in ("agent", "gateway"):
        if isinstance(data.setdefault(part, {}), dict):
            data[part].setdefault("data_dir", folder)
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        fallback = str(path) if path is not None else "settings"
        found = [from_pydantic(each, origins, fallback) for each in error.errors(include_url=False)]
        faults += found
        faults += _conflict(data, origins, fallback, found)
        raise SettingsError(faults) from None
    if faults:
        raise SettingsError(faults)
    settings._origins.update(origins)
    return settings


def _read(path: Path) -> tuple[dict[str, Any], Fault | None]:
    def fault(problem: str, remedy: str) -> tuple[dict[str, Any], Fault]:
        return {}, Fault(str(path), "", None, problem, remedy)

    try:
        with path.open("rb") as file:
            raw = file.read(LONGEST_FILE + 1)
    except FileNotFoundError:
        return fault("there is no such file", "name an existing one with --config or SENDOFF_CONFIG")
    except IsADirectoryError:
        return fault("is a folder", "name the file in it")
    except PermissionError:
        return fault("may not be read by this user", "make it readable for the user that runs sendoff")
    except OSError as error:
        return fault(f"cannot be read ({error.strerror})", "name another file with --config or SENDOFF_CONFIG")
    if len(raw) > LONGEST_FILE:
        return fault("is longer than 1 MiB", "this is hardly a file of settings; name another")
    try:
        return tomllib.loads(raw.decode("utf-8")), None
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        return fault(f"line {line} is not UTF-8", "save the file as UTF-8")
    except tomllib.TOMLDecodeError as error:
        return fault(f"is not valid TOML: {error}", "text belongs in quotes; see packaging/sendoff.toml for samples")
    except RecursionError:
        return fault("is nested too deeply", "settings are at most three tables deep")


def _leaves(data: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[str]:
    """Dotted keys of all values. An output's headers are one value, and so are the clients of inputs.zmq."""
    found: list[str] = []
    for name, value in data.items():
        of_output = path[:1] == ("outputs",)
        table = (of_output and (len(path) == 2 or not value)) or (*path, name) == ("inputs", "zmq", "clients")
        if isinstance(value, dict) and not table:
            found += _leaves(value, (*path, name))
        else:
            found.append(".".join((*path, name)))
    return found


def _put(data: dict[str, Any], keys: tuple[str, ...], value: object) -> None:
    for name in keys[:-1]:
        below = data.setdefault(name, {})
        if not isinstance(below, dict):
            return  # The file holds something else where a table belongs, which is a fault of its own.
        data = below
    data[keys[-1]] = value


def _conflict(data: dict[str, Any], origins: Mapping[str, str], where: str, found: list[Fault]) -> list[Fault]:
    """`Settings` compares ports when all else is well; beside other faults it is done here, on what can be read."""
    if any(" share the port " in fault.problem for fault in found):
        return []
    defaults = Settings.model_construct()
    listens: dict[str, str] = {}
    for keys, default in (
        (("inputs", "tcp", "listen"), defaults.inputs.tcp.listen),
        (("inputs", "zmq", "listen"), defaults.inputs.zmq.listen),
        (("web", "listen"), defaults.web.listen),
        (("gateway", "listen"), defaults.gateway.listen),
        (("gateway", "zmq", "listen"), defaults.gateway.zmq.listen),
    ):
        value: Any = data
        for name in keys:
            value = value.get(name) if isinstance(value, dict) else None
        try:
            given = default if value is None else value
            is_zmq = keys[:2] == ("inputs", "zmq")
            listens[".".join(keys)] = tcp_of(read_endpoint(given)) if is_zmq else read_listen(given)
        except ValueError:
            continue
    conflict = port_conflict(listens)
    return [Fault(where, "", None, *conflict)] if conflict else []
