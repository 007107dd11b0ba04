"""The shards of a project that are embedded, one file each, until their round is saved.

A file is written whole or not at all and has a checksum; one that is damaged counts as missing. So a round
that takes the place of a killed one embeds again only what was in work.
"""

import contextlib
import io
import json
import logging
import shutil
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from coreset_backend.arrays import Floats, KeyRows, Rows
from coreset_backend.files import replacing

log = logging.getLogger(__name__)
KEPT_SECONDS = 86_400.0
"""As long as a file on a server counts as unchanged."""
DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True, slots=True)
class Source:
    """Where the images of a shard were read: by row the task, the SHA-256 of its file and its validator."""

    task_id: int
    content: str
    validator: str


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """A shard: of its readable images the ``keys`` uint8[k, 32] and the ``features`` float32[k, dimension].

    ``sources`` are those of another machine's reading; empty if this one has read the images.
    """

    keys: NDArray[np.uint8]
    features: Floats
    sources: tuple[Source, ...] = ()

    def packed(self) -> bytes:
        """The content of its file."""
        about = json.dumps([[each.task_id, each.content, each.validator] for each in self.sources])
        file = io.BytesIO()
        np.savez(
            file, keys=self.keys, features=self.features, sources=np.frombuffer(about.encode(), np.uint8)
        )
        return file.getvalue()


class Shelf:
    """The shards in ``folder`` whose features the network of that name has computed."""

    def __init__(self, folder: Path, network: str) -> None:
        self._folder, self._network = folder, network[:32]

    def prepare(self, refreshed_at: float = 0.0) -> None:
        """Make the folder, and delete what is of no use any more: another network's, a day old, or older than
        the refresh of that time."""
        since = max(time.time() - KEPT_SECONDS, refreshed_at)
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._folder.iterdir():
            with contextlib.suppress(OSError):
                if not path.name.startswith(self._network) or path.stat().st_mtime < since:
                    path.unlink()

    def has(self, name: str) -> bool:
        """Whether the shard of that name is there; a file that ends early is not."""
        try:
            with _opened(self._path(name)) as arrays:
                return {"keys", "features", "sources"} <= set(arrays.files)
        except DAMAGED:
            return False

    def put(self, name: str, packed: bytes) -> None:
        """Write the shard, whole or not at all. Raises OSError."""
        with replacing(self._path(name), durable=False) as partial:
            partial.write_bytes(packed)

    def sources(self) -> Iterator[Source]:
        """Where other machines read the images of these shards."""
        for path in self._paths():
            with _dropped_if_damaged(path), _opened(path) as arrays:
                for task_id, content, validator in json.loads(arrays["sources"].tobytes()):
                    yield Source(task_id, content, validator)

    def index(self) -> "Index":
        """Where the features of each image are."""
        paths: list[Path] = []
        found, places = [np.empty((0, 32), np.uint8)], [np.empty((0, 2), np.int64)]
        for path in self._paths():
            with _dropped_if_damaged(path), _opened(path) as arrays:
                keys = arrays["keys"].reshape(-1, 32)
                found.append(keys)
                places.append(np.stack([np.full(len(keys), len(paths)), np.arange(len(keys))], axis=1))
                paths.append(path)
        return Index(paths, np.concatenate(found), np.concatenate(places))

    def file_name(self, name: str) -> str:
        """The name of the shard's file in the folder."""
        return f"{self._network}-{name}.npz"

    def _path(self, name: str) -> Path:
        return self._folder / self.file_name(name)

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob(f"{self._network}-*.npz"))


def clear_shards(folder: Path) -> None:
    """Delete the shards: their round has been saved."""
    shutil.rmtree(folder, ignore_errors=True)


class Index:
    """The images of some shards: ``keys`` uint8[m, 32], and by key the features."""

    def __init__(self, paths: Sequence[Path], keys: NDArray[np.uint8], places: NDArray[np.int64]) -> None:
        self._paths, self.keys, self._places, self._rows = paths, keys, places, KeyRows(keys)

    def find(self, keys: NDArray[np.uint8]) -> Rows:
        """int64[k]: the place of each image ``keys`` uint8[k, 32] in the index, -1 if it is not there."""
        return self._rows.find(keys)

    def read(self, found: Rows, into: Floats) -> NDArray[np.bool_]:
        """Write the features at ``found`` int64[k], as `find` gives them, into the rows of ``into``.

        bool[k]: which rows were written; the others are missing, or their file is damaged.
        """
        written = np.zeros(len(found), dtype=bool)
        rows = np.flatnonzero(found >= 0)
        files = self._places[found[rows], 0]
        for file in np.unique(files):
            some, path = rows[files == file], self._paths[file]
            with _dropped_if_damaged(path), _opened(path) as arrays:
                into[some] = arrays["features"][self._places[found[some], 1]]
                written[some] = True
        return written


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[NpzFile]:
    """The arrays of a file; numpy itself would leave a damaged one open."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        yield arrays


@contextlib.contextmanager
def _dropped_if_damaged(path: Path) -> Iterator[None]:
    """End the block and delete the file if it turns out to be damaged."""
    try:
        yield
    except DAMAGED as error:
        log.warning("%s is damaged and embedded again: %s", path.name, error)
        with contextlib.suppress(OSError):
            path.unlink()
