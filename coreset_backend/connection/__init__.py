"""Connects a project to this backend, publishes to it, and undoes both. Uses Label Studio and the store."""
