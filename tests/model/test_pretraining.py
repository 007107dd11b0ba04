"""Self-supervised pretraining: it learns, it can be stopped anywhere, and it grows with the pool."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from training_images import SHORT_PRETRAINING as SHORT
from training_images import begin, features, keys, textures

from coreset_backend import model
from coreset_backend.errors import NotFinite


def after(steps: int) -> Callable[[], bool]:
    """Says stop when it is asked for the ``steps`` + 1st time."""
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > steps

    return stop


@pytest.mark.slow
def test_features_learned_without_a_label_tell_the_kinds_apart(tmp_path: Path) -> None:
    pixels, _ = textures(240)
    state = begin(tmp_path, pixels, recipe=model.PretrainingRecipe(epochs=24, least_images=0, batch=64))
    assert state.finished and state.loss is not None
    chosen = model.pretrained_backbone(tmp_path)
    assert chosen is not None and "240 images" in chosen.description
    unseen, truth = textures(200, seed=9)
    classifier = model.untrained(chosen, unseen, seed=0, device="cpu")
    unit = model.embed(classifier, unseen)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -1)
    assert (truth[likeness.argmax(1)] == truth).mean() > 0.8  # untrained: 0.43


def test_a_small_pool_is_seen_more_often_and_a_large_one_no_longer_than_it_pays() -> None:
    recipe = model.PretrainingRecipe()
    seen = [recipe.images_for(pool, 32) / pool for pool in (500, 2_000, 10_000, 100_000)]
    assert seen == [160, 160, 40, 20]
    assert recipe.images_for(2_000, 64) == 100_000  # as many pixels as 200 epochs of 32


def test_stopped_and_resumed_is_the_same_as_never_stopped(tmp_path: Path) -> None:
    pixels, _ = textures(48)
    begin(tmp_path / "whole", pixels)
    seen = []
    for _ in range(20):
        state = begin(tmp_path / "sliced", pixels, stop=after(2))
        seen.append(state.seen)
        if state.finished:
            break
    assert seen == [64, 128, 192]
    whole, sliced = features(tmp_path / "whole"), features(tmp_path / "sliced")
    assert all(np.array_equal(whole[name], sliced[name]) for name in whole)


def test_another_seed_gives_other_features(tmp_path: Path) -> None:
    pixels, _ = textures(32)
    begin(tmp_path / "a", pixels)
    begin(tmp_path / "b", pixels, seed=4)
    assert not np.array_equal(
        features(tmp_path / "a")["project.weight"], features(tmp_path / "b")["project.weight"]
    )


def test_what_is_finished_is_not_done_again_until_enough_images_are_new(tmp_path: Path) -> None:
    pixels, _ = textures(60)
    first = begin(tmp_path, pixels[:40])
    assert begin(tmp_path, pixels[:40]) == first
    assert begin(tmp_path, pixels[:45], keys=keys(45)) == first  # 11 % are new
    assert begin(tmp_path, pixels[:40], keys=keys(40, first=1000)) == first  # the same, cached anew
    grown = begin(tmp_path, pixels, keys=keys(60))
    assert grown.finished and grown.images == 60
    assert grown.seen == first.seen + SHORT.images_for(60, 32) // 3
    assert model.pretraining_state(tmp_path) == grown


def test_before_it_is_finished_there_is_a_state_and_no_backbone(tmp_path: Path) -> None:
    assert model.pretraining_state(tmp_path) is None
    told: list[tuple[int, int]] = []
    begin(tmp_path, textures(48)[0], stop=after(1), progress=lambda done, total: told.append((done, total)))
    state = model.pretraining_state(tmp_path)
    assert state is not None and not state.finished and told == [(32, 192)]
    assert model.pretrained_backbone(tmp_path) is None


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "features.safetensors"])
def test_a_damaged_file_is_made_anew(tmp_path: Path, name: str) -> None:
    pixels, _ = textures(32)
    begin(tmp_path, pixels)
    whole = features(tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[-3] ^= 1
    (tmp_path / name).write_bytes(content)
    assert begin(tmp_path, pixels).finished
    again = features(tmp_path)
    assert all(np.array_equal(whole[part], again[part]) for part in whole)


def test_a_loss_that_is_not_finite_ends_it_and_leaves_no_broken_weights(tmp_path: Path) -> None:
    recipe = model.PretrainingRecipe(epochs=4, least_images=64, batch=32, temperature=float("nan"))
    with pytest.raises(NotFinite, match="3 times in a row"):
        begin(tmp_path, textures(32)[0], recipe=recipe)
    assert model.pretrained_backbone(tmp_path) is None


def test_no_part_of_the_pool_is_shown_twice_in_an_epoch(tmp_path: Path) -> None:
    class Counted:
        """Pixels that count how often each row is read."""

        def __init__(self, pixels: np.ndarray) -> None:
            self.pixels, self.read = pixels, np.zeros(len(pixels), int)

        shape = property(lambda self: self.pixels.shape)

        def __len__(self) -> int:
            return len(self.pixels)

        def __getitem__(self, rows: np.ndarray) -> np.ndarray:
            self.read[rows] += 1
            found: np.ndarray = self.pixels[rows]
            return found

    counted = Counted(textures(64)[0])
    begin(tmp_path, counted, stop=after(2))  # type: ignore[arg-type]
    assert (counted.read == 2).all()  # once for the stem, once in the epoch
