"""Self-supervised pretraining on the pool: SimCLR, for machines without pretrained weights.

Two random views of an image shall be nearer to each other than to any view of another image (Chen et al.,
arXiv 2002.05709). No label is needed, so it starts with the import of the images. It runs in slices: a
checkpoint holds all that the next slice needs, and the result is the same as without the interruption.

    checkpoint.safetensors   network, projector, optimizer, and how far it is
    features.safetensors     the finished network, a weights file like any other
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from coreset_backend.arrays import PixelRows, Progress, Rows
from coreset_backend.errors import NotFinite
from coreset_backend.model.augmentation import random_views
from coreset_backend.model.backbone import ChosenBackbone
from coreset_backend.model.backbones import OWN
from coreset_backend.model.classifier import Sample, device_named, half_precision, halved, size_of
from coreset_backend.model.networks import (
    PRETRAINED_WIDTHS,
    PretrainedCnn,
    fit_principal_components,
    initialize,
    small_cnn_for,
)
from coreset_backend.model.pretraining_checkpoint import PretrainingState, Run, read_saved, state_of
from coreset_backend.model.saving import write_tensors

log = logging.getLogger(__name__)

CHECKPOINT, FEATURES = "checkpoint.safetensors", "features.safetensors"
BACKBONE = OWN["self_supervised"]
SAMPLE = 2000  # images that the stem is fitted on
COMPONENT_SAMPLE = 10_000  # images that the principal components are fitted on
MOST_SKIPPED = 3  # steps in a row
MOST_GRADIENT = 1e3  # far above any healthy step: the norm is measured, not tamed
Stop = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class PretrainingRecipe:
    """Length and method of a pretraining on the pool; docs/learning.md measures the defaults.

    ``epochs``: how often each image is seen, each time as two views. A small pool is seen more often, up to
    ``most_epochs``, until it is ``least_images`` in all; none sees more than ``most_images``: both of 32
    pixels a side, or of as many pixels together. ``view``: the views' side as a share of the image's.
    ``extend_from``: the share of new images from which a finished pretraining goes on.
    ``checkpoint_seconds``: what a kill can cost. ``batch`` holds up to ``full_batch_size`` pixels a side;
    of larger images as many as fill the same memory.
    """

    epochs: int = 40
    most_epochs: int = 160
    least_images: int = 400_000
    most_images: int = 2_000_000
    batch: int = 256
    view: float = 0.75
    learning_rate: float = 3e-3
    warm_up: float = 0.05
    weight_decay: float = 0.02
    temperature: float = 0.5
    extend_from: float = 0.2
    checkpoint_seconds: float = 10.0
    full_batch_size: int = 96

    def images_for(self, pool: int, size: int) -> int:
        """How many images are seen in the pretraining on a pool of that many images of ``size`` pixels."""
        least, most = (images * 32**2 // size**2 for images in (self.least_images, self.most_images))
        return max(min(max(self.epochs * pool, min(self.most_epochs * pool, least)), most), 1)

    def batch_for(self, pool: int, size: int) -> int:
        """How many images of ``size`` pixels there are in a step."""
        fitting = self.batch * self.full_batch_size**2 // max(size, self.full_batch_size) ** 2
        return min(max(fitting, 2), max(pool, 2))


def pretrain(
    pixels: PixelRows,
    keys: NDArray[np.uint8],
    folder: Path,
    *,
    seed: int,
    device: str = "auto",
    recipe: PretrainingRecipe | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> PretrainingState:
    """Begin the pretraining in ``folder``, go on with it, or extend it when the pool has grown.

    ``pixels`` uint8[n, size, size, 3]; ``keys`` uint8[n, 32] tell which images are new. ``progress`` gets
    (images seen, images to see). Between two steps ``stop()`` is asked; if it says yes the state is saved
    and returned unfinished. On the CPU the result depends on the seed only, not on where it was stopped.
    A checkpoint that is damaged, or was made for another image size, is begun anew.
    Raises NotFinite, OutOfMemory, ConfigError.
    """
    recipe = recipe or PretrainingRecipe()
    size = size_of(pixels, BACKBONE)
    folder.mkdir(parents=True, exist_ok=True)
    run = _opened(pixels, keys, folder, size, seed, device_named(device), recipe)
    if run.seen < run.budget:
        _train(run, pixels, folder / CHECKPOINT, recipe, progress, stop)
    if run.seen >= run.budget and not _is_current(folder, run):
        _save_features(run, pixels, folder / FEATURES)
    return run.state()


def pretraining_state(folder: Path) -> PretrainingState | None:
    """How far the pretraining in ``folder`` is; None if none was begun, or its checkpoint is damaged."""
    saved = read_saved(folder / CHECKPOINT)
    return state_of(saved[0]) if saved else None


def pretrained_backbone(folder: Path) -> ChosenBackbone | None:
    """The backbone whose pretraining in ``folder`` is finished, with its weights; None if there is none."""
    path = folder / FEATURES
    saved = read_saved(path)
    if saved is None:
        return None
    state = state_of(saved[0])
    description = (
        f"small CNN pretrained without labels on {state.images} images of this pool "
        f"(SimCLR, {state.seen / state.images:.0f} epochs)"
    )
    return ChosenBackbone(BACKBONE, path, description)


# ---------------------------------------------------------------------------------------------------
# begun, resumed or extended


def _opened(
    pixels: PixelRows,
    keys: NDArray[np.uint8],
    folder: Path,
    size: int,
    seed: int,
    device: torch.device,
    recipe: PretrainingRecipe,
) -> Run:
    run = _begun(pixels, keys, size, seed, device, recipe)
    saved = read_saved(folder / CHECKPOINT)
    if saved is None:
        return run
    manifest, tensors = saved
    if (manifest["size"], manifest["seed"]) != (size, seed):
        log.info("the pretraining is begun anew: the image size or the seed has changed")
        return run
    known = run.known
    run.restore(manifest, tensors)
    new = _share_of_new(known, run.known)
    if run.seen >= run.budget and new >= recipe.extend_from:
        log.info("the pretraining goes on: %.0f %% of the images are new", 100 * new)
        run.known, run.first = known, run.seen
        run.budget += int(recipe.images_for(len(known), size) * new)
    return run


def _share_of_new(known: Tensor, before: Tensor) -> float:
    """Which share of the images ``known`` has come since those ``before``.

    Where all keys are new, the same images were most likely cached for another backbone, in another size or
    by another interpolation. Then it is the share that the pool has grown by.
    """
    new = 1 - float(torch.isin(known, before).double().mean())
    return new if new < 1 else max(1 - len(before) / len(known), 0.0)


def _begun(
    pixels: PixelRows,
    keys: NDArray[np.uint8],
    size: int,
    seed: int,
    device: torch.device,
    recipe: PretrainingRecipe,
) -> Run:
    generator = torch.Generator().manual_seed(seed)
    sample = Sample(pixels, BACKBONE, SAMPLE, seed, torch.device("cpu"))
    network = small_cnn_for(sample, generator, PRETRAINED_WIDTHS).to(device)
    projector = _projector(2 * PRETRAINED_WIDTHS[1], generator).to(device)
    weights = [w for w in (*network.parameters(), *projector.parameters()) if w.requires_grad]
    optimizer = torch.optim.AdamW(
        weights, recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    return Run(
        network=network,
        projector=projector,
        optimizer=optimizer,
        known=_names(keys),
        size=size,
        seed=seed,
        device=device,
        first=0,
        seen=0,
        budget=recipe.images_for(len(pixels), size),
        batch=recipe.batch_for(len(pixels), size),
    )


def _projector(dimension: int, generator: torch.Generator) -> nn.Sequential:
    with torch.device("meta"):
        projector = nn.Sequential(
            nn.Linear(dimension, 512, bias=False), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 128)
        )
    projector.to_empty(device="cpu")
    initialize(projector, generator)
    return projector


def _names(keys: NDArray[np.uint8]) -> Tensor:
    """int64[m], ascending: the first 8 bytes of each key, each once."""
    names = np.ascontiguousarray(keys[:, :8]).view(np.int64)[:, 0]
    return torch.from_numpy(np.unique(names))


# ---------------------------------------------------------------------------------------------------
# training


def _train(
    run: Run,
    pixels: PixelRows,
    checkpoint: Path,
    recipe: PretrainingRecipe,
    progress: Progress | None,
    stop: Stop | None,
) -> None:
    """Steps until the budget is seen or ``stop()`` says so, and a checkpoint now and then and at the end."""
    side = max(16, 4 * round(recipe.view * run.size / 4))
    run.network.train()
    run.projector.train()
    skipped, began, saved = 0, time.monotonic() - run.seconds, time.monotonic()
    while run.seen < run.budget and not (stop and stop()):
        done = (run.seen - run.first) / (run.budget - run.first)
        for group in run.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(done, recipe.warm_up)
        try:
            loss = _step(run, pixels, side, recipe.temperature)
        except (RuntimeError, MemoryError) as error:
            run.batch = halved(run.batch, error)
            run.note = f"memory ran out: went on with {run.batch} images at a time"
            continue
        skipped = 0 if loss is not None else skipped + 1
        if skipped == MOST_SKIPPED:
            raise NotFinite(
                f"The pretraining's loss was not finite {skipped} times in a row, after {run.seen} images. "
                "Look for broken images in the pool, or do without it (CORESET_BACKBONE=small_cnn)."
            )
        run.loss = run.loss if loss is None else loss
        run.seen = min(run.seen + run.batch, run.budget)
        run.seconds = time.monotonic() - began
        if progress:
            progress(run.seen, run.budget)
        if time.monotonic() > saved + recipe.checkpoint_seconds:
            run.save(checkpoint)
            saved = time.monotonic()
    run.save(checkpoint)


def _schedule(done: float, warm_up: float) -> float:
    """The learning rate's factor when the share ``done`` of the images was seen: up, then down a cosine."""
    return min((done + 1e-3) / warm_up, (1 + float(np.cos(np.pi * done))) / 2)


def _step(run: Run, pixels: PixelRows, side: int, temperature: float) -> float | None:
    """One step of the optimizer on the next images; the loss, or None if it was not finite: then no step."""
    draws = torch.Generator().manual_seed(_seed(run.seed, run.seen))
    images = torch.as_tensor(pixels[_rows_at(run.seen, run.batch, len(pixels), run.seed)])
    views = torch.cat([random_views(images, side, draws, run.device) for _ in range(2)])
    with half_precision(run.device):
        outputs = run.projector(run.network(views.contiguous(memory_format=torch.channels_last)))
    loss = _contrast(outputs.float(), temperature)
    run.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    weights = [weight for group in run.optimizer.param_groups for weight in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(weights, MOST_GRADIENT)
    if not (torch.isfinite(loss) and torch.isfinite(norm)):
        return None
    run.optimizer.step()
    return float(loss.item())


def _rows_at(seen: int, count: int, pool: int, seed: int) -> Rows:
    """The rows of the pool, int64[count], that come after ``seen`` images; every epoch shows each once."""
    rows: list[Rows] = []
    while count > 0:
        epoch, start = divmod(seen, pool)
        order = np.random.default_rng((seed, epoch)).permutation(pool)
        rows.append(order[start : start + count])
        seen, count = seen + len(rows[-1]), count - len(rows[-1])
    return np.concatenate(rows)


def _seed(seed: int, seen: int) -> int:
    """The seed of what is drawn after ``seen`` images: resumed, a pretraining draws the same."""
    return int(np.random.SeedSequence((seed, seen)).generate_state(1)[0])


def _contrast(outputs: Tensor, temperature: float) -> Tensor:
    """SimCLR's loss of float32[2k, d], whose rows r and r + k are two views of one image."""
    unit = F.normalize(outputs)
    likeness = unit @ unit.T / temperature
    likeness.fill_diagonal_(float("-inf"))
    partner = torch.arange(len(unit), device=unit.device).roll(len(unit) // 2)
    return F.cross_entropy(likeness, partner)


# ---------------------------------------------------------------------------------------------------
# the finished features


@torch.inference_mode()
def _save_features(run: Run, pixels: PixelRows, path: Path) -> None:
    """Write the network with the principal components of what its layers say about the pool."""
    with torch.device("meta"):
        network = PretrainedCnn()
    network.to_empty(device="cpu")
    network.encoder.load_state_dict({name: value.cpu() for name, value in run.network.state_dict().items()})
    network.eval().to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    read = []
    for images in Sample(pixels, BACKBONE, COMPONENT_SAMPLE, run.seed, run.device):
        with half_precision(run.device):
            read.append(network.layers(images).float().cpu())
    network.to("cpu")
    fit_principal_components(network.project, torch.cat(read).double())
    write_tensors(path, run.manifest(), network.state_dict())


def _is_current(folder: Path, run: Run) -> bool:
    """Whether the finished features in the folder are those of this run."""
    saved = read_saved(folder / FEATURES)
    return saved is not None and (saved[0]["seen"], saved[0]["seed"], saved[0]["size"]) == (
        run.seen,
        run.seed,
        run.size,
    )
