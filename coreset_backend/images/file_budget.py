"""How many bytes of image files are in memory at once, on their way from the network to a decoder."""

import contextlib
import threading
from collections.abc import Iterator

from coreset_backend.decoding import MemoryBudget
from coreset_backend.errors import ImageError

SMALL_BYTES = 1_000_000
"""Files up to here are not counted: sixteen of them are nothing."""
_COPIES = 2  # while it is put together, and then in the pipe to its decoder


class FileBudget:
    """Bytes of files, shared by all threads; ``max_bytes`` is the largest file."""

    def __init__(self, max_bytes: int) -> None:
        self._budget = MemoryBudget(_COPIES * max_bytes)
        self._mine = threading.local()

    @contextlib.contextmanager
    def one_file(self) -> Iterator[None]:
        """What this thread expects within is returned at the end."""
        with contextlib.ExitStack() as self._mine.file:
            yield

    def expect(self, count: int) -> None:
        """Wait until a file of ``count`` bytes has room; a thread's second call replaces its first."""
        file: contextlib.ExitStack | None = getattr(self._mine, "file", None)
        if file is None or count <= SMALL_BYTES:
            return
        file.close()
        file.enter_context(self._budget.lent(_COPIES * count))


def too_large(max_bytes: int) -> ImageError:
    """The error for a larger file."""
    return ImageError(f"the file has more than the {max_bytes / 1e6:g} MB allowed (CORESET_IMAGE_MB)")
