"""Embeds a pool in shards: in this process, or on the machines of a Ray cluster."""
