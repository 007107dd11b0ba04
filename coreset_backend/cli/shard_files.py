"""Embeddings in a file or a folder of shards, .npy or Parquet: one pool in the order of the names."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Rows, Vectors
from coreset_backend.errors import ConfigError

SUFFIXES = (".npy", ".parquet")
ID_COLUMN = "id"


@dataclass(frozen=True, slots=True)
class ShardFiles:
    """The files with their vectors, float[n, d] each, mapped to memory; ids of all rows, str[n], if any."""

    paths: list[Path]
    parts: list[Vectors]
    ids: NDArray[np.str_] | None

    def rows_of(self, labeled: Path) -> Rows:
        """The rows that a text file names, one per line: by id where there are ids. Raises ConfigError."""
        try:
            text = labeled.read_text()
        except (OSError, ValueError) as error:
            raise ConfigError(f"{labeled} cannot be read: {error}") from error
        if self.ids is None:
            return _numbers_in(text, labeled)
        wanted = np.array([line.strip() for line in text.splitlines() if line.strip()], dtype=np.str_)
        order = np.argsort(self.ids)
        rows = order[np.searchsorted(self.ids, wanted, sorter=order).clip(max=len(order) - 1)]
        if len(missing := wanted[self.ids[rows] != wanted]):
            first = str(missing[0])
            raise ConfigError(
                f"{labeled}: {len(missing)} of {len(wanted)} ids are in no shard, first {first!r}."
            )
        return np.asarray(rows, dtype=np.int64)


def _numbers_in(text: str, path: Path) -> Rows:
    try:
        return np.array([int(word) for word in text.split()], dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"{path} must hold one row number per line: {error}") from error


def read_shards(path: Path, id_column: str | None, temporary: Path) -> ShardFiles:
    """A file, or all shards of a folder. Parquet's vectors are copied to .npy files in ``temporary``.

    Ids are the column ``id_column`` of Parquet files, by default "id" where they have it, and beside NAME.npy
    the lines of NAME.ids.txt. Raises ConfigError for a folder without shards and for shards that differ.
    """
    paths = _shards_in(path) if path.is_dir() else [path]
    parts = [_vectors_of(each, temporary) for each in paths]
    _require_alike(paths, parts)
    ids = [_ids_of(each, id_column) for each in paths]
    _require_ids(paths, parts, ids, id_column)
    known = [part for part in ids if part is not None]
    whole = np.concatenate(known) if known else None
    if whole is not None:
        _require_distinct(whole)
    shards = [(each, part) for each, part in zip(paths, parts, strict=True) if len(part)]
    return ShardFiles([each for each, _ in shards], [part for _, part in shards], whole)


def _shards_in(folder: Path) -> list[Path]:
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith((".", "_"))]
    found = [path for path in files if path.suffix in SUFFIXES]
    kinds = {path.suffix for path in found}
    if len(kinds) != 1:
        what = (
            "holds both .npy and .parquet files: leave one kind"
            if kinds
            else "holds no .npy or .parquet file"
        )
        raise ConfigError(f"{folder} {what}. Each file is one shard, and their names give their order.")
    return sorted(found, key=_by_numbers)


def _by_numbers(path: Path) -> list[tuple[int, str]]:
    """part-2 before part-10."""
    words = re.split(r"(\d+)", path.name)
    return [(int(word), "") if word.isdigit() else (-1, word) for word in words]


def _vectors_of(path: Path, temporary: Path) -> Vectors:
    if path.suffix == ".npy":
        return vectors_in(path)
    from coreset_backend.cli import parquet_files  # pyarrow, an extra, takes a third of a second

    column = parquet_files.column_of_vectors(path)
    return parquet_files.write_vectors(path, column, temporary / f"{path.stem}.npy")


def vectors_in(path: Path) -> Vectors:
    """The array of a .npy file, mapped to memory. Raises ConfigError."""
    try:
        array: Vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{path} cannot be read as a .npy array: {error}") from error
    return array


def _require_alike(paths: list[Path], parts: list[Vectors]) -> None:
    for path, part in zip(paths, parts, strict=True):
        if part.ndim != 2 or not np.issubdtype(part.dtype, np.floating):
            raise ConfigError(f"{path} must be float[n, d], not {part.dtype}{list(part.shape)}.")
    kinds: dict[tuple[int, np.dtype[np.floating]], Path] = {}
    for path, part in zip(paths, parts, strict=True):
        if len(part):
            kinds.setdefault((part.shape[1], part.dtype), path)
    if not kinds:
        raise ConfigError(f"{paths[0].parent}: its {len(paths)} shards have no rows.")
    if len(kinds) > 1:
        told = "; ".join(f"{path.name} has {kind[1]}[n, {kind[0]}]" for kind, path in kinds.items())
        raise ConfigError(
            f"All shards must have the same number of values per row and the same type: {told}."
        )


def _ids_of(path: Path, id_column: str | None) -> NDArray[np.str_] | None:
    if path.suffix == ".parquet":
        from coreset_backend.cli import parquet_files  # see above

        return parquet_files.ids_of(path, id_column or ID_COLUMN)
    listed = path.with_suffix(".ids.txt")
    if not listed.exists():
        return None
    return np.array(listed.read_text().splitlines(), dtype=np.str_)


def _require_ids(
    paths: list[Path], parts: list[Vectors], ids: list[NDArray[np.str_] | None], id_column: str | None
) -> None:
    without = [path.name for path, part in zip(paths, ids, strict=True) if part is None]
    if without and (id_column or len(without) < len(paths)):
        what = (
            f"column {id_column or ID_COLUMN}" if paths[0].suffix == ".parquet" else "NAME.ids.txt beside it"
        )
        raise ConfigError(f"{len(without)} of {len(paths)} shards have no ids, {without[0]} has no {what}.")
    for path, part, own in zip(paths, parts, ids, strict=True):
        if own is not None and len(own) != len(part):
            raise ConfigError(f"{path} has {len(part)} rows and {len(own)} ids.")


def _require_distinct(ids: NDArray[np.str_]) -> None:
    order = np.argsort(ids, kind="stable")
    again = order[1:][ids[order[1:]] == ids[order[:-1]]]
    if len(again):
        raise ConfigError(
            f"Ids must differ: {len(again)} occur again, {str(ids[again.min()])!r} is the first."
        )
