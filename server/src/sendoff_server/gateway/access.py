"""Who may send and who may look.

Sending needs a project's key, always. Looking is free for whoever sits at this machine: when every address the gateway
listens on is a loopback one, the Host header names one (so that no web page elsewhere can borrow a browser to look),
and no proxy says that it forwards for somebody else. Everyone else shows a project's key as the password of HTTP Basic.
"""

import base64
import binascii
import ipaddress

from aiohttp import web

from sendoff_server.gateway import keys
from sendoff_server.gateway.problems import Problem
from sendoff_server.gateway.store import Readers

_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")
_REMEDY = "make a key with: sendoff gateway keys create PROJECT"


async def sender(request: web.Request, readers: Readers) -> keys.Holder:
    """The project that may send with this request. Raises ``Problem`` 401 (no key, unknown key) or 403 (revoked)."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        detail = "Authorization: Bearer KEY is missing"
        raise Problem(401, "A key is needed", detail, _REMEDY, "Authorization", {"WWW-Authenticate": "Bearer"})
    return _valid(await readers.read(keys.find, key.strip()), "Bearer")


async def reader(request: web.Request, readers: Readers, *, loopback: bool) -> keys.Holder | None:
    """None where everything may be seen; else the one project that may. Raises ``Problem`` 401 or 403."""
    if loopback and is_loopback(_host(request)) and not any(name in request.headers for name in _FORWARDED):
        return None
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    key = given.strip()
    if scheme.lower() == "basic":
        try:
            key = base64.b64decode(key, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            key = ""
    if scheme.lower() not in ("basic", "bearer") or not key:
        detail = "looking from another machine needs a project's key as the password (any user name)"
        raise Problem(401, "A key is needed", detail, _REMEDY, "Authorization", {"WWW-Authenticate": _BASIC})
    return _valid(await readers.read(keys.find, key), _BASIC)


def is_loopback(host: str) -> bool:
    """Whether a host name or address always means this machine."""
    if host.lower().rstrip(".") in ("localhost", "ip6-localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


_BASIC = 'Basic realm="Sendoff: a project\'s key as the password", charset="UTF-8"'


def _host(request: web.Request) -> str:
    host = request.headers.get("Host", "")
    if host.startswith("["):
        return host.partition("]")[0]
    return host.partition(":")[0]


def _valid(holder: keys.Holder | None, challenge: str) -> keys.Holder:
    if holder is None:
        headers = {"WWW-Authenticate": challenge}
        raise Problem(401, "The key is not known", "no project has this key", _REMEDY, "Authorization", headers)
    if holder.revoked:
        detail = f"this key of {holder.project_name} was revoked"
        raise Problem(403, "The key was revoked", detail, _REMEDY, "Authorization")
    return holder
