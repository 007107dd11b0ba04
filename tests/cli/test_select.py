"""`coreset-backend select` as a process on real files, and the example of the documentation."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT

from coreset_backend.selection import Pool, covering_radius, k_center_greedy


def select(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "coreset_backend", "select", "--embeddings", "X.npy", "--batch", "7"]
    return subprocess.run([*command, *more], cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    vectors = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    np.save(tmp_path / "X.npy", vectors)
    (tmp_path / "rows.txt").write_text("3\n5\n")
    return tmp_path


def test_rows_and_distances_come_as_csv_and_the_radii_are_said(folder: Path) -> None:
    result = select(folder, "--labeled", "rows.txt")
    pool = Pool(np.load(folder / "X.npy"), np.array([3, 5]))
    expected = k_center_greedy(pool, 7, np.random.default_rng(0))
    head, *lines = result.stdout.splitlines()
    assert head == "rank,row,distance,radius"
    assert [int(line.split(",")[1]) for line in lines] == expected.rows.tolist()
    radii = [float(line.split(",")[3]) for line in lines]
    vectors, centers = pool.vectors.astype(np.float64), [3, 5]
    for row, radius in zip(expected.rows.tolist(), radii, strict=True):
        centers.append(row)
        nearest = np.linalg.norm(vectors[:, None] - vectors[centers][None], axis=2).min(1)
        assert radius == pytest.approx(nearest.max(), rel=1e-5)
    assert f"{expected.radius_after:.6g} after" in result.stderr


def test_a_strategy_on_annoys_neighbors_answers_in_json(folder: Path) -> None:
    answer = json.loads(select(folder, "--strategy", "max_herding", "--json").stdout)
    assert len(set(answer["rows"])) == 7
    assert answer["radius_before"] is None and answer["radius_after"] > 0
    vectors = np.load(folder / "X.npy")
    radii = [covering_radius(vectors, np.array(answer["rows"][: count + 1])) for count in range(7)]
    assert answer["radii"] == pytest.approx(radii, rel=1e-5)


def test_the_robust_strategy_says_what_is_proven(folder: Path) -> None:
    np.save(folder / "X.npy", np.load(folder / "X.npy")[:60])
    result = select(folder, "--labeled", "rows.txt", "--strategy", "robust_k_center")
    radius = re.search(r"before, (\S+) after", result.stderr)
    assert radius and f"optimal; no 7 rows have a radius below {radius[1]}" in result.stderr


def test_options_leave_copies_and_outliers_out_and_progress_is_told(folder: Path) -> None:
    vectors = np.load(folder / "X.npy")
    vectors[100:200] = vectors[0] + np.random.default_rng(1).normal(0, 1e-3, (100, 8))
    vectors[200:215] *= 50
    np.save(folder / "X.npy", vectors)
    result = select(folder, "--strategy", "random", "--group-duplicates", "--outlier-share", "0", "--json")
    rows = np.array(json.loads(result.stdout)["rows"])
    assert (
        len(rows) == 7
        and ((rows >= 100) & (rows < 200)).sum() <= 1
        and not np.isin(rows, range(200, 215)).any()
    )
    assert "index 0 of 300" in result.stderr
    assert "select 7 of 7" in select(folder, "--strategy", "k_center").stderr


@pytest.mark.parametrize(
    ("rows", "complaint"), [("3\n300\n", "must lie in"), ("three\n", "one row number per line")]
)
def test_files_that_do_not_fit_are_refused_with_the_reason(folder: Path, rows: str, complaint: str) -> None:
    (folder / "rows.txt").write_text(rows)
    result = select(folder, "--labeled", "rows.txt")
    assert result.returncode == 2
    assert complaint in result.stderr


def test_the_example_of_the_documentation_runs(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "selection.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    subprocess.run([sys.executable, "-c", example], cwd=tmp_path, check=True, capture_output=True)
