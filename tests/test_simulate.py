import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from fake_label_studio import FakeLabelStudio
from waiting import wait_until

from coreset_backend.backend import Backend
from coreset_backend.demo_images import CLASSES, make_images
from coreset_backend.errors import ConfigError, TooFewLabels, UnsupportedLabelConfig
from coreset_backend.settings import Settings
from coreset_backend.simulate import LabeledImages, read_folder, read_project, replay, simulate, split
from coreset_backend.simulation_report import Cell, Measured, csv_text, lines, recommendation, svg, table


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real JPEGs of four kinds of object, a subfolder for each kind."""
    root = tmp_path_factory.mktemp("images")
    for name, kind in make_images(root / "flat", 90, seed=3, size=48):
        (root / "sorted" / kind).mkdir(parents=True, exist_ok=True)
        (root / "flat" / name).rename(root / "sorted" / kind / name)
    return root / "sorted"


def settings(tmp_path: Path, **given: object) -> Settings:
    return Settings(model_dir=tmp_path, backbone="small_cnn", **given)  # type: ignore[arg-type]


def test_a_folder_becomes_pixels_and_classes(folder: Path) -> None:
    images = read_folder(folder, 16)
    assert images.names == tuple(sorted(CLASSES))
    assert images.pixels.shape == (90, 16, 16, 3)
    counts = [len(list((folder / name).iterdir())) for name in images.names]
    assert np.bincount(images.codes).tolist() == counts


def test_a_folder_that_holds_no_two_classes_or_a_broken_image_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ConfigError, match="two or more classes"):
            read_folder(path, 16)
    make_images(tmp_path / "a", 1, size=32)
    make_images(tmp_path / "b", 1, size=32)
    (tmp_path / "b" / "torn.jpg").write_bytes(b"\xff\xd8\xff torn")
    with pytest.raises(ConfigError, match=r"torn\.jpg cannot be used"):
        read_folder(tmp_path, 16)


def test_the_labelled_tasks_of_a_project_become_pixels_and_classes(
    make_backend: Callable[..., Backend], studio: FakeLabelStudio
) -> None:
    project_id = studio.create_project(images=7)
    tasks = studio.tasks_of(project_id)
    for number, task in enumerate(tasks[:5]):
        studio.annotate(task["id"], ("cat", "dog")[number % 2])
    studio.annotate(tasks[5]["id"], None)
    backend = make_backend(label_studio_url=studio.url, label_studio_api_key=studio.token)
    images = read_project(backend, project_id, 16)
    assert images.names == ("cat", "dog") and images.codes.tolist() == [0, 1, 0, 1, 0]
    assert images.pixels.shape == (5, 16, 16, 3)
    assert len({pixels.tobytes() for pixels in images.pixels}) == 5
    assert not studio.predictions and not [path for method, path in studio.asked if method != "GET"]


def test_a_project_that_cannot_be_replayed_is_refused_with_the_reason(
    make_backend: Callable[..., Backend], studio: FakeLabelStudio
) -> None:
    project_id = studio.create_project(images=3)
    backend = make_backend(label_studio_url=studio.url, label_studio_api_key=studio.token)
    with pytest.raises(TooFewLabels):
        read_project(backend, project_id, 16)
    config = studio.projects[project_id]["label_config"]
    studio.projects[project_id]["label_config"] = config.replace("<Choices ", '<Choices choice="multiple" ')
    with pytest.raises(UnsupportedLabelConfig, match="does not ask for one class"):
        read_project(backend, project_id, 16)


def test_the_split_takes_its_share_of_each_class_and_nothing_twice() -> None:
    codes = np.array([0] * 50 + [1] * 10 + [2])
    marked = np.arange(61, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    pool, test = split(LabeledImages(marked, codes, ("a", "b", "c")))
    assert np.bincount(test.codes).tolist() == [10, 2, 1]
    assert sorted([*pool.pixels[:, 0, 0, 0], *test.pixels[:, 0, 0, 0]]) == list(range(61))


@pytest.mark.slow
def test_a_replay_labels_up_to_each_budget_until_the_pool_is_used_up(folder: Path, tmp_path: Path) -> None:
    pool, test = split(read_folder(folder, 16))
    few = pool.part(np.arange(0, len(pool.codes), 5))
    points = list(replay(settings(tmp_path, strategy="random"), few, test, [8, 50, 60]))
    assert [point.labels for point in points] == [8, len(few.codes)]
    assert points[0].radius_before is None and points[1].radius_before
    assert all(0 <= point.macro_f1 <= 1 and 0 <= point.accuracy <= 1 for point in points)


def test_an_unknown_strategy_is_refused_before_anything_is_computed(folder: Path, tmp_path: Path) -> None:
    pool, test = split(read_folder(folder, 16))
    with pytest.raises(ConfigError, match="no strategy 'guess'"):
        next(
            simulate(
                settings(tmp_path),
                pool,
                test,
                strategies=["guess"],
                batches=[5],
                rounds=1,
                seeds=1,
                folder=tmp_path,
            )
        )


@pytest.mark.slow
def test_a_killed_simulation_goes_on_where_it_was(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "coreset_backend",
        "simulate",
        "--images",
        str(folder),
        "--out",
        str(out),
    ]
    command += ["--strategy", "k_center,random", "--batch", "12", "--rounds", "1", "--seeds", "1"]
    environment = os.environ | {"CORESET_IMAGE_SIZE": "16", "CORESET_BACKBONE": "small_cnn"}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    try:
        wait_until(lambda: list(out.glob("cell-*.json")), "the first cell")
        first.send_signal(signal.SIGKILL)
    finally:
        first.kill()
        first.communicate()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("cell-*.json")}
    assert len(kept) == 1 and not (out / "results.csv").exists()
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "k_center, batches of 12, seed 0: done before" in again.stdout
    assert "random, batches of 12, seed 0: 12 labels" in again.stdout
    assert "Best here: " in again.stdout
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    assert [(row["strategy"], row["labels"]) for row in rows] == [("k_center", "12"), ("random", "12")]
    ElementTree.parse(out / "curves.svg")


def cell(strategy: str, seed: int, *accuracies: float) -> Cell:
    points = tuple(Measured(10 * (turn + 1), share, share, None) for turn, share in enumerate(accuracies))
    return Cell(strategy, 10, seed, points)


def test_lines_are_means_over_the_seeds_the_best_first() -> None:
    found = lines(
        [cell("a", 0, 0.4, 0.6), cell("b", 0, 0.5, 0.7), cell("a", 1, 0.6, 0.6), cell("b", 1, 0.7, 0.9)]
    )
    assert [line.strategy for line in found] == ["b", "a"]
    assert found[0].mean == pytest.approx([0.6, 0.8]) and found[0].area == pytest.approx(0.7)
    assert found[1].deviation == pytest.approx([np.sqrt(0.02), 0])
    assert (found[0].labels_to(0.8), found[0].labels_to(0.9)) == (20, None)
    assert "     20 labels   80.0 ± 14.1 %" in table(found)


def test_the_recommendation_claims_a_lead_only_where_it_stands_out() -> None:
    clear = [cell("a", seed, 0.80 + seed / 100, 0.9) for seed in range(3)]
    clear += [cell("b", seed, 0.50 + seed / 100, 0.6) for seed in range(3)]
    words = recommendation(lines(clear), target=0.9)
    assert words.startswith("Best here: a in batches of 10. It leads b in batches of 10 by 30.0 points")
    assert "which is clear with 3 seeds" in words and words.endswith("90% were reached with 20 labels.")
    noisy = [
        cell(name, seed, 0.5 + 0.2 * seed + extra)
        for name, extra in (("a", 0.01), ("b", 0))
        for seed in (0, 1)
    ]
    assert "not clear with 2 seeds" in recommendation(lines(noisy), target=0.99)
    assert recommendation(lines(noisy), 0.99).endswith("99% were not reached with 10 labels.")
    assert "not clear" in recommendation(lines([cell("a", 0, 0.9), cell("b", 0, 0.1)]), None)


def test_the_plot_is_well_formed_and_shows_every_line() -> None:
    found = lines([cell("a", 0, 0.4, 0.6), cell("b", 0, 0.5, 0.7)])
    root = ElementTree.fromstring(svg(found))
    names = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a, batches of 10", "b, batches of 10"} <= set(names)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}polyline"))) == 2
    assert csv_text([cell("a", 0, 0.4)]).splitlines()[1] == "a,10,0,10,0.4,0.4,"
