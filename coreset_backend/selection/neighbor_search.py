"""Which index finds the near rows of a pool: Annoy's, or faiss' for millions of rows."""

import logging
from pathlib import Path

from coreset_backend.arrays import Progress, Vectors
from coreset_backend.selection import annoy_index, faiss_index

log = logging.getLogger(__name__)
FAISS_FROM = 2_000_000
"""From so many rows on faiss is used if it is installed: it finds .99 of the ten nearest rows of a mixture of
256 values, Annoy .64; but it holds the vectors in memory, where Annoy maps a file."""

Index = annoy_index.NeighborIndex | faiss_index.FaissIndex


def build_index(
    vectors: Vectors,
    path: Path,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    faiss_from: int = FAISS_FROM,
) -> Index:
    """The index of float[n, d], Euclidean. Annoy's is written to ``path``, faiss' stays in memory.

    Raises NotFinite, and OSError where the disk has no room for Annoy's.
    """
    if len(vectors) >= faiss_from:
        if faiss_index.is_installed():
            return faiss_index.FaissIndex(vectors, seed=seed, progress=progress)
        log.warning(
            "Annoy searches the neighbours of %d rows, since faiss is not installed; pip install "
            "'coreset-backend[faiss]' adds it",
            len(vectors),
        )
    return annoy_index.build_index(vectors, path, seed=seed, progress=progress)
