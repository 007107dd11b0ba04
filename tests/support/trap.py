"""What a worker is made to call, or must never call."""

import os
import resource
import signal
from pathlib import Path


def spring(*_: object) -> None:
    """Leave a file where the variable TRAP says."""
    Path(os.environ["TRAP"]).touch()


def full_gpu(*_: object) -> None:
    """A strategy that finds no room on the GPU."""
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 23.6 GiB in all.")


def no_memory(*_: object) -> None:
    """A strategy that leaves its process less memory than saying so takes."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(),) * 2)
    while True:
        KEPT.append(bytearray(50_000))


def hang(*_: object) -> None:
    """A strategy that never comes back, and hears no alarm, as one stuck in compiled code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    signal.pause()


KEPT: list[bytearray] = []
