import csv
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import forked
import numpy as np
import pytest
from fake_label_studio import FakeLabelStudio
from waiting import wait_until

from coreset_backend import model
from coreset_backend.arrays import Resize
from coreset_backend.backend import Backend
from coreset_backend.errors import ConfigError, TooFewLabels, UnsupportedLabelConfig
from coreset_backend.local.demo_images import CLASSES, make_images
from coreset_backend.settings import Settings
from coreset_backend.simulation.cells import Cell, Measured
from coreset_backend.simulation.images import LabeledImages, read_folder, read_project, split
from coreset_backend.simulation.replay import replay, simulate
from coreset_backend.simulation.report import csv_text, lines, recommendation, svg, table


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


def test_a_folder_becomes_pixels_on_disk_and_classes(folder: Path, tmp_path: Path) -> None:
    decoded = tmp_path / "pool.npy"
    images = read_folder(folder, Resize(16), decoded)
    assert images.names == tuple(sorted(CLASSES))
    assert images.pixels.shape == (90, 16, 16, 3)
    assert isinstance(images.pixels, np.memmap) and decoded.stat().st_size < 90 * 16 * 16 * 3 + 200
    counts = {(name,): len(list((folder / name).iterdir())) for name in images.names}
    assert Counter(images.chosen) == counts


def test_a_folder_that_holds_no_two_classes_or_a_broken_image_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ConfigError, match="at least two classes"):
            read_folder(path, Resize(16), tmp_path / "pool.npy")
    make_images(tmp_path / "a", 1, size=32)
    make_images(tmp_path / "b", 1, size=32)
    (tmp_path / "b" / "torn.jpg").write_bytes(b"\xff\xd8\xff torn")
    with pytest.raises(ConfigError, match=r"torn\.jpg cannot be used"):
        read_folder(tmp_path, Resize(16), tmp_path / "pool.npy")


def test_the_labelled_tasks_of_a_project_become_pixels_and_classes(
    make_backend: Callable[..., Backend], studio: FakeLabelStudio
) -> None:
    project_id = studio.create_project(images=7)
    tasks = studio.tasks_of(project_id)
    for number, task in enumerate(tasks[:5]):
        studio.annotate(task["id"], ("cat", "dog")[number % 2])
    studio.annotate(tasks[5]["id"], None)
    backend = make_backend(label_studio_url=studio.url, label_studio_api_key=studio.token)
    images = read_project(backend, project_id, Resize(16))
    assert images.names == ("cat", "dog")
    assert images.chosen == (("cat",), ("dog",), ("cat",), ("dog",), ("cat",))
    assert images.pixels.shape == (5, 16, 16, 3)
    assert len({key.tobytes() for key in images.image_keys()}) == 5
    assert not studio.predictions and not [path for method, path in studio.asked if method != "GET"]


def test_a_project_that_cannot_be_replayed_is_refused_with_the_reason(
    make_backend: Callable[..., Backend], studio: FakeLabelStudio
) -> None:
    project_id = studio.create_project(images=3)
    backend = make_backend(label_studio_url=studio.url, label_studio_api_key=studio.token)
    with pytest.raises(TooFewLabels):
        read_project(backend, project_id, Resize(16))
    studio.projects[project_id]["label_config"] = '<View><Image name="image" value="$image"/></View>'
    with pytest.raises(UnsupportedLabelConfig, match="has no classes of its images"):
        read_project(backend, project_id, Resize(16))


def marked(chosen: list[tuple[str, ...]], *, multiple: bool = False) -> LabeledImages:
    """Images whose pixels tell their row."""
    rows = np.arange(len(chosen), dtype=np.uint8)
    pixels = rows[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    return LabeledImages(pixels, tuple(chosen), ("a", "b", "c"), multiple)


def rows_of(images: LabeledImages) -> list[int]:
    return images.pixels[np.arange(len(images))][:, 0, 0, 0].tolist()


def test_the_split_takes_its_share_of_each_class_and_nothing_twice() -> None:
    pool, test = split(marked([("a",)] * 50 + [("b",)] * 10 + [("c",)]))
    assert Counter(test.chosen) == {("a",): 10, ("b",): 2, ("c",): 1}
    assert sorted([*rows_of(pool), *rows_of(test)]) == list(range(61))


def test_in_multiple_choice_sets_of_classes_are_split_and_rare_sets_together() -> None:
    rare = [(), ("a", "b"), ("a", "c"), ("b", "c"), ("a", "b", "c")]
    pool, test = split(marked([("a",)] * 20 + rare, multiple=True))
    assert test.chosen.count(("a",)) == 4 and len(test) == 5
    assert sorted([*rows_of(pool), *rows_of(test)]) == list(range(25))
    assert pool.multiple and test.labels.multiple


def test_another_pixel_another_class_or_another_order_is_another_digest() -> None:
    images = marked([("a",), ("b",), ("b",)])
    other = marked([("a",), ("b",), ("c",)])
    turned = images.part(np.array([0, 2, 1]))
    assert len({each.digest() for each in (images, other, turned)}) == 3
    assert images.part(np.arange(3)).digest() == images.digest()


def replayed(
    wanted: Settings, pool: LabeledImages, test: LabeledImages, budgets: list[int]
) -> list[Measured]:
    chosen = model.choose_backbone(wanted.backbone, None)
    return list(replay(wanted, chosen, pool, test, budgets))


@pytest.mark.slow
def test_a_replay_labels_up_to_each_budget_until_the_pool_is_used_up(folder: Path, tmp_path: Path) -> None:
    pool, test = split(read_folder(folder, Resize(16), tmp_path / "pool.npy"))
    few = pool.part(np.arange(0, len(pool), 5))
    points = replayed(settings(tmp_path, strategy="random"), few, test, [8, 50, 60])
    assert [point.labels for point in points] == [8, len(few)]
    assert points[0].radius_before is None and points[1].radius_before
    assert all(0 <= point.macro_f1 <= 1 and 0 <= point.accuracy <= 1 for point in points)


@pytest.mark.slow
def test_several_classes_an_image_are_replayed_and_the_whole_set_must_be_right(tmp_path: Path) -> None:
    """Grey images with a bright left half, a bright lower half, both or neither."""
    rng = np.random.default_rng(0)
    is_so = rng.random((120, 2)) < 0.5
    pixels = rng.integers(40, 80, (120, 16, 16, 3), dtype=np.uint8)
    pixels[is_so[:, 0], :, :8] += 120
    pixels[is_so[:, 1], 8:] += 50
    chosen = tuple(tuple(np.array(["left", "low"])[said]) for said in is_so)
    images = LabeledImages(pixels, chosen, ("left", "low"), multiple=True)
    pool, test = split(images)
    points = replayed(settings(tmp_path, strategy="uncertainty_herding"), pool, test, [4, 60])
    assert [point.labels for point in points] == [4, 60]
    assert points[1].accuracy > 0.6  # chance is 0.25


def test_an_unknown_strategy_is_refused_before_anything_is_computed(folder: Path, tmp_path: Path) -> None:
    pool, test = split(read_folder(folder, Resize(16), tmp_path / "pool.npy"))
    with pytest.raises(ConfigError, match="no strategy 'guess'"):
        next(
            simulate(
                settings(tmp_path),
                model.choose_backbone("small_cnn", None),
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
    command = ["simulate", "--images", str(folder), "--out", str(out)]
    command += ["--strategy", "k_center,random", "--batch", "12", "--rounds", "1", "--seeds", "1"]
    environment = {
        **{"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        **{"CORESET_IMAGE_SIZE": "16", "CORESET_BACKBONE": "small_cnn"},
    }
    first = forked.start(*command, environment=environment, output=tmp_path / "first.log")
    try:
        wait_until(lambda: list(out.glob("cell-*.json")), "the first cell")
        first.send_signal(signal.SIGKILL)
    finally:
        first.kill()
        first.wait(20)
    kept = {path: path.stat().st_mtime_ns for path in out.glob("cell-*.json")}
    assert len(kept) == 1 and not (out / "results.csv").exists()
    again = forked.run(*command, environment=environment, timeout=300)
    assert again.returncode == 0, again.stderr
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
    assert "which is clear with 3 seeds" in words and words.endswith("It reached 90% with 20 labels.")
    noisy = [
        cell(name, seed, 0.5 + 0.2 * seed + extra)
        for name, extra in (("a", 0.01), ("b", 0))
        for seed in (0, 1)
    ]
    assert "not clear with 2 seeds" in recommendation(lines(noisy), target=0.99)
    assert recommendation(lines(noisy), 0.99).endswith("It did not reach 99% with 10 labels.")
    assert "not clear" in recommendation(lines([cell("a", 0, 0.9), cell("b", 0, 0.1)]), None)


def test_the_recommendation_says_how_many_labels_reach_what_random_ends_with() -> None:
    cells = [cell("a", 0, 0.5, 0.7, 0.9), cell("random", 0, 0.4, 0.5, 0.65)]
    words = recommendation(lines(cells), None)
    assert words.endswith("It reached random's 65.0% with 20 labels; random needed 30.")
    assert "random's" not in recommendation(lines([cell("random", 0, 0.9), cell("a", 0, 0.1)]), None)
    assert "random's" not in recommendation(lines([cell("b", 0, 0.9), cell("a", 0, 0.1)]), None)


def test_the_plot_is_well_formed_and_shows_every_line() -> None:
    found = lines([cell("a", 0, 0.4, 0.6), cell("b", 0, 0.5, 0.7)])
    root = ElementTree.fromstring(svg(found))
    names = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a, batches of 10", "b, batches of 10"} <= set(names)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}polyline"))) == 2
    assert csv_text([cell("a", 0, 0.4)]).splitlines()[1] == "a,10,0,10,0.4,0.4,"
    assert csv_text([cell("=a", 0, 0.4)]).splitlines()[1].startswith("'=a,")
