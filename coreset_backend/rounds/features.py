"""A project's backbone, and pretraining on its own pool, in slices, where that is asked for.

A slice reads the images of the newest round from the cache, so it needs neither Label Studio nor the
network. Its state is in the project's folder ``pretraining``; if Redis or the process is lost, seconds of
work are lost.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from coreset_backend import model
from coreset_backend.errors import ConfigError
from coreset_backend.files import sha256
from coreset_backend.images import CachedPixels
from coreset_backend.settings import Settings
from coreset_backend.store.saved_round import StoredRound
from coreset_backend.store.store import Store

log = logging.getLogger(__name__)
LEAST_IMAGES = 500
"""A smaller pool has too few images to pretrain on: patch features are better for it."""
SLICE_SECONDS = 120.0
FEATURES, CHECKPOINT = "features.safetensors", "checkpoint.safetensors"


def features_at_hand(store: Store, project_id: int) -> str:
    """The SHA-256 of the features that were learned on the project's pool; empty if there are none."""
    path = store.pretraining(project_id) / FEATURES
    return sha256(path) if path.is_file() else ""


def is_pretraining_unfinished(store: Store, project_id: int) -> bool:
    """Whether a first pretraining on the project's pool was started and has no features yet."""
    folder = store.pretraining(project_id)
    return (folder / CHECKPOINT).is_file() and not (folder / FEATURES).is_file()


def may_pretrain(store: Store, settings: Settings, stored: StoredRound) -> bool:
    """Whether the project of that round learns features of its own: asked for, on a large enough pool.

    The setting asks for it, or an audition in which no backbone at hand told the images apart better than
    their colours do. Where features of the pool have won one, they grow with the pool.
    """
    counts, held = stored.record.counts, store.audition(stored.record.project_id)
    readable = sum(counts.values()) - counts.get("unreadable", 0)
    asked = settings.weights is None and settings.backbone == model.SELF_SUPERVISED
    if settings.labels_choose_backbone and held:
        asked = held.wants_pretraining or held.chosen == model.SELF_SUPERVISED
    return asked and readable >= LEAST_IMAGES


def choose_project_backbone(store: Store, settings: Settings, project_id: int) -> model.ChosenBackbone:
    """The backbone of the project's next round, by weights that are on this machine; raises ConfigError.

    With 'auto' it is the one that the last audition chose, while its weights are there; before a first one,
    the one that was chosen by speed.
    """
    own = model.pretrained_backbone(store.pretraining(project_id))
    if not settings.labels_choose_backbone:
        return model.choose_backbone(settings.backbone, settings.weights, own, download=False)
    if (held := store.audition(project_id)) and held.chosen != model.SMALL_CNN:
        try:
            chosen = candidate(held.chosen, own)
            return replace(chosen, description=f"{chosen.description}, chosen by the labels")
        except ConfigError as error:
            log.error("project %d: the backbone that the labels chose is not used: %s", project_id, error)
    return _chosen_by_speed(store, project_id, own)


def _chosen_by_speed(store: Store, project_id: int, own: model.ChosenBackbone | None) -> model.ChosenBackbone:
    kept = store.backbone_choice(project_id)
    if kept is None:
        return model.choose_backbone("auto", None, own, download=False)
    if kept.name == model.LITE0:
        chosen = model.choose_backbone("auto", None, own)
    else:
        chosen = model.choose_candidate(kept.name)
    return replace(chosen, description=f"{chosen.description}, chosen by auto: {kept.why}")


def candidate(name: str, own: model.ChosenBackbone | None) -> model.ChosenBackbone:
    """The backbone of that name with weights on this machine; ``own`` is that of the pool.

    Raises ConfigError.
    """
    if name != model.SELF_SUPERVISED:
        return model.choose_candidate(name)
    if own is None:
        raise ConfigError("the features learned on the pool are gone")
    return own


def pretrain_slice(
    store: Store,
    settings: Settings,
    project_id: int,
    progress: Callable[[int, int, int], None],
    stop: Callable[[], bool],
) -> model.PretrainingState | None:
    """Pretrain on the project's pool for two minutes, or until ``stop()`` says so between two steps.

    ``progress`` gets (images in the pool, images seen, images to see). Returns how far the pretraining is;
    None without a round, where nobody asks for it, or where the pool is too small. Raises CoresetError,
    OSError and MemoryError.
    """
    stored = store.latest(project_id)
    if stored is None or not may_pretrain(store, settings, stored) or not stored.has("image_keys"):
        return None
    resize = model.backbone_named(model.SELF_SUPERVISED).resize(settings.image_size)
    pixels = CachedPixels(store.image_cache, stored.array("image_keys"), resize)
    if len(pixels) < LEAST_IMAGES:
        return None
    until = time.monotonic() + min(SLICE_SECONDS, settings.poll_seconds)
    state = model.pretrain(
        pixels,
        pixels.keys,
        store.pretraining(project_id),
        seed=settings.seed,
        device=settings.device,
        progress=partial(progress, len(pixels)),
        stop=lambda: time.monotonic() > until or stop(),
    )
    store.keep_pretraining(project_id)
    return state
