"""The sockets. Raw ones of `_socket`, non-blocking, which no monkey patching replaces and which never wait or switch
greenlets.
"""
