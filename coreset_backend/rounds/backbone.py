"""Which backbone a project's rounds stand on: the one that is set, or the one that was chosen for it.

'auto' chooses once, in the project's first round, and the choice is kept: embeddings of two networks do not
compare, so a network that comes and goes must not change it. The settings change it, an audition on the
labels, and a pool that has grown far beyond what the chosen network can embed.
"""

import logging
import time
from dataclasses import replace

from coreset_backend import model
from coreset_backend.arrays import Progress
from coreset_backend.errors import ConfigError, CoresetError, DownloadFailed
from coreset_backend.settings import Settings
from coreset_backend.store.record import BackboneChoice
from coreset_backend.store.saved_round import StoredRound
from coreset_backend.store.store import Store

log = logging.getLogger(__name__)
OUTGROWN = 4.0
"""A pool that takes this many times as long as 'auto' may choose goes back to the small network."""
RETRY_SECONDS = 3600.0


def prepare_backbone(
    store: Store,
    settings: Settings,
    project_id: int,
    images: int,
    previous: StoredRound | None,
    progress: Progress,
) -> None:
    """Choose the project's backbone if 'auto' has not yet, and download its weights if they are missing.

    ``images``: number of images in the round. ``progress`` gets (bytes so far, bytes in all) of a download.
    Raises ConfigError. Raises DownloadFailed if the weights cannot be downloaded and the settings or the
    project's earlier rounds need them.
    """
    if settings.weights is not None:
        return
    if settings.backbone != "auto":
        model.have_weights(settings.backbone, download=settings.download == "auto", progress=progress)
        return
    kept = store.backbone_choice(project_id)
    if kept is None or _is_outgrown(kept, images):
        kept = _decide(settings, images, kept, previous, progress)
        store.keep_backbone_choice(project_id, kept)
    name = _network_in_use(store, settings, project_id) or kept.name
    if name not in (model.LITE0, model.SELF_SUPERVISED):
        model.have_weights(name, download=settings.download == "auto", progress=progress)


def _network_in_use(store: Store, settings: Settings, project_id: int) -> str | None:
    """The network that the labels chose, perhaps on another host; None if 'auto' goes by speed."""
    held = store.audition(project_id) if settings.labels_choose_backbone else None
    return held.chosen if held and held.chosen != model.SMALL_CNN else None


def _is_outgrown(kept: BackboneChoice, images: int) -> bool:
    rate = kept.images_per_second
    return bool(rate and images / rate > OUTGROWN * model.AFFORDABLE_SECONDS)


def _decide(
    settings: Settings,
    images: int,
    kept: BackboneChoice | None,
    previous: StoredRound | None,
    progress: Progress,
) -> BackboneChoice:
    """The small network that is installed, or the stronger one where time and network allow it."""
    small = BackboneChoice(model.LITE0, "")
    if kept:
        return replace(small, why=f"the pool has grown to {images:,} images, too many for {kept.name} here")
    if previous and previous.record.backbone.startswith(model.LITE0):
        return replace(small, why="the project's rounds so far stand on it")
    if why := model.why_not_stronger(download=settings.download == "auto"):
        return replace(small, why=why)
    rate = model.speed_of_candidate(model.STRONGER, settings.image_size, settings.device)
    if why := model.why_too_slow(images, rate):
        return replace(small, why=why)
    try:
        model.have_weights(model.STRONGER, download=True, progress=progress)
    except DownloadFailed as error:
        why = f"{model.STRONGER} could not be downloaded ({error.why}), which is tried again later"
        return replace(small, why=why, wanted=model.STRONGER, retry_at=time.time() + RETRY_SECONDS)
    except ConfigError as error:
        return replace(small, why=f"{model.STRONGER} cannot be had: {error}")
    why = f"it embeds {images:,} images in about {max(images / rate, 1):.0f} s here"
    return BackboneChoice(model.STRONGER, why, images_per_second=rate)


# ---------------------------------------------------------------- a download that failed, tried again


def is_download_wanted(store: Store, settings: Settings, project_id: int) -> bool:
    """Whether weights that could not be downloaded for the project are to be tried again now."""
    if settings.backbone != "auto" or settings.download == "never":
        return False
    kept = store.backbone_choice(project_id)
    return bool(kept and kept.wanted and time.time() > kept.retry_at)


def download_wanted(store: Store, project_id: int) -> str:
    """Try once more to download the weights that the project wants; what came of it, in words.

    The project's rounds stay on their backbone: the weights are then a candidate of its audition.
    """
    kept = store.backbone_choice(project_id)
    assert kept is not None
    try:
        model.have_weights(kept.wanted, download=True)
    except CoresetError as error:
        store.keep_backbone_choice(project_id, replace(kept, retry_at=time.time() + RETRY_SECONDS))
        return str(error)
    store.keep_backbone_choice(project_id, replace(kept, wanted="", retry_at=0.0))
    told = (
        f"{kept.wanted} is downloaded; the project goes on with {kept.name} until its labels prefer another"
    )
    log.info("project %d: %s", project_id, told)
    return told
