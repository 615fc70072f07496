"""Why a gateway's ZeroMQ port cannot be had, asked of the port itself: ZeroMQ's own events do not say."""

import asyncio
import socket
from typing import Literal, NamedTuple

from sendoff_server.outputs.words import explain_connect

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32)
"""How a CURVE client begins (ZMTP 3.0, RFC 23): signature, version, mechanism, no server, filler."""
LOOK_S = 2.0
_IS_IT = "is it the ZeroMQ port of a gateway (gateway.zmq.listen)?"


class Diagnosis(NamedTuple):
    """What is wrong with a port: a stable word, and a sentence."""

    code: Literal["unreachable", "no_gateway", "server_key_wrong"]
    words: str


async def diagnose(host: str, port: int, where: str, *, late: str = "") -> Diagnosis:
    """Look at a port that took no connection, or broke it off before keys were agreed on.

    `late`: the sentence where it speaks ZeroMQ and encrypts, but took too long; else it has another key.
    """
    try:
        async with asyncio.timeout(LOOK_S):
            reader, writer = await asyncio.open_connection(host, port)
    except OSError as error:  # TimeoutError is one
        return Diagnosis("unreachable", explain_connect(error, where))
    try:
        async with asyncio.timeout(LOOK_S):
            writer.write(GREETING)
            theirs = await reader.readexactly(len(GREETING))
    except asyncio.IncompleteReadError as error:
        theirs = error.partial
        if not theirs:
            return Diagnosis("no_gateway", f"{where} closes every connection at once: {_IS_IT}")
    except TimeoutError:
        return Diagnosis("no_gateway", f"{where} takes the connection and says nothing: {_IS_IT}")
    except OSError as error:
        return Diagnosis("unreachable", f"{where} broke the connection off: {error.strerror or error}")
    finally:
        writer.close()
    if theirs[:1] != b"\xff" or len(theirs) < len(GREETING):
        words = f"{where} does not speak ZeroMQ: the url needs the port of gateway.zmq.listen, not the one for HTTP"
        return Diagnosis("no_gateway", words)
    if theirs[12:32].rstrip(b"\0") != b"CURVE":
        words = f"{where} speaks ZeroMQ, but does not encrypt (CURVE), as a Sendoff gateway always does"
        return Diagnosis("no_gateway", words)
    if late:
        return Diagnosis("unreachable", late)
    return Diagnosis(
        "server_key_wrong",
        f"{where} does not have the key that server= in the url names, and broke off: copy the url that "
        "`sendoff gateway keys create PROJECT --curve` prints there",
    )


def addresses_of(host: str, port: int) -> list[str]:
    """The numeric addresses of a name; waits for the name server. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(where[0]) for *_, where in found))
