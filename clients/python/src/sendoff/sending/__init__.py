"""From a caller to the agent: one outbox, one lock, one thread, one connection.

The sockets (`stream`, `unix`, `udp`) are raw ones of `_socket`, non-blocking: no monkey patching replaces them, and
they never wait or switch greenlets.
"""
