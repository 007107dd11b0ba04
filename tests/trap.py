"""What no job may make a worker do."""

import os
from pathlib import Path


def spring(*_: object) -> None:
    """Leave a file where the variable TRAP says."""
    Path(os.environ["TRAP"]).touch()
