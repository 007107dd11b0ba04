"""Ports of servers that are away for a while."""

import socket


def kept(port: int) -> socket.socket:
    """What keeps ``port`` of this machine from all others until it is closed; who connects is refused.

    Else the system may give the port of a server that is away to any connection or server of other tests.
    """
    keeper = socket.socket()
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # beside connections that still end
    keeper.bind(("127.0.0.1", port))
    return keeper
