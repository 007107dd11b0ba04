"""A saved round on disk, and a draft that is being written."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from coreset_backend.errors import CorruptFile, CorruptRound
from coreset_backend.files import sha256, write_sealed
from coreset_backend.reports import Publication
from coreset_backend.store.record import PUBLICATION, ROUND, as_saved, taken
from coreset_backend.store.record import Round as Round
from coreset_backend.store.storage import RECORD, Kept, Storage

log = logging.getLogger(__name__)
Arrays = dict[str, NDArray[np.generic]]
"""The arrays that are saved with a round's record, by name, of any dtype."""
MOST_CHECKED = 1000
_checked: dict[Path, tuple[str | int | None, ...]] = {}
MOST_COMPUTED = 100
_computed: dict[tuple[Path, str], tuple[object, object]] = {}
AnyArray = TypeVar("AnyArray", bound=NDArray[np.generic])
T = TypeVar("T")
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
    """A round in the store, with its folder ``path`` on this machine."""

    record: Round
    path: Path
    storage: Storage
    key: str

    @property
    def place(self) -> str:
        """How messages name it."""
        return self.storage.place(self.key)

    def has(self, name: str) -> bool:
        """Whether the round was saved with the array ``name``; older rounds lack some arrays."""
        return f"{name}.npy" in self.record.hashes

    def array(self, name: str, *, mapped: bool = False) -> NDArray[Any]:
        """The array saved as ``name``, checked against its hash; raises CorruptRound.

        ``mapped``: its values are read from the disk as they are used, and each process checks them once, for
        arrays of many rows.
        """
        path = self._file_once(f"{name}.npy") if mapped else self.file(f"{name}.npy")
        try:
            array: NDArray[Any] = _mapped(path) if mapped else np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise CorruptRound(self.place, f"{path.name} cannot be read ({error})") from error
        if array.ndim != (2 if name in _TABLES else 1):
            raise CorruptRound(self.place, f"{path.name} has {array.ndim} dimensions")
        return array

    def file(self, name: str) -> Path:
        """The file of the round on this machine, checked against its hash; raises CorruptRound."""
        return self.storage.file_of_round(self.key, self.path, name, self.record.hashes.get(name))

    def _file_once(self, name: str) -> Path:
        """As ``file``, but a file that this process has checked is checked again only once it was written."""
        path, expected = self.path / name, self.record.hashes.get(name)
        if _checked.get(path) != (expected, *_state(path)):
            path = self.file(name)
            if len(_checked) > MOST_CHECKED:
                _checked.clear()
            _checked[path] = (expected, *_state(path))
        return path

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Around code that reads several arrays: raises CorruptRound if their shapes do not match."""
        try:
            yield
        except (LookupError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise CorruptRound(self.place, f"its files do not match each other ({error})") from error

    @property
    def publication(self) -> Publication | None:
        """The publication of the round; None as long as it has not been published."""
        try:
            saved = self._published.read(unsealed_too=True)
            return None if saved is None else taken(PUBLICATION, saved)
        except (CorruptFile, ValueError) as error:  # then the round is published again, which does no harm
            log.error("%s cannot be used, so the round counts as not published: %s", self._published, error)
            return None

    @property
    def _published(self) -> Kept:
        return Kept(self.storage, f"{self.key}/published.json")

    def timings(self, publication: Publication | None) -> dict[str, float]:
        """Seconds by phase, including the ``publication``, which happens after the record was written."""
        if publication is None or publication.seconds is None:
            return self.record.timings
        return {**self.record.timings, "publish": publication.seconds}

    def mark_unpublished(self) -> None:
        """Remove the publication, so that the round is published again; raises Unwritable."""
        self._published.delete()

    def verify(self) -> None:
        """Raises CorruptRound with the name of the first file that was changed since it was saved."""
        for name in self.record.hashes:
            self.file(name)

    def mark_published(self, publication: Publication) -> None:
        """Save the publication of the round; raises Unwritable."""
        self._published.write(as_saved(PUBLICATION, publication))


def computed_once(function: Callable[[StoredRound], T], stored: StoredRound) -> T:
    """What the ``function`` says of the round; each process computes it anew only once a file has changed.

    For what takes long of a large round, and whose result is small.
    """
    key = stored.path, function.__qualname__
    known = _computed.get(key)
    if known is not None and known[0] == _version(stored):
        return cast("T", known[1])
    found = function(stored)
    if len(_computed) >= MOST_COMPUTED:
        _computed.clear()
    _computed[key] = _version(stored), found
    return found


class Draft:
    """A round that is being written, in a folder that readers ignore."""

    def __init__(self, path: Path, project_id: int, number: int, storage: Storage, key: str) -> None:
        self.path, self.project_id, self.number = path, project_id, number
        self._storage, self._key = storage, key
        self.saved: StoredRound | None = None
        self._kept: set[str] = set()

    def keep(self, name: str, array: AnyArray) -> AnyArray:
        """Write a large array before the round is saved; returns it mapped from its file."""
        np.save(path := self.path / f"{name}.npy", array, allow_pickle=False)
        self._kept.add(name)
        return cast("AnyArray", _mapped(path))

    def save(self, record: Round, arrays: Mapping[str, NDArray[np.generic]]) -> StoredRound:
        """Write arrays and record, hash every file of the folder, and make the round visible.

        Arrays that were kept are written already.
        """
        for name in arrays.keys() - self._kept:
            np.save(self.path / f"{name}.npy", arrays[name], allow_pickle=False)
        hashes = {path.name: sha256(path) for path in sorted(self.path.iterdir()) if path.is_file()}
        record = replace(record, hashes=hashes)
        write_sealed(self.path / RECORD, as_saved(ROUND, record))
        self.saved = StoredRound(
            record, self._storage.publish(self.path, self._key), self._storage, self._key
        )
        return self.saved


def _state(path: Path) -> tuple[int, ...]:
    """What changes when a file is written; empty if it is not there."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _version(stored: StoredRound) -> tuple[Round, list[tuple[int, ...]]]:
    """What differs between two rounds in the same place, and once a file of the round is written."""
    return stored.record, [_state(stored.path / name) for name in stored.record.hashes]


def _mapped(path: Path) -> NDArray[np.generic]:
    """The array of the file; what is written to it stays in memory."""
    array: NDArray[np.generic] = np.load(path, mmap_mode="c", allow_pickle=False).view(np.ndarray)
    return array
