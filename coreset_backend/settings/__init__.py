"""The settings of a process, read from the environment and files of secrets. Imports errors and redaction."""

from coreset_backend.settings.environment import read_settings
from coreset_backend.settings.settings import Settings

__all__ = ["Settings", "read_settings"]
