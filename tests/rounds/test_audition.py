"""Auditions: held when there are labels enough, on the labelled images, and used from the next round on."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from saved_rounds import record
from training_images import begin, drawn_digits, keys, patches_of_colour, textures

from coreset_backend import model
from coreset_backend.backend import Backend
from coreset_backend.images.cache import PixelCache
from coreset_backend.project import Labels
from coreset_backend.reports import TrainingReport
from coreset_backend.rounds.audition import (
    GivenWay,
    candidates,
    hold_audition,
    is_audition_due,
    labeled_images,
    stand_for,
)
from coreset_backend.rounds.features import choose_project_backbone, features_at_hand, may_pretrain
from coreset_backend.settings import Settings
from coreset_backend.store.record import Audition
from coreset_backend.store.saved_round import StoredRound

MakeBackend = Callable[..., Backend]
LITE0 = "efficientnet_lite0"


HARDLY_ANY = model.PretrainingRecipe(epochs=1, least_images=64, batch=32)


def never() -> bool:
    return False


@pytest.fixture
def auto(make_backend: MakeBackend) -> Backend:
    """A backend whose labels choose the backbone; images are small, so that a test takes a second."""
    return make_backend(image_size=32, device="cpu")


def save_labeled(backend: Backend, pixels: np.ndarray, kinds: np.ndarray, **given: Any) -> StoredRound:
    """A round of project 7 whose images are all labelled and in the cache; every fifth is held out."""
    n, names = len(pixels), tuple(map(str, range(kinds.max() + 1)))
    named = keys(n)
    cache = PixelCache(backend.store.image_cache, 10**9, 0)
    for key, image in zip(named, pixels, strict=True):
        assert cache.write(key.tobytes().hex(), image, time.time_ns())
    holdout = tuple(range(1, n + 1, 5))
    known = {
        "labels": Labels("label", "image", names, multiple=False),
        "counts": {"labeled": n, "pool": 600},
        "training": TrainingReport(n_train=n - len(holdout), n_holdout=len(holdout)),
        "holdout": holdout,
    }
    with backend.store.draft(7) as draft:
        task_ids = np.arange(1, n + 1)
        arrays = {"task_ids": task_ids, "embedded_task_ids": task_ids, "image_keys": named}
        arrays["label_codes"] = kinds.astype(np.int16)
        return draft.save(record(draft.number, **{**known, **given}), arrays)


def labeled(n: int) -> dict[str, Any]:
    return {"training": TrainingReport(n_train=n - n // 5, n_holdout=n // 5)}


HELD = Audition(current=LITE0, chosen=LITE0, candidates=(), images=40, labels=50, sentence="It stays.")


@pytest.mark.parametrize(
    ("labels", "held", "due"),
    [
        (49, None, False),
        (50, None, True),
        (99, HELD, False),
        (100, HELD, True),
        (199, replace(HELD, labels=100), False),
        (200, replace(HELD, labels=100), True),
        (50, replace(HELD, labels=100), True),  # labels were taken back
        (60, replace(HELD, features="others"), True),  # the pool was learned since, or its features are gone
    ],
)
def test_an_audition_is_due_at_fifty_labels_and_when_they_have_doubled(
    auto: Backend, labels: int, held: Audition | None, due: bool
) -> None:
    pixels, kinds = patches_of_colour(4)
    stored = save_labeled(auto, pixels, kinds, **labeled(labels))
    if held:
        auto.store.keep_audition(7, held)
    assert is_audition_due(auto.store, auto.settings, stored) is due


@pytest.mark.parametrize("named", [{"backbone": "small_cnn"}, {"backbone": LITE0}, {"weights": "w.pth"}])
def test_a_setting_that_names_a_backbone_goes_before_the_labels(
    make_backend: MakeBackend, named: dict[str, str]
) -> None:
    backend = make_backend(**named)
    pixels, kinds = patches_of_colour(4)
    stored = save_labeled(backend, pixels, kinds, **labeled(80))
    assert not is_audition_due(backend.store, backend.settings, stored)
    assert hold_audition(backend.store, backend.settings, 7, never) is None
    backend.store.keep_audition(7, replace(HELD, chosen="resnet18"))
    if "backbone" in named:
        chosen = choose_project_backbone(backend.store, backend.settings, 7)
        assert chosen.backbone.name == named["backbone"]


def test_the_better_backbone_is_chosen_and_used_from_then_on(auto: Backend) -> None:
    pixels, kinds = textures(120)
    save_labeled(auto, pixels, kinds)
    begin(auto.store.pretraining(7), pixels, recipe=HARDLY_ANY)
    auto.store.keep_audition(7, replace(HELD, chosen=model.SELF_SUPERVISED))
    assert choose_project_backbone(auto.store, auto.settings, 7).backbone.name == model.SELF_SUPERVISED
    held = hold_audition(auto.store, auto.settings, 7, never)
    assert held and held == auto.store.audition(7)
    assert (held.current, held.chosen) == (model.SELF_SUPERVISED, LITE0)
    assert (held.labels, held.images) == (120, 96)  # the hold-out has no part
    assert [each.name for each in held.candidates] == [LITE0, model.SELF_SUPERVISED]
    assert f"expected to lead {model.SELF_SUPERVISED} by" in held.sentence and held.at
    assert held.features == features_at_hand(auto.store, 7)
    chosen = choose_project_backbone(auto.store, auto.settings, 7)
    assert chosen.backbone.name == LITE0 and chosen.description.endswith("chosen by the labels")
    stored = auto.store.latest(7)
    assert stored and not is_audition_due(auto.store, auto.settings, stored)


@pytest.mark.slow
def test_features_of_the_pool_win_where_the_images_are_too_small_for_the_others(
    make_backend: MakeBackend,
) -> None:
    """EfficientNet-Lite0 makes one number of each 8 to 32 pixels: of a digit of 16 little is left."""
    backend = make_backend(image_size=16, device="cpu")
    pixels, kinds = drawn_digits(500)
    pixels = pixels.reshape(500, 16, 2, 16, 2, 3).mean((2, 4)).astype(np.uint8)
    save_labeled(backend, pixels, kinds)
    learned = model.PretrainingRecipe(epochs=20, least_images=64, batch=32)
    begin(backend.store.pretraining(7), pixels, recipe=learned)
    held = hold_audition(backend.store, backend.settings, 7, never)
    assert held and (held.current, held.chosen) == (LITE0, model.SELF_SUPERVISED), held
    assert may_pretrain(backend.store, backend.settings, backend.store.latest(7))  # they grow with the pool


def test_no_better_than_colours_asks_for_pretraining_and_only_then(auto: Backend) -> None:
    pixels, kinds = patches_of_colour(80)
    rng = np.random.default_rng(0)
    stored = save_labeled(auto, pixels, rng.integers(0, 3, len(kinds)))  # labels that no image explains
    assert not may_pretrain(auto.store, auto.settings, stored)  # a fresh installation spends nothing on it
    held = hold_audition(auto.store, auto.settings, 7, never)
    assert held and held.wants_pretraining and held.chosen == LITE0
    assert may_pretrain(auto.store, auto.settings, stored)
    stored = save_labeled(auto, *textures(160))
    held = hold_audition(auto.store, auto.settings, 7, never)
    assert held and not held.wants_pretraining
    assert not may_pretrain(auto.store, auto.settings, stored)


def test_an_audition_that_gives_way_to_a_round_leaves_the_old_choice(auto: Backend) -> None:
    save_labeled(auto, *patches_of_colour(80))
    with pytest.raises(GivenWay):
        hold_audition(auto.store, auto.settings, 7, lambda: True)
    assert auto.store.audition(7) is None


def test_a_candidate_that_cannot_be_loaded_is_named_and_left_out(make_backend: MakeBackend) -> None:
    backend = make_backend(device="nonsense")
    save_labeled(backend, *patches_of_colour(80))
    held = hold_audition(backend.store, backend.settings, 7, never)
    assert held and held.chosen == held.current == LITE0
    [entered] = held.candidates
    assert entered.name == LITE0 and "nonsense" in entered.problem and entered.accuracy is None


def test_a_choice_whose_weights_are_gone_is_not_used(auto: Backend) -> None:
    auto.store.register(7)
    for chosen in (model.SELF_SUPERVISED, "resnet50", "no such thing"):
        auto.store.keep_audition(7, replace(HELD, chosen=chosen))
        assert choose_project_backbone(auto.store, auto.settings, 7).backbone.name == LITE0


def test_a_damaged_audition_counts_as_none(auto: Backend) -> None:
    auto.store.register(7)
    auto.store.keep_audition(7, HELD)
    path = auto.store.root / "projects/7/audition.json"
    path.write_bytes(path.read_bytes()[:-9])
    assert auto.store.audition(7) is None


def test_images_that_left_the_cache_and_tasks_of_one_image_are_counted_once(auto: Backend) -> None:
    pixels, kinds = patches_of_colour(60)
    stored = save_labeled(auto, pixels, kinds)
    first, second = sorted((auto.store.image_cache).rglob("*.pixels"))[:2]
    first.unlink()
    second.unlink()
    found = labeled_images(auto.store, auto.settings, stored)
    assert 46 <= len(found.keys) == len(found.targets) <= 48
    code = {key.tobytes(): kind for key, kind in zip(keys(60), kinds, strict=True)}
    assert [code[key.tobytes()] for key in found.keys] == found.targets.argmax(1).tolist()


def test_each_label_stands_for_the_images_nearest_to_it() -> None:
    embeddings = np.array([[0.0, 0], [0, 1], [0, 2], [9, 0], [9, 1]], np.float32)
    labeled = np.array([0, 3])
    assert stand_for(embeddings, labeled, seed=0).tolist() == [3, 2]
    many = np.repeat(embeddings, 5000, axis=0)  # more than are shared out
    found = stand_for(many, np.array([0, 15000]), seed=0)
    assert found.sum() == pytest.approx(len(many)) and found[0] == pytest.approx(15000, rel=0.05)
    assert stand_for(embeddings, np.arange(5), seed=0).tolist() == [1, 1, 1, 1, 1]


def test_a_round_with_embeddings_weighs_its_labels(auto: Backend) -> None:
    pixels, kinds = patches_of_colour(60)
    stored = save_labeled(auto, pixels, kinds)
    assert set(labeled_images(auto.store, auto.settings, stored).weights) == {1}  # an older round has none
    with auto.store.draft(7) as draft:
        arrays = {name: stored.array(name) for name in ("task_ids", "embedded_task_ids", "image_keys")}
        codes = stored.array("label_codes").copy()
        codes[40:] = -1
        embeddings = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
        arrays |= {"label_codes": codes, "embeddings": embeddings}
        stored = draft.save(replace(stored.record, number=draft.number, holdout=()), arrays)
    found = labeled_images(auto.store, auto.settings, stored)
    assert len(found.weights) == 40 and found.weights.min() >= 1 and found.weights.sum() == pytest.approx(60)


def test_multiple_choice_is_compared_by_its_sets(auto: Backend) -> None:
    pixels, kinds = patches_of_colour(80)
    stored = save_labeled(auto, pixels, kinds)
    names = Labels("label", "image", ("a", "b"), multiple=True)
    with auto.store.draft(7) as draft:
        arrays = {name: stored.array(name) for name in ("task_ids", "embedded_task_ids", "image_keys")}
        sets = np.stack([kinds == 0, kinds < 2], 1).astype(np.int8)
        sets[1] = -1  # nobody has labelled it
        draft.save(replace(stored.record, number=draft.number, labels=names), {**arrays, "label_sets": sets})
    held = hold_audition(auto.store, auto.settings, 7, never)
    assert held and held.images == 63 and held.candidates[0].accuracy is not None


def test_at_most_four_have_a_part_the_one_in_use_first() -> None:
    lite = model.choose_backbone("auto", None)
    small = model.choose_backbone(model.SMALL_CNN, None)
    assert candidates(lite, None)[0] == LITE0
    assert model.SMALL_CNN not in candidates(small, None)  # it has no weights to embed with
    assert len(candidates(lite, lite)) <= 4


def test_settings_say_who_chooses() -> None:
    assert Settings().labels_choose_backbone
    assert not Settings(backbone=LITE0).labels_choose_backbone
