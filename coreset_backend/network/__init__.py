"""Outgoing connections: which addresses are allowed, through which proxy, with which certificates."""
