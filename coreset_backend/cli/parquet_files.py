"""The only door to pyarrow, the extra `parquet`: columns of Parquet files as arrays."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Vectors
from coreset_backend.errors import ConfigError

try:
    import pyarrow as pa
    from pyarrow import compute, parquet
except ImportError:  # an extra
    parquet = None

ROWS_AT_ONCE = 16_384


def column_of_vectors(path: Path) -> str:
    """The name of the only column that holds lists of numbers. Raises ConfigError."""
    schema = _open(path).schema_arrow
    found = [field.name for field in schema if _is_list_of_floats(field.type)]
    if len(found) != 1:
        named = ", ".join(found) or "none"
        raise ConfigError(
            f"{path} must have one column of lists of float numbers, the embeddings; it has {named}. "
            f"Its columns: {', '.join(schema.names)}."
        )
    return str(found[0])


def write_vectors(path: Path, column: str, target: Path) -> Vectors:
    """Copies ``column`` to ``target``, a .npy file, mapped to memory: float[n, d]. Raises ConfigError."""
    file = _open(path)
    n, done = file.metadata.num_rows, 0
    vectors: Vectors = np.empty((0, 0), dtype=np.float32)
    for batch in file.iter_batches(ROWS_AT_ONCE, columns=[column]):
        lists = batch.column(0)
        lengths = {
            *compute.list_value_length(lists).unique().to_pylist(),
            *([vectors.shape[1]] if done else []),
        }
        if len(lengths) != 1 or None in lengths or 0 in lengths:
            told = ", ".join(sorted("missing" if each is None else str(each) for each in lengths))
            raise ConfigError(
                f"{path}: the lists of the column {column} must be of one length; found {told}."
            )
        numbers = lists.flatten().to_numpy(zero_copy_only=False).reshape(len(lists), -1)
        if not done:
            vectors = np.lib.format.open_memmap(target, "w+", numbers.dtype, (n, numbers.shape[1]))
        vectors[done : done + len(numbers)] = numbers
        done += len(numbers)
    return vectors


def ids_of(path: Path, column: str) -> NDArray[np.str_] | None:
    """The values of ``column`` as text: str[n]; None where there is no such column. Raises ConfigError."""
    file = _open(path)
    if column not in file.schema_arrow.names:
        return None
    values = file.read(columns=[column]).column(0)
    if values.null_count:
        raise ConfigError(f"{path}: {values.null_count} of its ids in the column {column} are missing.")
    return np.array([str(value) for value in values.to_pylist()], dtype=np.str_)


def _open(path: Path) -> "parquet.ParquetFile":
    if parquet is None:
        raise ConfigError(
            f"{path} is a Parquet file: install pyarrow to read it, pip install 'coreset-backend[parquet]'."
        )
    try:
        return parquet.ParquetFile(path, memory_map=True)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path} cannot be read as Parquet: {error}") from error


def _is_list_of_floats(kind: "pa.DataType") -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or _is_fixed(kind)
    return bool(is_list and pa.types.is_floating(kind.value_type))


def _is_fixed(kind: "pa.DataType") -> bool:
    return bool(pa.types.is_fixed_size_list(kind))
