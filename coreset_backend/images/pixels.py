"""The pixels of a pool: the images to fetch, the results so far, and the rows of the readable ones."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Resize, Rows, TaskIds
from coreset_backend.images.revisions import ASKING_SECONDS, Seen

Array = NDArray[np.uint8]
SMALL = 64  # pixels a side, up to which a pool may live in memory
MOST_IN_MEMORY = 1_300_000_000  # bytes of such a pool: 100,000 images of 64 pixels
_KEPT_BYTES = 1 << 30  # limit of pixels in memory that have no room on disk


@dataclass(slots=True)
class Wanted:
    """One image: its address, the rows of the tasks that show it, and its state at the last check.

    ``key``: the cache key of its pixels, empty until its content is known. ``is_cached``: whether they were
    cached at the start, or are not looked for because the image ``is_known``. ``has_changed``: whether the
    file was replaced since.
    """

    task_id: int
    uri: str
    address: str
    rows: list[int]
    seen: Seen | None = None
    key: str = ""
    is_known: bool = False
    is_cached: bool = False
    has_changed: bool = False


class Pixels:
    """The pixels of the readable tasks, read-only, in the order of the given tasks.

    ``task_ids`` is int64[n]; ``pixels[rows]`` is uint8[len(rows), size, size, 3] for a slice or int64 rows
    (a row is a position in ``task_ids``). Small pools are one array; others are read from the cache.
    Raises ``ImageError`` if an entry was evicted and its image can no longer be fetched, which is rare.
    ``keys`` is uint8[n, 32]: each image's key in the cache. ``touched``: number of images looked for.
    """

    def __init__(self, task_ids: TaskIds, keys: Array, rows: "CachedRows | Array", touched: int = 0) -> None:
        self.task_ids, self.keys, self._rows, self.touched = task_ids, keys, rows, touched

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._rows.shape)

    def __len__(self) -> int:
        return len(self.task_ids)

    def __getitem__(self, rows: slice | Rows, /) -> Array:
        return self._rows[rows]


class CachedRows:
    """Pixels that are read on access, by the rows of ``task_ids``, ``uris`` and ``keys`` uint8[n, 32]."""

    def __init__(
        self,
        read: Callable[[int, str, str, Resize], Array],
        task_ids: TaskIds,
        uris: Sequence[str],
        keys: Array,
        resize: Resize,
        kept: dict[str, Array],
    ) -> None:
        self._read, self._task_ids, self._uris, self._keys = read, task_ids, uris, keys
        self._resize, self._kept = resize, kept

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._uris), self._resize.size, self._resize.size, 3)

    def __len__(self) -> int:
        return len(self._uris)

    def __getitem__(self, rows: slice | Rows, /) -> Array:
        chosen = np.arange(len(self))[rows]
        pixels = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        for place, row in enumerate(chosen):
            key = self._keys[row].tobytes().hex()
            kept = self._kept.get(key)
            task_id, uri = int(self._task_ids[row]), self._uris[row]
            pixels[place] = self._read(task_id, uri, key, self._resize) if kept is None else kept
        return pixels


class FetchResults:
    """The results so far of a fetch of ``count`` tasks, whose images are resized as ``resize`` says.

    ``keys``: uint8[count, 32], each task's key in the cache, once its content is known. ``small``:
    uint8[count, size, size, 3], filled by rows, if the images are kept in memory, else ``None``.
    ``kept``: key -> pixels that have no room on disk. ``reasons``: address -> reason of its failure.
    ``touched``: number of images looked for. ``refreshed_at``: the refresh that the fetch follows.
    """

    def __init__(self, count: int, resize: Resize, refreshed_at: float = 0.0, *, in_memory: bool) -> None:
        self.resize, self.refreshed_at = resize, refreshed_at
        self.keys = np.zeros((count, 32), np.uint8)
        shape = (count, resize.size, resize.size, 3)
        in_memory = in_memory and resize.size <= SMALL and math.prod(shape) <= MOST_IN_MEMORY
        self.small = np.empty(shape, np.uint8) if in_memory else None
        self.kept: dict[str, Array] = {}
        self.reasons: dict[str, str] = {}
        self.touched = 0
        self.ask_until = time.monotonic() + ASKING_SECONDS
        self._room = _KEPT_BYTES
        self._lock = threading.Lock()

    def note_key(self, image: Wanted) -> None:
        """Note the key of ``image``, by its rows."""
        if image.key:
            self.keys[image.rows] = np.frombuffer(bytes.fromhex(image.key), np.uint8)

    def keep(self, image: Wanted, pixels: Array, stored: bool) -> None:
        """Keep the ``pixels`` of ``image``, uint8[size, size, 3], unless they are ``stored`` on disk."""
        if self.small is not None:
            self.small[image.rows] = pixels
        elif not stored:
            with self._lock:
                if self._room >= pixels.nbytes:
                    self.kept[image.key] = pixels
                    self._room -= pixels.nbytes

    def small_rows(self, rows: Rows) -> Array | None:
        """``small`` reduced to ``rows`` (ascending) in place, read-only: no second copy in memory."""
        if self.small is None:
            return None
        for place, row in enumerate(rows):
            if place != row:
                self.small[place] = self.small[row]
        reduced = self.small[: len(rows)]
        reduced.flags.writeable = False
        return reduced
