"""ZeroMQ coming in, at the agent and at the gateway. Loaded only where it is asked for: libzmq comes with it.

`input.py` reads one ROUTER: `router.py` sets its bounds, `monitor.py` sees the connections beneath it, `peer.py` is one
of those who speak, `zap.py` lets them in, `unread.py` says who holds too much. Who takes in what they say is a
`reception.py`: the agent's is in `agent.py`, the gateway's in `gateway/customers.py`. `keyfile.py` is a server's key.
"""
