"""Why a gateway's ZeroMQ port cannot be had, asked of the port itself: ZeroMQ's own events do not say."""

import asyncio
import socket

from sendoff_server.outputs.words import explain_connect

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32)
"""How a CURVE client begins (ZMTP 3.0, RFC 23): signature, version, mechanism, no server, filler."""
LOOK_S = 2.0


async def diagnose(host: str, port: int, where: str, *, curve: str = "") -> str:
    """One sentence about a port that took no connection, or broke it off before keys were agreed on.

    `curve`: the sentence where it speaks ZeroMQ and encrypts; left out: that it has another key.
    """
    try:
        async with asyncio.timeout(LOOK_S):
            reader, writer = await asyncio.open_connection(host, port)
    except OSError as error:  # TimeoutError is one
        return explain_connect(error, where)
    try:
        async with asyncio.timeout(LOOK_S):
            writer.write(GREETING)
            theirs = await reader.readexactly(len(GREETING))
    except asyncio.IncompleteReadError as error:
        theirs = error.partial
        if not theirs:
            return f"{where} closes every connection at once: is it the ZeroMQ port of a gateway (gateway.zmq.listen)?"
    except TimeoutError:
        return (
            f"{where} takes the connection and says nothing: is it the ZeroMQ port of a gateway (gateway.zmq.listen)?"
        )
    except OSError as error:
        return f"{where} broke the connection off: {error.strerror or error}"
    finally:
        writer.close()
    if theirs[:1] != b"\xff" or len(theirs) < len(GREETING):
        return f"{where} does not speak ZeroMQ: the url needs the port of gateway.zmq.listen, not the one for HTTP"
    if theirs[12:32].rstrip(b"\0") != b"CURVE":
        return f"{where} speaks ZeroMQ, but does not encrypt (CURVE), as a Sendoff gateway always does"
    return curve or (
        f"{where} does not have the key that server= in the url names, and broke off: copy the url that "
        "`sendoff gateway keys create PROJECT --curve` prints there"
    )


def addresses_of(host: str, port: int) -> list[str]:
    """The numeric addresses of a name; waits for the name server. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(where[0]) for *_, where in found))
