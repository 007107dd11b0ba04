"""The learning of a round: embeddings of all images, and a model fitted on the labels.

If the network's weights do not change in the round, all images are embedded first and a head is fitted on the
embeddings; a network that is trained on the labels embeds the images afterwards.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coreset_backend import model
from coreset_backend.arrays import Floats, PixelRows, PixelSubset, Progress, Rows
from coreset_backend.errors import CorruptRound
from coreset_backend.evaluation.holdout import holdout_task_ids
from coreset_backend.fleet.local import PoolPixels
from coreset_backend.images import Pixels
from coreset_backend.project import Snapshot
from coreset_backend.reports import TrainingReport
from coreset_backend.rounds.consensus import LEAST_LABELS, NOISY, learned_targets
from coreset_backend.rounds.embeddings import embed_prepared, embed_round
from coreset_backend.rounds.label_errors import GivenLabels, given_labels, label_quality
from coreset_backend.settings import Settings
from coreset_backend.store.findings import duplicate_groups, members
from coreset_backend.store.saved_round import StoredRound

log = logging.getLogger(__name__)
Phase = Callable[[str], AbstractContextManager[Progress]]


@dataclass(frozen=True, slots=True, eq=False)
class Labeled:
    """Those of some images that are labelled: their ``rows`` int64[l], labels as ``given``, which of them are
    in the ``holdout`` bool[l], and the ``targets`` float32[l, classes] to learn."""

    rows: Rows
    given: GivenLabels
    holdout: NDArray[np.bool_]
    targets: Floats

    @property
    def multiple(self) -> bool:
        return self.given.multiple

    @property
    def trained(self) -> int:
        """Number of labelled images outside the hold-out."""
        return int((~self.holdout).sum())


def held_out(
    settings: Settings, snapshot: Snapshot, pixels: Pixels, previous: StoredRound | None
) -> frozenset[int]:
    """The ids of the tasks of the hold-out. Tasks with equal pixels are in it together, and so are
    near-duplicates, as the ``previous`` round found them."""
    known = previous.record.holdout if previous else ()
    labeled = snapshot.task_ids[[task.label is not None for task in snapshot.tasks]]
    rows = np.flatnonzero(np.isin(pixels.task_ids, labeled))
    codes = np.unique(pixels.keys[rows], axis=0, return_inverse=True)[1].reshape(-1)
    alike = members(codes, pixels.task_ids[rows], np.arange(len(rows)))
    try:
        if previous is not None and (found := duplicate_groups(previous)) is not None:
            groups, task_ids = found
            alike += members(groups, task_ids, np.flatnonzero(np.isin(task_ids, labeled) & (groups >= 0)))
    except CorruptRound as error:
        log.error("project %d: near-duplicates are not known: %s", snapshot.project_id, error)
    return holdout_task_ids(snapshot.tasks, known, settings.holdout, settings.seed, alike)


def labeled_among(snapshot: Snapshot, readable: Rows, holdout: frozenset[int]) -> Labeled | None:
    """The labelled tasks among the rows ``readable`` of the snapshot; None without two different labels."""
    labels, tasks = snapshot.labels, [snapshot.tasks[row] for row in readable]
    rows = [row for row, task in enumerate(tasks) if task.label is not None]
    trained = {tasks[row].label for row in rows if tasks[row].task_id not in holdout}
    if labels is None or len(trained) < 2:
        return None
    labeled = [tasks[row] for row in rows]
    given = given_labels(labeled, labels)
    is_held_out = np.array([task.task_id in holdout for task in labeled])
    return Labeled(np.array(rows, dtype=np.int64), given, is_held_out, given.targets)


def learn_snapshot(
    settings: Settings,
    chosen: model.ChosenBackbone,
    pixels: PoolPixels,
    labeled: Labeled | None,
    previous: StoredRound | None,
    phase: Phase,
    shards: Path | None = None,
) -> tuple[model.Classifier, Floats, Floats | None, TrainingReport | None]:
    """A classifier, the embeddings float32[m, dimension] of the pixels by it, the probabilities
    float32[m, classes] of the pool, and the report of its fit.

    Without labels the classifier has no head; the probabilities and the report are None. ``phase`` times and
    reports a part. ``shards``: a folder that keeps features until the round is saved.
    """
    training = None
    with phase("train") as step:
        is_trained = labeled and model.trains_network(chosen, labeled.trained, settings.device)
        if labeled and is_trained:
            classifier, training = train_network(settings, chosen, pixels, labeled, step)
    with phase("embed") as step:
        if is_trained:
            embeddings = embed_round(classifier, pixels, previous, step, shards)
        else:
            classifier, embeddings = embed_frozen(settings, chosen, pixels, previous, step, shards)
    with phase("fit"):
        if labeled and not is_trained:
            if _may_be_noisy(previous):
                labeled = as_probable(labeled, classifier, embeddings, settings.seed)
            classifier, training = fit_head(classifier, embeddings, labeled)
        probabilities = pool_probabilities(classifier, embeddings, labeled)
    return classifier, embeddings, probabilities, training


def _may_be_noisy(previous: StoredRound | None) -> bool:
    """Whether to estimate the error rate, which costs rounds on clean labels seconds for nothing."""
    rate = previous.record.label_errors.rate if previous else None
    return rate is None or rate >= NOISY / 2


def as_probable(labeled: Labeled, classifier: model.Classifier, embeddings: Floats, seed: int) -> Labeled:
    """With the classes' probabilities as targets outside the hold-out, where many answers are wrong.

    The hold-out has no part in them, since it measures the model that learns them.
    """
    trained = np.flatnonzero(~labeled.holdout)
    if classifier.preparation is None or labeled.multiple or len(trained) < LEAST_LABELS:
        return labeled
    given = labeled.given[trained]
    targets = labeled.targets.copy()
    targets[trained] = learned_targets(given, label_quality(embeddings[labeled.rows[trained]], given, seed))
    return replace(labeled, targets=targets)


def train_network(
    settings: Settings,
    chosen: model.ChosenBackbone,
    pixels: PixelRows,
    labeled: Labeled,
    step: Progress | None = None,
) -> tuple[model.Classifier, TrainingReport]:
    """A classifier whose network was trained on the labels, and the report."""
    classifier, report = model.fit(
        chosen,
        PixelSubset(pixels, labeled.rows),
        labeled.targets,
        multiple=labeled.multiple,
        holdout=labeled.holdout,
        seed=settings.seed,
        device=settings.device,
        progress=step,
    )
    return classifier, report


def embed_frozen(
    settings: Settings,
    chosen: model.ChosenBackbone,
    pixels: PoolPixels,
    previous: StoredRound | None,
    step: Progress | None = None,
    shards: Path | None = None,
) -> tuple[model.Classifier, Floats]:
    """A classifier without a head on the network as it is, and the embeddings float32[n, dimension].

    Unchanged embeddings are taken from the previous round. ``shards``: a folder that keeps features until the
    round is saved.
    """
    frozen = frozen_network(settings, chosen, pixels)
    if frozen.backbone.published:
        return embed_prepared(frozen, pixels, previous, settings.seed, step, shards)
    return frozen, embed_round(frozen, pixels, previous, step, shards)


def frozen_network(settings: Settings, chosen: model.ChosenBackbone, pixels: PixelRows) -> model.Classifier:
    """The network as it is, without a head; by these images it is chosen what computes it."""
    converted = settings.local_dir / "converted"
    return model.untrained(chosen, pixels, seed=settings.seed, device=settings.device, cache=converted)


def fit_head(
    frozen: model.Classifier, embeddings: Floats, labeled: Labeled
) -> tuple[model.Classifier, TrainingReport]:
    """``frozen`` with a head fitted on its embeddings of the labelled images, and the report."""
    classifier, report = model.fit_head(
        frozen,
        embeddings[labeled.rows],
        labeled.targets,
        multiple=labeled.multiple,
        holdout=labeled.holdout,
    )
    return classifier, report


def pool_probabilities(
    classifier: model.Classifier, embeddings: Floats, labeled: Labeled | None
) -> Floats | None:
    """float32[m, classes] of all images, calibrated for the pool; None without a model."""
    if labeled is None:
        return model.probabilities_of(classifier, embeddings)
    trained = ~labeled.holdout
    return model.pool_probabilities(classifier, embeddings, labeled.rows[trained], labeled.targets[trained])
