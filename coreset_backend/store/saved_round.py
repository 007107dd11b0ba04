"""A saved round on disk, and a draft that is being written."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreset_backend.errors import CorruptFile, CorruptRound
from coreset_backend.files import check_hash, flush, is_there, read_sealed, saving, sha256, write_sealed
from coreset_backend.reports import Publication
from coreset_backend.store.record import PUBLICATION, ROUND, as_saved, taken
from coreset_backend.store.record import Round as Round

log = logging.getLogger(__name__)
Arrays = dict[str, NDArray[np.generic]]
"""The arrays that are saved with a round's record, by name, of any dtype."""
_TABLES = (
    "embeddings",
    "image_keys",
    "probabilities",
    "layout",
    "label_sets",
    "suspect_sets",
    "pick_neighbors",
    "pick_distances",
    "neighbor_rows",
    "neighbor_distances",
    "compared_pairs",
)
"""The arrays with two dimensions; all others have one."""


@dataclass(frozen=True, slots=True)
class StoredRound:
    """A round in the store, at ``path``."""

    record: Round
    path: Path

    def has(self, name: str) -> bool:
        """Whether the round was saved with the array ``name``; older rounds lack some arrays."""
        return f"{name}.npy" in self.record.hashes

    def array(self, name: str) -> NDArray[Any]:
        """The array saved as ``name``, checked against its hash; raises CorruptRound."""
        path = self.path / f"{name}.npy"
        check_hash(path, self.record.hashes.get(path.name))
        try:
            array: NDArray[Any] = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise CorruptRound(self.path, f"{path.name} cannot be read ({error})") from error
        if array.ndim != (2 if name in _TABLES else 1):
            raise CorruptRound(self.path, f"{path.name} has {array.ndim} dimensions")
        return array

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Around code that reads several arrays: raises CorruptRound if their shapes do not match."""
        try:
            yield
        except (LookupError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise CorruptRound(self.path, f"its files do not match each other ({error})") from error

    @property
    def publication(self) -> Publication | None:
        """The publication of the round; None as long as it has not been published."""
        path = self.path / "published.json"
        if not is_there(path):
            return None
        try:
            return taken(PUBLICATION, read_sealed(path, unsealed_too=True))
        except (CorruptFile, ValueError) as error:  # then the round is published again, which does no harm
            log.error("%s cannot be used, so the round counts as not published: %s", path, error)
            return None

    def timings(self, publication: Publication | None) -> dict[str, float]:
        """Seconds by phase, including the ``publication``, which happens after the record was written."""
        if publication is None or publication.seconds is None:
            return self.record.timings
        return {**self.record.timings, "publish": publication.seconds}

    def mark_unpublished(self) -> None:
        """Remove the publication, so that the round is published again; raises Unwritable."""
        with saving(path := self.path / "published.json"):
            path.unlink(missing_ok=True)
            flush(self.path)

    def verify(self) -> None:
        """Raises CorruptRound with the name of the first file that was changed since it was saved."""
        for name, expected in self.record.hashes.items():
            check_hash(self.path / name, expected)

    def mark_published(self, publication: Publication) -> None:
        """Save the publication of the round; raises Unwritable."""
        write_sealed(self.path / "published.json", as_saved(PUBLICATION, publication))


class Draft:
    """A round that is being written, in a folder that readers ignore."""

    def __init__(self, path: Path, project_id: int, number: int) -> None:
        self.path, self.project_id, self.number = path, project_id, number
        self.saved: StoredRound | None = None

    def save(self, record: Round, arrays: Mapping[str, NDArray[np.generic]]) -> StoredRound:
        """Write arrays and record, hash every file of the folder, and make the round visible."""
        for name, array in arrays.items():
            np.save(self.path / f"{name}.npy", array, allow_pickle=False)
        hashes = {path.name: sha256(path) for path in sorted(self.path.iterdir()) if path.is_file()}
        record = replace(record, hashes=hashes)
        write_sealed(self.path / "round.json", as_saved(ROUND, record))
        for path in self.path.iterdir():
            flush(path)
        final = self.path.with_name(_folder(self.number))
        self.path.rename(final)
        flush(final.parent)
        self.saved = StoredRound(record, final)
        return self.saved


def _folder(number: int) -> str:
    return f"round-{number:05d}" if 0 < number < 10**9 else "round-?"
