"""A gateway's ZeroMQ port as an output. Loaded only where an output has one: libzmq comes with it.

`output.py` is what delivery knows, `port.py` keeps connections to one address, `line.py` is one of them, and
`handshake.py` finds out why there is none.
"""
