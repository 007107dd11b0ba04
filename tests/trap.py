"""What a worker is made to call, or must never call."""

import os
from pathlib import Path


def spring(*_: object) -> None:
    """Leave a file where the variable TRAP says."""
    Path(os.environ["TRAP"]).touch()


def full_gpu(*_: object) -> None:
    """A strategy that finds no room on the GPU."""
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 23.6 GiB in all.")
