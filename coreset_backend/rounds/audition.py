"""The labels choose the backbone: candidates at hand are compared on the labelled images, in spare time.

An audition reads the newest round and the images in the cache, so it needs neither Label Studio nor the
network. It embeds the labelled images only. What it ends with is kept in ``audition.json`` of the project,
whole or not at all, and holds from the next round on; that round embeds the pool.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from coreset_backend import model
from coreset_backend.arrays import Floats, Resize, Rows
from coreset_backend.errors import CoresetError
from coreset_backend.images import CachedPixels
from coreset_backend.reports import CandidateScores
from coreset_backend.rounds.features import (
    candidate,
    choose_project_backbone,
    features_at_hand,
)
from coreset_backend.settings import Settings
from coreset_backend.store.record import Audition, Round
from coreset_backend.store.saved_round import StoredRound
from coreset_backend.store.store import Store

log = logging.getLogger(__name__)
LEAST_LABELS = 50
"""Of fewer the accuracy is known to no more than 15 points or so."""
MOST_IMAGES = 1000
"""Compared; of more labels, as many are sampled. The standard error of a lead is then below 2 points."""
MOST_OF_POOL = 10_000
"""Images of the pool that are shared out among the labelled ones; of more, as many are sampled."""
MOST_CANDIDATES = 4
MOST_SECONDS = 1800.0
"""To embed the pool: a round that takes longer is nothing to start without being asked."""
COLOURS = 8
"""The side in pixels at which an image is little more than its colours."""


class GivenWay(Exception):
    """A round waits for the worker."""


@dataclass(frozen=True, slots=True, eq=False)
class LabeledImages:
    """Images in the cache by their ``keys`` uint8[l, 32], ascending, and ``targets`` float32[l, classes].

    ``weights`` float32[l]: how many images of the pool each stands for.
    """

    keys: NDArray[np.uint8]
    targets: Floats
    weights: Floats
    multiple: bool


def is_audition_due(store: Store, settings: Settings, stored: StoredRound) -> bool:
    """Whether backbones are to be compared on the labels of that round, the newest.

    They are at 50 labels and whenever the labels have doubled; also where labels were taken back, and where
    features have been learned on the pool since.
    """
    labels = labels_of(stored.record)
    if not settings.labels_choose_backbone or labels < LEAST_LABELS or not stored.has("image_keys"):
        return False
    held = store.audition(stored.record.project_id)
    if held is None or labels >= 2 * held.labels or 2 * labels <= held.labels:
        return True
    return features_at_hand(store, stored.record.project_id) != held.features


def labels_of(record: Round) -> int:
    """How many labels the round had to train on and to measure with."""
    return record.training.n_train + record.training.n_holdout if record.training else 0


def hold_audition(
    store: Store, settings: Settings, project_id: int, stop: Callable[[], bool]
) -> Audition | None:
    """Compare the backbones at hand on the newest round's labels, and keep how it ended.

    None where none is due, or too few of the images are in the cache. Between two blocks of images ``stop()``
    is asked; raises GivenWay if it says yes, and CoresetError, OSError and MemoryError.
    """
    stored = store.latest(project_id)
    if stored is None or not is_audition_due(store, settings, stored):
        return None
    labeled = labeled_images(store, settings, stored)
    if len(labeled.keys) < LEAST_LABELS // 2:
        return None
    in_use = choose_project_backbone(store, settings, project_id)
    own = model.pretrained_backbone(store.pretraining(project_id))
    names = candidates(in_use, own)
    images = len(stored.array("embedded_task_ids"))
    entered = list(_entered(store, settings, names, own, labeled, images, stop))
    ended = _ended(store, settings, in_use, entered, labeled)
    held = replace(
        ended,
        labels=labels_of(stored.record),
        features=features_at_hand(store, project_id),
        wants_pretraining=ended.wants_pretraining and own is None,
        at=datetime.now(UTC).isoformat(),
    )
    store.keep_audition(project_id, held)
    log.info("project %d: %s", project_id, held.sentence)
    return held


def labeled_images(store: Store, settings: Settings, stored: StoredRound) -> LabeledImages:
    """The labelled images of a round that are in the cache, but for the hold-out; MOST_IMAGES at most.

    The hold-out measures what the round after makes of the choice, so it has no part in it.
    """
    labels, task_ids = stored.record.labels, stored.array("task_ids")
    assert labels
    if labels.multiple:
        targets = stored.array("label_sets").astype(np.float32)
    else:
        codes = stored.array("label_codes").astype(np.int64)
        targets = np.where(codes[:, None] < 0, -1, np.eye(len(labels.names))[codes]).astype(np.float32)
    embedded = stored.array("embedded_task_ids")
    rows = np.searchsorted(task_ids, embedded)
    usable = (targets[rows] >= 0).all(1) & ~np.isin(embedded, stored.record.holdout)
    sampled = np.random.default_rng(settings.seed).permutation(np.flatnonzero(usable))[:MOST_IMAGES]
    keys, weights = stored.array("image_keys"), _weights(stored, sampled, settings.seed)
    by_key = {keys[row].tobytes(): targets[rows[row]] for row in sampled}
    counted: dict[bytes, float] = defaultdict(float)
    for row, weight in zip(sampled, weights, strict=True):
        counted[keys[row].tobytes()] += weight
    cached = CachedPixels(store.image_cache, keys[sampled]).keys
    found = [key.tobytes() for key in cached]
    known = np.array([by_key[key] for key in found], np.float32).reshape(-1, len(labels.names))
    shares = np.array([counted[key] for key in found], np.float32)
    return LabeledImages(cached, known, shares, labels.multiple)


def _weights(stored: StoredRound, labeled: Rows, seed: int) -> Floats:
    if not stored.has("embeddings") or not len(labeled):
        return np.ones(len(labeled), np.float32)
    return stand_for(stored.array("embeddings"), labeled, seed)


def stand_for(embeddings: Floats, labeled: Rows, seed: int) -> Floats:
    """float32[l]: how many images of the pool are nearest to that labelled one, itself among them.

    ``embeddings`` float32[n, d] of the pool, ``labeled`` int64[l] rows of it. A strategy picks what the model
    finds hard, so labels are no sample of the pool, and the backbone in use looks worse on them than it is.
    """
    others = np.setdiff1d(np.arange(len(embeddings)), labeled)
    sampled = np.sort(np.random.default_rng(seed).permutation(others)[:MOST_OF_POOL])
    known = embeddings[labeled]
    nearest = (embeddings[sampled] @ known.T - (known**2).sum(1) / 2).argmax(1)
    counted = np.bincount(nearest, minlength=len(labeled)) * (len(others) / max(len(sampled), 1))
    return (1 + counted).astype(np.float32)


def candidates(in_use: model.ChosenBackbone, own: model.ChosenBackbone | None) -> tuple[str, ...]:
    """The names of up to four backbones whose weights are on this machine, the one in use first."""
    names = [each.backbone.name for each in (in_use, own) if each and each.weights]
    return tuple(dict.fromkeys([*names[:1], *model.candidates_at_hand(), *names[1:]]))[:MOST_CANDIDATES]


Entered = model.Candidate | CandidateScores


def _entered(
    store: Store,
    settings: Settings,
    names: Sequence[str],
    own: model.ChosenBackbone | None,
    labeled: LabeledImages,
    images: int,
    stop: Callable[[], bool],
) -> Iterator[Entered]:
    """Each candidate with its embeddings, or why it has no part."""
    for place, name in enumerate(names):
        try:
            entered = _embedded(store, settings, candidate(name, own), labeled, stop)
        except (CoresetError, OSError, RuntimeError, MemoryError, ValueError) as error:
            why = f"{error}" or "memory ran out"
            log.warning("the backbone %s has no part in the audition: %s", name, why)
            yield CandidateScores(name, problem=why)
            continue
        if place and entered.seconds and entered.seconds * images > MOST_SECONDS:
            minutes = entered.seconds * images / 60
            yield CandidateScores(name, seconds=entered.seconds, problem=f"this pool takes {minutes:.0f} min")
        else:
            yield entered


def _embedded(
    store: Store,
    settings: Settings,
    chosen: model.ChosenBackbone,
    labeled: LabeledImages,
    stop: Callable[[], bool],
) -> model.Candidate:
    name = chosen.backbone.name

    def give_way(_done: int, _total: int) -> None:
        if stop():
            raise GivenWay(name)

    pixels = CachedPixels(store.image_cache, labeled.keys, chosen.backbone.resize(settings.image_size))
    frozen = model.untrained(chosen, pixels, seed=settings.seed, device=settings.device)
    began = time.monotonic()
    features = model.embed(frozen, pixels, progress=give_way)
    seconds = (time.monotonic() - began) / len(pixels)
    return replace(as_candidate(chosen.backbone, features, settings.seed), seconds=seconds)


def as_candidate(backbone: model.Backbone, features: Floats, seed: int) -> model.Candidate:
    """The backbone with its features float32[l, dimension] of labelled images, as an audition compares it."""
    if not backbone.published:
        return model.Candidate(backbone.name, features, prepared=False)
    return model.Candidate(backbone.name, _prepared(features, seed))


def _prepared(features: Floats, seed: int) -> Floats:
    return model.prepared(model.fit_preparation(features, seed), features)


def _ended(
    store: Store,
    settings: Settings,
    in_use: model.ChosenBackbone,
    entered: Sequence[Entered],
    labeled: LabeledImages,
) -> Audition:
    """How the comparison ended, as far as the candidates say it."""
    current = in_use.backbone.name
    compared = [each for each in entered if isinstance(each, model.Candidate)]
    left_out = tuple(each for each in entered if isinstance(each, CandidateScores))
    if not compared:
        told = f"No pretrained backbone is at hand to compare {current} with."
        return Audition(current, current, left_out, len(labeled.keys), sentence=told, wants_pretraining=True)
    pixels = CachedPixels(store.image_cache, labeled.keys, Resize(COLOURS))
    everything = np.arange(len(pixels), dtype=np.int64)
    colours = pixels[everything].reshape(len(pixels), -1).astype(np.float32)
    plain = model.Candidate("colours", _prepared(colours, settings.seed))
    found = model.compare_backbones(
        compared,
        labeled.targets,
        multiple=labeled.multiple,
        current=current,
        weights=labeled.weights,
        plain=plain,
    )
    return Audition(
        current=current,
        chosen=found.chosen,
        candidates=(*found.scores, *left_out),
        images=len(labeled.keys),
        wants_pretraining=not found.beats_plain,
        sentence=_sentence(current, found, len(labeled.keys)),
    )


def _sentence(current: str, found: model.Comparison, images: int) -> str:
    """How it ended in words, with the figures that decided."""
    scores = {each.name: each for each in found.scores}
    chosen = scores[found.chosen]
    told = f"{100 * (chosen.accuracy or 0):.0f} % accuracy in cross-validation on {images:,} labelled images"
    if found.chosen == current:
        others = ", ".join(
            f"{each.name} {100 * (each.expected_lead or 0):+.1f}"
            for each in found.scores
            if each is not chosen
        )
        wanted = f"more than {100 * model.WANTED_LEAD:.0f} point"
        rivals = f". No other is expected to lead by {wanted}: {others}" if others else ""
        return f"The labels keep the backbone {current}: {told}{rivals}."
    if chosen.lead is None or chosen.lead_error is None or chosen.expected_lead is None:
        return f"The labels choose the backbone {found.chosen}: {told}."
    return (
        f"The labels choose the backbone {found.chosen}: {told}. It is expected to lead {current} by "
        f"{100 * chosen.expected_lead:.1f} points (measured {100 * chosen.lead:.1f} ± "
        f"{100 * chosen.lead_error:.1f})."
    )
