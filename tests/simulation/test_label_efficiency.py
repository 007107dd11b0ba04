"""The benchmark of label efficiency: its pools, its one command, and the tables in the documents."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT

sys.path.append(str(ROOT / "benchmarks"))

import auditions
import fine_tuning
from label_efficiency import main
from label_tables import CELLS, read_cells, with_tables
from pools import pool_folder
from textures import TEXTURES, texture

from coreset_backend.local.demo_images import make_images


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images by class: 90 to choose from, 18 to test."""
    root = tmp_path_factory.mktemp("fruit")
    for part, n, seed in (("train", 90, 0), ("test", 18, 5)):
        for name, kind in make_images(root / "flat", n, seed=seed, size=32):
            (place := root / part / kind).mkdir(parents=True, exist_ok=True)
            (root / "flat" / name).rename(place / name)
    return root


def classes_in(folder: Path) -> list[int]:
    return sorted(len(list(kind.iterdir())) for kind in folder.iterdir())


def test_a_draw_of_a_pool_is_written_once_and_alike(images: Path, tmp_path: Path) -> None:
    first, second = (pool_folder("long_tail", images, 3, tmp_path / str(turn)) for turn in (1, 2))
    assert [path.relative_to(first) for path in sorted(first.rglob("*"))] == [
        path.relative_to(second) for path in sorted(second.rglob("*"))
    ]
    (first / "train" / "mark").mkdir()
    assert (
        pool_folder("long_tail", images, 3, tmp_path / "1") == first and (first / "train" / "mark").is_dir()
    )
    assert not (pool_folder("long_tail", images, 4, tmp_path / "1") / "train" / "mark").exists()
    counts = classes_in(second / "train")
    assert counts == sorted(counts) and counts[0] <= counts[-1]
    assert classes_in(second / "test") == classes_in(images / "test")


def test_a_texture_is_alike_for_a_seed_and_no_two_of_a_kind_are() -> None:
    drawn = [
        texture(kind, np.random.default_rng([code, turn]))
        for code, kind in enumerate(TEXTURES)
        for turn in (0, 1)
    ]
    assert len({pixels.tobytes() for pixels in drawn}) == 2 * len(TEXTURES) == 20
    assert all(pixels.shape == (96, 96, 3) and pixels.std() > 5 for pixels in drawn)
    assert np.array_equal(
        texture("wood", np.random.default_rng(1)), texture("wood", np.random.default_rng(1))
    )


def test_a_pool_that_nobody_knows_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"balanced, redundant.*not 'nowhere'"):
        pool_folder("nowhere", None, 0, tmp_path)
    with pytest.raises(SystemExit, match="--images FOLDER"):
        pool_folder("balanced", None, 0, tmp_path)


@pytest.mark.slow
def test_one_command_replays_a_folder_and_goes_on_where_it_was(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["--pool", str(images), "--cache", str(tmp_path), "--draws", "1", "--size", "32"]
    main([*line, "--budgets", "10,20"])
    said = capsys.readouterr().out
    assert "90 images to choose from, 18 to measure" in said and "embedded 90 of 90" in said
    cells = read_cells(tmp_path / "cells.jsonl")
    assert [cell["strategy"] for cell in cells] == ["random", "uncertainty_herding"]
    assert all(cell["labels"] == [10, 20] and cell["off"][1] <= 1 for cell in cells)
    assert all(0 <= share <= 1 for cell in cells for share in cell["curve"])
    main([*line, "--budgets", "10,20", "--strategies", "k_center,random"])
    said = capsys.readouterr().out
    assert "embedded" not in said, "the features are kept"
    assert len(read_cells(tmp_path / "cells.jsonl")) == 3, "only k_center was missing"
    assert "| k_center | 1 |" in said


@pytest.mark.slow
def test_auditions_of_a_folder_end_with_a_candidate_and_are_measured_once(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["--pool", str(images), "--cache", str(tmp_path), "--draws", "1", "--size", "32"]
    by_stage = [*line, "--budgets", "30", "--stages", "--own-size", "16"]
    parts = {f"efficientnet_lite0, {stage}" for stage in auditions.STAGES}
    auditions.main(by_stage)
    said = capsys.readouterr().out
    (result,) = read_cells(tmp_path / "auditions.jsonl")
    (point,) = result["points"]
    assert point["labels"] == 30
    assert set(point["right"]) == {"efficientnet_lite0", "patch_features", *parts}
    assert set(point["ends"]) == {"efficientnet_lite0"}
    assert set(point["ends"].values()) <= set(point["right"])
    assert all(0 <= share <= 1 for share in point["right"].values())
    assert "| 30 | 1 |" in said
    auditions.main(by_stage)
    again = capsys.readouterr().out
    assert "embedded" not in again and "| 30 | 1 |" in again
    assert len(read_cells(tmp_path / "auditions.jsonl")) == 1
    auditions.main([*line, "--budgets", "30", "--random"])
    _, on_random = read_cells(tmp_path / "auditions.jsonl")
    assert set(on_random["points"][0]["ends"]) == {"efficientnet_lite0", "patch_features"}


@pytest.mark.slow
def test_a_network_trained_on_is_measured_beside_its_head_alone(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["--pool", str(images), "--cache", str(tmp_path), "--size", "32", "--labels", "30"]
    fine_tuning.main([*line, "--rates", "0.001", "--seen", "128"])
    said = capsys.readouterr().out
    alone, trained = read_cells(tmp_path / "fine_tuning.jsonl")
    assert (alone["rate"], trained["rate"]) == (None, 0.001)
    assert 0 <= alone["right"] <= 1 and 0 <= trained["right"] <= 1
    assert "| 30 | head alone | 1 |" in said and "| 30 | all, at a rate of 0.001 | 1 |" in said
    fine_tuning.main([*line, "--rates", "0.001", "--seen", "128"])
    assert len(read_cells(tmp_path / "fine_tuning.jsonl")) == 2


def test_the_tables_in_the_documents_are_those_of_the_cells() -> None:
    cells, text = read_cells(CELLS), (ROOT / "docs/label-efficiency.md").read_text()
    assert "<!-- table: " in text
    assert with_tables(text, cells) == text, "run: python benchmarks/label_tables.py docs/label-efficiency.md"


def test_cells_hold_one_replay_each() -> None:
    keys = [
        json.dumps([cell[part] for part in ("pool", "backbone", "size", "strategy", "draw")])
        for cell in read_cells(CELLS)
    ]
    assert len(keys) == len(set(keys))
