"""The Annoy index over embedding rows, with a manifest. The only module that imports Annoy.

Annoy's file contains neither its metric nor its dimension: opened with wrong ones it loads as an
empty index. So a manifest is stored beside it and checked on open. Items are rows, never task ids:
Annoy's ids are dense, and one item with id 5,000,000 costs 381 MB.
"""

import errno
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from annoy import AnnoyIndex

from coreset_backend.arrays import Floats, Progress, Rows, Vectors, forget_pages
from coreset_backend.errors import CorruptRound, NotFinite
from coreset_backend.files import replacing, sha256
from coreset_backend.selection.graph import others_of
from coreset_backend.selection.pool import NeighborGraph

METRICS = ("euclidean", "angular")
ROWS_AT_ONCE = 16_384
"""Rows whose neighbours are held in Annoy's form while a graph is read off the index."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an index file holds: ``n`` rows of ``dimension`` values, and the SHA-256 of its bytes."""

    n: int
    dimension: int
    metric: str
    trees: int
    seed: int
    sha256: str


class NeighborIndex:
    """An index opened from disk; its pages are shared between processes."""

    name = "annoy"

    def __init__(self, index: AnnoyIndex, manifest: Manifest, path: Path) -> None:
        self._index, self.manifest, self._path = index, manifest, path

    def __len__(self) -> int:
        return self.manifest.n

    def nearest(self, queries: Vectors | Rows, k: int, *, effort: int = -1) -> tuple[Rows, Floats]:
        """The k nearest rows of each query, nearest first: rows int64[m, k], distances float32[m, k].

        ``queries`` are vectors float[m, d], or rows int64[m] of the index, which find themselves first.
        Where fewer than k are found the rest is -1, at distance inf. ``effort`` is how many items are
        looked at, -1 for trees x k. Raises ValueError for queries of another shape or unknown rows,
        NotFinite for NaN.
        """
        self._check(queries, k)
        rows = np.full((len(queries), k), -1, dtype=np.int64)
        distances = np.full((len(queries), k), np.inf, dtype=np.float32)
        by_row = np.issubdtype(queries.dtype, np.integer)
        for position, query in enumerate(queries):
            if by_row:
                found, far = self._index.get_nns_by_item(int(query), k, effort, include_distances=True)
            else:
                found, far = self._index.get_nns_by_vector(query, k, effort, include_distances=True)
            rows[position, : len(found)], distances[position, : len(far)] = found, far
        return rows, distances

    def graph(self, k: int, *, effort: int = -1) -> NeighborGraph:
        """The k nearest other rows of every row; at most n - 1 of them, the rest is -1 at inf."""
        n = self.manifest.n
        rows, distances = np.empty((n, k), dtype=np.int32), np.empty((n, k), dtype=np.float32)
        for start in range(0, n, ROWS_AT_ONCE):
            queries = np.arange(start, min(start + ROWS_AT_ONCE, n), dtype=np.int64)
            found = others_of(queries, *self.nearest(queries, k + 1, effort=effort))
            rows[queries], distances[queries] = found
        self._index.unload()  # or all its pages, which were read, would stay in memory
        self._index.load(os.fspath(self._path))
        return NeighborGraph(rows, distances, normalized=self.manifest.metric == "angular")

    def _check(self, queries: Vectors | Rows, k: int) -> None:
        if k < 1:
            raise ValueError(f"k must be 1 or more, not {k}")
        if np.issubdtype(queries.dtype, np.integer):
            if len(queries) and not 0 <= queries.min() <= queries.max() < self.manifest.n:
                raise ValueError(f"rows must lie in [0, {self.manifest.n})")
        elif queries.ndim != 2 or queries.shape[1] != self.manifest.dimension:
            raise ValueError(
                f"queries must be float[m, {self.manifest.dimension}], not {list(queries.shape)}"
            )
        elif not np.isfinite(queries).all():
            raise NotFinite("a query contains NaN or infinity; Annoy would silently answer it.")


def build_index(
    vectors: Vectors,
    path: Path,
    *,
    metric: str = "euclidean",
    trees: int = 10,
    seed: int = 0,
    progress: Progress | None = None,
) -> NeighborIndex:
    """Write the index of float[n, d] to ``path`` and its manifest beside it, and open it.

    One thread, so that the same vectors and seed give the same bytes. Raises NotFinite, and OSError where
    the disk has no room for it.
    """
    n, dimension = vectors.shape
    # Annoy writes its file through a memory map: on a full disk the kernel would end the process.
    if shutil.disk_usage(path.parent).free < 8 * n * dimension:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with replacing(path) as partial:
        _write_index(vectors, partial, metric, trees, seed, progress)
        forget_pages(vectors)
        manifest = Manifest(n, dimension, metric, trees, seed, sha256(partial))
    with replacing(_manifest_path(path)) as partial:
        partial.write_text(json.dumps(asdict(manifest)))
    return open_index(path)


def _write_index(
    vectors: Vectors, path: Path, metric: str, trees: int, seed: int, progress: Progress | None
) -> None:
    index = _index(vectors.shape[1], metric)
    index.set_seed(seed)
    index.on_disk_build(str(path))
    for row, vector in enumerate(vectors):
        if not np.isfinite(vector).all():
            raise NotFinite(f"row {row} contains NaN or infinity; Annoy would silently accept it.")
        index.add_item(row, vector)
        if progress and row % 1024 == 0:
            progress(row, len(vectors))
    index.build(trees, n_jobs=1)
    index.unload()


def open_index(path: Path) -> NeighborIndex:
    """The index at ``path``. Raises CorruptRound when it or its manifest is missing, torn or altered."""
    try:
        manifest = Manifest(**json.loads(_manifest_path(path).read_text()))
        digest = sha256(path)
    except (OSError, ValueError, TypeError) as error:
        raise CorruptRound(path, f"the index or its manifest cannot be read ({error})") from error
    if digest != manifest.sha256:
        raise CorruptRound(path, "the index does not match the hash in its manifest")
    index = _index(manifest.dimension, manifest.metric)
    index.load(os.fspath(path))
    if index.get_n_items() != manifest.n:
        raise CorruptRound(
            path, f"the index holds {index.get_n_items()} rows, its manifest says {manifest.n}"
        )
    return NeighborIndex(index, manifest, path)


def _index(dimension: int, metric: str) -> AnnoyIndex:
    if metric == "euclidean":
        return AnnoyIndex(dimension, "euclidean")
    if metric == "angular":
        return AnnoyIndex(dimension, "angular")
    raise ValueError(f"metric must be one of {METRICS}, not {metric!r}")


def _manifest_path(path: Path) -> Path:
    return path.with_suffix(".json")
