"""Features in this process: the same with and without shards, and what a killed round computed stays."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fake_label_studio import TOKEN, FakeLabelStudio
from training_images import SMALL, keys, shapes

from coreset_backend import model
from coreset_backend.backend import Backend
from coreset_backend.fleet.local import pool_features
from coreset_backend.fleet.plan import LEAST_IMAGES
from coreset_backend.rounds.run import run_round

N = LEAST_IMAGES + 44
ROUNDING = {"rtol": 0.02, "atol": 0.02}
"""bfloat16 rounds an image differently in a batch of another size; the same shards give the same bits."""


class Killed(Exception):
    """What ends a round in the middle."""


@dataclass
class Pool:
    """Images by rows that count how many were read; ``breaks_at``: reading this row fails."""

    images: np.ndarray
    keys: np.ndarray
    task_ids: np.ndarray
    breaks_at: int = -1
    read: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.images.shape

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        if self.breaks_at in rows:
            raise Killed
        self.read += len(rows)
        return self.images[rows]


@pytest.fixture
def pool() -> Pool:
    return Pool(shapes(N)[0], keys(N), np.arange(1, N + 1))


@pytest.fixture(scope="module")
def frozen() -> model.Classifier:
    return model.untrained(SMALL, shapes(64)[0], seed=0, device="cpu")


ROWS = np.arange(N, dtype=np.int64)


def test_features_by_shards_are_those_computed_at_once(
    pool: Pool, frozen: model.Classifier, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    plain = pool_features(frozen, pool, ROWS)(ROWS)
    by_shards = pool_features(frozen, pool, ROWS, tmp_path, lambda done, total: seen.append((done, total)))
    read = pool.read
    assert np.allclose(by_shards(ROWS), plain, **ROUNDING)
    assert np.array_equal(by_shards(ROWS[::-7]), by_shards(ROWS)[::-7])
    assert pool.read == read, "they are read from the shards"
    assert seen[-1] == (N, N) and seen == sorted(seen)


def test_a_round_that_was_killed_computes_only_the_others(
    pool: Pool, frozen: model.Classifier, tmp_path: Path
) -> None:
    whole = pool_features(frozen, pool, ROWS, tmp_path / "undisturbed")(ROWS)
    pool.breaks_at = 200
    with pytest.raises(Killed):
        pool_features(frozen, pool, ROWS, tmp_path / "killed")
    pool.breaks_at, pool.read = -1, 0
    again = pool_features(frozen, pool, ROWS, tmp_path / "killed")(ROWS)
    assert N - 200 <= pool.read <= N - 200 + 16
    assert np.array_equal(again, whole)


def test_few_images_are_not_kept(pool: Pool, frozen: model.Classifier, tmp_path: Path) -> None:
    few = ROWS[: LEAST_IMAGES - 1]
    assert len(pool_features(frozen, pool, few, tmp_path / "shards")(few)) == len(few)
    assert not (tmp_path / "shards").exists()


def test_images_that_are_in_no_shard_are_computed_when_asked_for(
    pool: Pool, frozen: model.Classifier, tmp_path: Path
) -> None:
    whole = pool_features(frozen, pool, ROWS)(ROWS)
    features_of = pool_features(frozen, pool, ROWS[:280], tmp_path)
    (first, *_) = sorted(tmp_path.iterdir())
    first.write_bytes(first.read_bytes()[:-50])
    assert np.allclose(features_of(ROWS), whole, **ROUNDING)


def test_a_folder_that_cannot_be_written_costs_a_round_nothing(
    pool: Pool, frozen: model.Classifier, tmp_path: Path
) -> None:
    in_the_way = tmp_path / "shards"
    in_the_way.write_text("a file")
    features_of = pool_features(frozen, pool, ROWS, in_the_way)
    assert np.array_equal(features_of(ROWS), pool_features(frozen, pool, ROWS)(ROWS))


def test_a_saved_round_leaves_no_shards(
    make_backend: Callable[..., Backend], studio: FakeLabelStudio
) -> None:
    backend = make_backend(
        label_studio_url=studio.url,
        label_studio_api_key=TOKEN,
        backbone="small_cnn",
        image_size=16,
        batch_size=4,
    )
    project_id = studio.create_project(LEAST_IMAGES)
    phases: list[str] = []
    kept: set[int] = set()

    def watch(phase: str, done: int, total: int) -> None:
        phases.append(phase)
        folder = backend.store.shards(project_id)
        kept.add(len(list(folder.iterdir())) if folder.exists() else 0)

    assert len(run_round(backend, project_id, watch).array("embeddings")) == LEAST_IMAGES
    assert max(kept) > 10 and not backend.store.shards(project_id).exists()
