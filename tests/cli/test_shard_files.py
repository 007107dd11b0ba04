"""`coreset-backend select` on a folder of shards, .npy and Parquet, and on one Parquet file."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from coreset_backend.cli.main import main
from coreset_backend.selection import Pool, k_center_greedy

pa = pytest.importorskip("pyarrow", reason="pyarrow, the extra `parquet`, is not installed")
parquet = pytest.importorskip("pyarrow.parquet")

VECTORS = np.random.default_rng(0).normal(size=(301, 6)).astype(np.float32)
CUTS = [40, 40, 41, 200]  # among them no row, and one
NAMES = [f"s{number}-é" for number in range(len(VECTORS))]


def select(folder: Path, *more: str) -> Result:
    return CliRunner().invoke(main, ["select", "--embeddings", str(folder), "--batch", "9", *more])


def answer(folder: Path, *more: str) -> dict[str, list[object]]:
    result = select(folder, "--json", *more)
    assert result.exit_code == 0, result.output
    found: dict[str, list[object]] = json.loads(result.stdout)
    return found


def write_npy(folder: Path, vectors: np.ndarray = VECTORS) -> Path:
    folder.mkdir()
    for number, part in enumerate(np.split(vectors, CUTS)):
        np.save(folder / f"part-{number + 8}.npy", part)  # 8, 9, 10: by number, not by letter
    (folder / "_SUCCESS").touch()
    return folder


def write_parquet(folder: Path, fixed: bool, kind: str = "float32", id_column: str = "id") -> Path:
    folder.mkdir()
    for number, rows in enumerate(np.split(np.arange(len(VECTORS)), CUTS)):
        flat = pa.array(VECTORS[rows].astype(kind).ravel())
        lists = (
            pa.FixedSizeListArray.from_arrays(flat, 6)
            if fixed
            else pa.ListArray.from_arrays(np.arange(0, 6 * len(rows) + 1, 6, dtype=np.int32), flat)
        )
        table = pa.table({id_column: [NAMES[row] for row in rows], "embedding": lists})
        parquet.write_table(table, folder / f"part-{number}.parquet", row_group_size=64)
    return folder


@pytest.mark.parametrize("strategy", ["k_center", "k_center_cosine", "max_herding"])
def test_a_folder_of_npy_is_one_pool_in_the_order_of_its_numbers(tmp_path: Path, strategy: str) -> None:
    (tmp_path / "rows.txt").write_text("3\n220\n")
    found = answer(write_npy(tmp_path / "X"), "--labeled", str(tmp_path / "rows.txt"), "--strategy", strategy)
    whole = tmp_path / "X.npy"
    np.save(whole, VECTORS)
    plain = answer(whole, "--labeled", str(tmp_path / "rows.txt"), "--strategy", strategy)
    assert found["rows"] == plain["rows"]
    assert found["radii"] == pytest.approx(plain["radii"], rel=1e-5)
    assert "ids" not in found


@pytest.mark.parametrize(("fixed", "kind"), [(True, "float32"), (False, "float32"), (False, "float16")])
def test_parquet_is_read_with_ids_that_also_name_the_labelled_rows(
    tmp_path: Path, fixed: bool, kind: str
) -> None:
    (tmp_path / "labeled.txt").write_text(f"{NAMES[220]}\n{NAMES[3]}\n")
    folder = write_parquet(tmp_path / "X", fixed, kind)
    found = answer(folder, "--labeled", str(tmp_path / "labeled.txt"))
    expected = k_center_greedy(Pool(VECTORS.astype(kind), np.array([3, 220])), 9).rows
    assert found["rows"] == expected.tolist()
    assert found["ids"] == [NAMES[row] for row in expected]
    lines = select(folder, "--labeled", str(tmp_path / "labeled.txt")).stdout.splitlines()
    assert lines[0] == "rank,row,id,distance,radius"
    assert lines[1].startswith(f"0,{expected[0]},{NAMES[expected[0]]},")


def test_one_parquet_file_another_column_and_ids_beside_npy(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "X", True, id_column="path,of")
    one = answer(folder / "part-4.parquet", "--id-column", "path,of")
    assert one["ids"] == [NAMES[200 + int(str(row))] for row in one["rows"]]
    assert f'"{NAMES[200]}"' not in str(one) and "ids" not in answer(folder)
    folder = write_npy(tmp_path / "Y")
    for number, rows in enumerate(np.split(np.arange(len(VECTORS)), CUTS)):
        (folder / f"part-{number + 8}.ids.txt").write_text("".join(f"{NAMES[row]}\n" for row in rows))
    assert answer(folder)["ids"] == [NAMES[int(str(row))] for row in answer(folder)["rows"]]


def test_what_does_not_fit_is_refused_with_the_file_and_the_reason(tmp_path: Path) -> None:
    """Each fault is made in a folder that is fine without it."""

    def refused(told: str, *more: str) -> None:
        result = select(folder, *more)
        assert (result.exit_code, told in result.output) == (2, True), result.output

    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "notes.txt").touch()
    refused("holds no .npy or .parquet file")
    folder = write_npy(tmp_path / "mixed")
    np.save(folder / "part-13.npy", VECTORS[:3, :5])
    refused("part-8.npy has float32[n, 6]; part-13.npy has float32[n, 5]")
    np.save(folder / "part-13.npy", VECTORS[:3].astype(np.float64))
    refused("part-13.npy has float64[n, 6]")
    np.save(folder / "part-13.npy", VECTORS[:3].astype(int))
    refused("part-13.npy must be float[n, d], not int64[3, 6]")
    (folder / "part-13.npy").write_bytes(b"\x93NUMPY")
    refused("part-13.npy cannot be read")
    np.save(folder / "part-13.npy", np.full((3, 6), np.nan, dtype=np.float32))
    refused("part-13.npy: 3 of 3 vectors cannot be compared")
    np.save(folder / "part-13.npy", np.zeros((3, 6), dtype=np.float32))
    refused("part-13.npy: row 0 is a zero vector", "--strategy", "k_center_cosine")
    (folder / "part-13.ids.txt").write_text("a\nb\nc\n")
    refused("5 of 6 shards have no ids, part-8.npy has no NAME.ids.txt beside it")
    (folder / "part-13.parquet").touch()
    refused("holds both .npy and .parquet files")


def test_ids_that_are_missing_twice_or_unknown_are_refused(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "X", True)
    (tmp_path / "labeled.txt").write_text("nobody\n")
    unknown = select(folder, "--labeled", str(tmp_path / "labeled.txt"))
    assert "1 of 1 ids are in no shard, first 'nobody'" in unknown.output and unknown.exit_code == 2
    absent = select(folder, "--id-column", "key").output
    assert "5 of 5 shards have no ids, part-0.parquet has no column key" in absent
    table = parquet.read_table(folder / "part-0.parquet")
    parquet.write_table(table, folder / "part-7.parquet")
    assert f"40 occur again, {NAMES[0]!r} is the first" in select(folder).output
    parquet.write_table(table.drop_columns("embedding"), folder / "part-7.parquet")
    assert "it has none. Its columns: id" in select(folder).output
    ragged = pa.table({"id": ["x", "y"], "embedding": pa.array([[1.0, 2.0], [1.0]])})
    parquet.write_table(ragged, folder / "part-7.parquet")
    assert "must be of one length; found 1, 2" in select(folder).output
    (folder / "part-7.parquet").write_text("text")
    assert "part-7.parquet cannot be read as Parquet" in select(folder).output
