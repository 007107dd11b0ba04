"""The types of arrays that rooms exchange, images by rows, and progress callbacks.

A *row* is a position in an array, a *task id* is Label Studio's number. Both are int64, so the name of the
type tells them apart.
"""

import math
import mmap
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)
Rows = NDArray[np.int64]
"""Positions in the array that the function names."""
TaskIds = NDArray[np.int64]
"""Label Studio's numbers of tasks."""
Vectors = NDArray[np.floating]
"""float[n, d] of any precision, one vector per row: embeddings."""
Floats = NDArray[np.float32]
"""float32 of any shape: computed embeddings, probabilities, distances."""
Progress = Callable[[int, int], None]
"""Called with (done, total) from time to time; ``done`` never falls."""
PhaseProgress = Callable[[str, int, int], None]
"""Called with (phase, done, total)."""

Interpolation = Literal["bilinear", "bicubic", "nearest", "lanczos", "box", "hamming"]
"""A filter of Pillow's ``Image.resize``."""


@dataclass(frozen=True, slots=True)
class Resize:
    """How a picture becomes square pixels: ``size`` a side, by this ``interpolation``."""

    size: int
    interpolation: Interpolation = "bilinear"


def forget_pages(array: NDArray[np.generic] | None) -> None:
    """Drop from memory what was read of an array that is mapped from a file; its next use reads it again."""
    place: object = array
    while isinstance(place, np.ndarray):
        place = place.base
    if isinstance(place, mmap.mmap):
        place.madvise(mmap.MADV_DONTNEED)


def empty_beside(
    source: NDArray[np.generic], shape: tuple[int, ...], dtype: type[Scalar] | np.dtype[Scalar]
) -> NDArray[Scalar]:
    """An array to fill. If ``source`` is mapped from a file, so is it: from an unnamed one in that folder.

    A copy of an array that memory need not hold is then not held by it either, once its pages are forgotten.
    The file is gone with the array, and with the process. If it cannot be made, the array is in memory.
    """
    path, size = _path_of(source), math.prod(shape) * np.dtype(dtype).itemsize
    if path is None or not size:
        return np.empty(shape, dtype)
    try:
        with tempfile.TemporaryFile(dir=path.parent) as file:
            _reserve(file, size)
            array = np.memmap(file, dtype, "r+", shape=shape)
    except OSError:  # a read-only folder, or a full disk
        return np.empty(shape, dtype)
    array.filename = str(path)  # so that a copy of this one finds the folder, too
    return array.view(np.ndarray)


def _path_of(array: NDArray[np.generic]) -> Path | None:
    """The file that the array is mapped from; None for one in memory."""
    place: object = array
    while isinstance(place, np.ndarray):
        if isinstance(place, np.memmap):
            return None if place.filename is None else Path(place.filename)
        place = place.base
    return None


def _reserve(file: IO[bytes], size: int) -> None:
    """Make the file so large. On a full disk, the kernel would end a process that writes to a map of it."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:  # macOS
        zeros = bytes(2**24)
        for start in range(0, size, len(zeros)):
            file.write(zeros[: size - start])
        file.flush()


class KeyRows:
    """Finds rows by their keys: digests uint8[n, 32]. Holds 16 bytes a row beside the keys."""

    def __init__(self, keys: NDArray[np.uint8]) -> None:
        starts = _starts(keys)
        self._keys, self._order = keys, np.argsort(starts, kind="stable")
        self._sorted = starts[self._order]

    def find(self, wanted: NDArray[np.uint8]) -> Rows:
        """The last row that has each of the ``wanted`` keys uint8[m, 32], -1 without one: int64[m]."""
        if not len(self._keys):
            return np.full(len(wanted), -1, dtype=np.int64)
        place = np.searchsorted(self._sorted, _starts(wanted), side="right") - 1
        rows = self._order[place.clip(min=0)]
        return np.where((self._keys[rows] == wanted).all(axis=1), rows, -1)

    def with_more(self, keys: NDArray[np.uint8]) -> "KeyRows":
        """These and the ``keys`` uint8[m, 32] as rows behind them."""
        return KeyRows(np.concatenate([self._keys, keys]))


def _starts(keys: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The first 8 bytes of each digest as a number; no two of a billion images share theirs but by chance."""
    return np.ascontiguousarray(keys[:, :8]).view(np.uint64)[:, 0]


class RoundWatch(Protocol):
    """Called with (phase, done, total), and while a cluster works with the number of its machines."""

    def __call__(self, phase: str, done: int, total: int, machines: int = 0, /) -> None: ...


class PixelRows(Protocol):
    """Images by row, uint8[n, size, size, 3] in RGB: an array, or images on disk that are read when asked."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: Rows, /) -> NDArray[np.uint8]: ...


@dataclass(frozen=True, slots=True)
class PixelSubset:
    """The images of some rows of ``pixels``, read when asked."""

    pixels: PixelRows
    rows: Rows

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.pixels.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Rows, /) -> NDArray[np.uint8]:
        return self.pixels[self.rows[rows]]


def unwatched(*_: object) -> None:
    """Ignore the progress."""
