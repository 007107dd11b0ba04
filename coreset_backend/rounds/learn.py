"""The learning of a round: embeddings of all images, and a model fitted on the labels.

If the network's weights do not change in the round, all images are embedded first and a head is fitted on the
embeddings; a network that is trained on the labels embeds the images afterwards.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coreset_backend import model
from coreset_backend.arrays import Floats, PixelRows, PixelSubset, Progress, Rows
from coreset_backend.project import Snapshot, class_targets
from coreset_backend.reports import TrainingReport
from coreset_backend.rounds.embeddings import KeyedPixels, embed_prepared, embed_round
from coreset_backend.settings import Settings
from coreset_backend.store.saved_round import StoredRound

Phase = Callable[[str], AbstractContextManager[Progress]]


@dataclass(frozen=True, slots=True, eq=False)
class Labeled:
    """Those of some images that are labelled: their ``rows`` int64[l], ``targets`` float32[l, classes], and
    which of them are in the ``holdout`` bool[l]."""

    rows: Rows
    targets: Floats
    holdout: NDArray[np.bool_]
    multiple: bool

    @property
    def trained(self) -> int:
        """Number of labelled images outside the hold-out."""
        return int((~self.holdout).sum())


def labeled_among(snapshot: Snapshot, readable: Rows, holdout: frozenset[int]) -> Labeled | None:
    """The labelled tasks among the rows ``readable`` of the snapshot; None without two different labels."""
    labels, tasks = snapshot.labels, [snapshot.tasks[row] for row in readable]
    rows = [row for row, task in enumerate(tasks) if task.label is not None]
    trained = {tasks[row].label for row in rows if tasks[row].task_id not in holdout}
    if labels is None or len(trained) < 2:
        return None
    labeled = [tasks[row] for row in rows]
    return Labeled(
        np.array(rows, dtype=np.int64),
        class_targets(labeled, labels),
        np.array([task.task_id in holdout for task in labeled]),
        labels.multiple,
    )


def learn_snapshot(
    settings: Settings,
    chosen: model.ChosenBackbone,
    pixels: KeyedPixels,
    labeled: Labeled | None,
    previous: StoredRound | None,
    phase: Phase,
) -> tuple[model.Classifier, Floats, TrainingReport | None]:
    """A classifier, the embeddings float32[m, dimension] of the pixels by it, and the report of its fit.

    Without labels the classifier has no head and the report is None. ``phase`` times and reports a part.
    """
    training = None
    with phase("train") as step:
        is_trained = labeled and model.trains_network(chosen, labeled.trained, settings.device)
        if labeled and is_trained:
            classifier, training = train_network(settings, chosen, pixels, labeled, step)
    with phase("embed") as step:
        if is_trained:
            embeddings = embed_round(classifier, pixels, previous, step)
        else:
            classifier, embeddings = embed_frozen(settings, chosen, pixels, previous, step)
    with phase("fit"):
        if labeled and not is_trained:
            classifier, training = fit_head(classifier, embeddings, labeled)
    return classifier, embeddings, training


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
    pixels: KeyedPixels,
    previous: StoredRound | None,
    step: Progress | None = None,
) -> tuple[model.Classifier, Floats]:
    """A classifier without a head on the network as it is, and the embeddings float32[n, dimension].

    Unchanged embeddings are taken from the previous round.
    """
    converted = settings.model_dir / "converted"
    frozen = model.untrained(chosen, pixels, seed=settings.seed, device=settings.device, cache=converted)
    if frozen.backbone.published:
        return embed_prepared(frozen, pixels, previous, settings.seed, step)
    return frozen, embed_round(frozen, pixels, previous, step)


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
