"""Limits the bytes of image files in memory between the network and the decoders."""

import contextlib
import threading
from collections.abc import Iterator

from coreset_backend.decoding import MemoryBudget
from coreset_backend.errors import ImageError

SMALL_BYTES = 1_000_000
"""Smaller files are not counted: sixteen of them need little memory."""
_COPIES = 2  # while it is assembled, and then in the pipe to its decoder


class FileBudget:
    """Bytes of files, shared by all threads; ``max_bytes`` is the largest file."""

    def __init__(self, max_bytes: int) -> None:
        self._budget = MemoryBudget(_COPIES * max_bytes)
        self._mine = threading.local()

    @contextlib.contextmanager
    def one_file(self) -> Iterator[None]:
        """Around the reading of one file: its bytes are returned to the budget at the end."""
        with contextlib.ExitStack() as self._mine.file:
            yield

    def expect(self, count: int) -> None:
        """Wait until there is room for ``count`` bytes; a thread's second call replaces its first."""
        file: contextlib.ExitStack | None = getattr(self._mine, "file", None)
        if file is None or count <= SMALL_BYTES:
            return
        file.close()
        file.enter_context(self._budget.lent(_COPIES * count))


def too_large(max_bytes: int) -> ImageError:
    """The error for a file of more than ``max_bytes``."""
    return ImageError(f"the file has more than the {max_bytes / 1e6:g} MB allowed (CORESET_IMAGE_MB)")
