"""The cache of resized pixels on disk: one file per image, bounded, the least recently used is evicted first.

Several workers may share the folder, so the folder itself is the only state: an entry's modification time is
the time of its last use; memory holds only a running estimate of the total size. An entry contains the
SHA-256 of its pixels; an incomplete or altered entry counts as missing. Nothing is fsynced: after a power
failure the image is fetched again.
"""

import hashlib
import logging
import math
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coreset_backend.arrays import Resize, Rows
from coreset_backend.errors import ImageError
from coreset_backend.files import PARTIAL, TORN_SECONDS, replacing

logger = logging.getLogger(__name__)

_MAGIC = b"CSPX0001"
_HEADER = len(_MAGIC) + hashlib.sha256().digest_size
_SUFFIX = ".pixels"
_MAKE_ROOM = 0.9  # evict down to this share of the limit, so that not every write lists the folder


class PixelCache:
    """Key -> uint8[size, size, 3] in ``folder``; at most ``max_bytes``, and ``spare_bytes`` of the disk stay
    free.

    A key is a hexadecimal digest. Safe to use from several threads and processes at once.
    """

    def __init__(self, folder: Path, max_bytes: int, spare_bytes: int) -> None:
        self._folder, self._max_bytes, self._spare_bytes = folder, max_bytes, spare_bytes
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._total = sum(size for _, size, _ in self._entries())
        self._full_since_ns = 0
        self._said_full = False

    def has(self, key: str, size: int) -> bool:
        """Whether there is an entry of the right length; marks it as used now."""
        path = self._path(key)
        try:
            if path.stat().st_size != _HEADER + size * size * 3:
                return False
            _touch(path)
        except OSError:
            return False
        return True

    def read(self, key: str, size: int) -> NDArray[np.uint8] | None:
        """The pixels, uint8[size, size, 3]; ``None`` if missing, incomplete or altered."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        if data[:_HEADER] == _header(data[_HEADER:]) and len(data) == _HEADER + size * size * 3:
            return np.frombuffer(data, dtype=np.uint8, offset=_HEADER).reshape(size, size, 3)
        logger.warning("A cached image was incomplete or altered; it is fetched again (%s)", path.name)
        path.unlink(missing_ok=True)
        return None

    def write(self, key: str, pixels: NDArray[np.uint8], in_use_since_ns: int) -> bool:
        """Store ``pixels``, uint8[size, size, 3]; False if there is no room or the disk fails.

        Entries used at or after ``in_use_since_ns`` (``time.time_ns``) are not evicted for it: a pool larger
        than the cache would otherwise evict each entry just before it is needed.
        """
        data = pixels.tobytes()
        if not self._make_room(_HEADER + len(data), in_use_since_ns):
            return False
        try:
            path = self._path(key)
            path.parent.mkdir(exist_ok=True)
            with replacing(path, durable=False) as partial:
                partial.write_bytes(_header(data) + data)
                _touch(partial)
        except OSError as error:
            self._say_full(f"writing failed: {error.strerror}")
            return False
        with self._lock:
            self._total += _HEADER + len(data)
        return True

    def _path(self, key: str) -> Path:
        return _entry_path(self._folder, key)

    def _make_room(self, needed: int, in_use_since_ns: int) -> bool:
        try:
            free = shutil.disk_usage(self._folder).free
        except OSError as error:
            self._say_full(f"the folder cannot be read: {error.strerror}")
            return False
        if free - needed < self._spare_bytes:
            self._say_full(f"only {free / 1e9:.1f} GB of disk are free")
            return False
        with self._lock:
            if self._total + needed <= self._max_bytes:
                return True
            if self._full_since_ns == in_use_since_ns:
                return False
            self._evict(self._max_bytes * _MAKE_ROOM - needed, in_use_since_ns)
            fits = self._total + needed <= self._max_bytes
            self._full_since_ns = 0 if fits else in_use_since_ns
        if not fits:
            self._say_full(f"this pool needs more than its {self._max_bytes / 1e9:g} GB (CORESET_CACHE_GB)")
        return fits

    def _evict(self, target: float, in_use_since_ns: int) -> None:
        """Remove the least recently used entries until ``target`` bytes are left; the lock is held."""
        entries = sorted(self._entries())
        self._total = sum(size for _, size, _ in entries)
        for used_ns, size, path in entries:
            if self._total <= target or used_ns >= in_use_since_ns:
                return
            path.unlink(missing_ok=True)
            self._total -= size

    def _entries(self) -> list[tuple[int, int, Path]]:
        """(last used in ns, bytes, path) of every entry; leftovers of dead processes are removed."""
        found = []
        for shard in _folders(self._folder):
            with os.scandir(shard) as files:
                for file in files:
                    try:
                        status = file.stat(follow_symlinks=False)
                    except FileNotFoundError:  # another worker was faster
                        continue
                    if file.name.endswith(_SUFFIX):
                        found.append((status.st_mtime_ns, status.st_size, Path(file.path)))
                    elif file.name.endswith(PARTIAL) and status.st_mtime < time.time() - TORN_SECONDS:
                        Path(file.path).unlink(missing_ok=True)
        return found

    def _say_full(self, why: str) -> None:
        """Log the reason once per cache, not once per image."""
        if not self._said_full:
            self._said_full = True
            logger.warning("The image cache is full: %s. Images stay in memory or are fetched again", why)


class CachedPixels:
    """The images with ``keys``, uint8[m, 32], that are in the cache, without repetitions; read on access.

    ``pixels[rows]`` is uint8[len(rows), size, size, 3] for int64 rows; ``keys``, uint8[n, 32], are the keys
    of the rows, ascending. Cached pixels of another size than ``resize`` says are resized; those of its size
    stay as they are, and all do where it is None. Raises ``ImageError`` if an image was evicted meanwhile.
    """

    def __init__(self, folder: Path, keys: NDArray[np.uint8], resize: Resize | None = None) -> None:
        found = [key for key in np.unique(keys, axis=0) if _entry_path(folder, key.tobytes().hex()).is_file()]
        self.keys = np.array(found, dtype=np.uint8).reshape(-1, 32)
        self._folder = folder
        self._resize = resize or Resize(len(self._cached(0)) if found else 0)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.keys), self._resize.size, self._resize.size, 3)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, rows: Rows, /) -> NDArray[np.uint8]:
        pixels = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for place, row in enumerate(rows):
            pixels[place] = self._read(int(row))
        return pixels

    def _read(self, row: int) -> NDArray[np.uint8]:
        pixels = self._cached(row)
        if len(pixels) == self._resize.size:
            return pixels
        side, kind = (self._resize.size,) * 2, Image.Resampling[self._resize.interpolation.upper()]
        return np.asarray(Image.fromarray(pixels).resize(side, kind))

    def _cached(self, row: int) -> NDArray[np.uint8]:
        pixels = read_pixels(self._folder, self.keys[row].tobytes().hex())
        if pixels is None:
            raise ImageError("an image was evicted from the cache; the next round fetches it again")
        return pixels


def read_pixels(folder: Path, key: str) -> NDArray[np.uint8] | None:
    """The square pixels under ``key`` without opening the whole cache: uint8[size, size, 3], or None."""
    try:
        data = _entry_path(folder, key).read_bytes()
    except OSError:
        return None
    size = math.isqrt(max(len(data) - _HEADER, 0) // 3)
    if not size or len(data) != _HEADER + size * size * 3 or data[:_HEADER] != _header(data[_HEADER:]):
        return None
    return np.frombuffer(data, dtype=np.uint8, offset=_HEADER).reshape(size, size, 3)


def _entry_path(folder: Path, key: str) -> Path:
    return folder / key[:2] / f"{key}{_SUFFIX}"


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as children:
        return [child.path for child in children if child.is_dir(follow_symlinks=False)]


def _header(data: bytes) -> bytes:
    return _MAGIC + hashlib.sha256(data).digest()


def _touch(path: Path) -> None:
    # Explicit, because file systems use a coarser clock than time.time_ns by default.
    now = time.time_ns()
    os.utime(path, ns=(now, now))
