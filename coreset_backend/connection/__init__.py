"""Connects a project to this backend, publishes batches to it, disconnects it."""
