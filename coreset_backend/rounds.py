"""A round, as one story: read the project, fit, embed, select, save, publish."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coreset_backend.errors import EmptyPool
from coreset_backend.label_studio import BATCH_VERSION_PREFIX
from coreset_backend.project import Prediction, Snapshot, Task, class_targets, holdout_task_ids
from coreset_backend.selection import Pool, Selection, covering_radius, strategy_named
from coreset_backend.store import STATES, Draft, Round, StoredRound

if TYPE_CHECKING:
    from coreset_backend.backend import Backend
    from coreset_backend.images import ImageFailure, Pixels
    from coreset_backend.settings import Settings

log = logging.getLogger(__name__)

Rows = NDArray[np.int64]
Progress = Callable[[str, int, int], None]
"""Called with (phase, done, total)."""


def _unwatched(_phase: str, _done: int, _total: int) -> None:
    """Progress that nobody watches."""


def run_round(backend: "Backend", project_id: int, progress: Progress = _unwatched) -> StoredRound:
    """The project's next round, saved and published.

    A round that was saved but not published, because Label Studio was away, is published as it is if
    nothing has changed since. Raises any CoresetError; nothing is left half-done.
    """
    clock = Clock(progress)
    with clock.phase("snapshot") as step:
        snapshot = backend.label_studio.fetch_snapshot(project_id, step)
    if not snapshot.tasks:
        raise EmptyPool(f"Project {project_id} '{snapshot.title}' has no tasks yet. Import images into it.")
    stored = backend.store.latest(project_id)
    if stored is None or stored.publication or stored.record.fingerprint != snapshot.fingerprint():
        stored = _compute(backend, snapshot, stored, clock)
    with clock.phase("publish"):
        publish_round(backend, stored)
    backend.store.prune(project_id, backend.settings.keep_rounds)
    log.info("project %d: round %d is published: %s", project_id, stored.record.number, clock)
    return stored


def round_due(backend: "Backend", project_id: int) -> str | None:
    """Why the project needs a round now, in words; None if it does not.

    Asks Label Studio for what has been annotated, which takes a fraction of a second.
    """
    stored = backend.store.latest(project_id)
    if stored is None:
        return "the project has no round yet"
    if stored.publication is None:
        return f"round {stored.record.number} is not published yet"
    if backend.settings.trigger == "manual":
        return None
    annotated = backend.label_studio.fetch_annotated(project_id)
    return _due(backend.settings, stored, annotated)


def _due(settings: "Settings", stored: StoredRound, annotated: dict[int, bool]) -> str | None:
    batch = stored.record.batch
    done = sum(task_id in annotated for task_id in batch)
    if batch and done >= settings.batch_done * len(batch):
        return f"{done} of the batch's {len(batch)} tasks are done"
    states = stored.array("states")
    before = set(stored.array("task_ids")[states == _code("labeled")].tolist())
    new = sum(labeled and task_id not in before for task_id, labeled in annotated.items())
    return f"{new} new labels" if new >= settings.labels_for_a_round else None


def _compute(
    backend: "Backend", snapshot: Snapshot, previous: StoredRound | None, clock: "Clock"
) -> StoredRound:
    from coreset_backend import model
    from coreset_backend.neighbors import build_index

    settings = backend.settings
    chosen = model.choose_backbone(settings.backbone, settings.weights)
    with clock.phase("images") as step:
        pixels, failures = backend.images.fetch(
            [(task.task_id, task.uri) for task in snapshot.tasks],
            settings.image_size or chosen.backbone.size,
            step,
        )
    readable = np.searchsorted(snapshot.task_ids, pixels.task_ids)
    holdout = _holdout(snapshot, previous, settings.holdout, settings.seed)
    with clock.phase("fit") as step:
        classifier, training = _fit(backend, chosen, snapshot, pixels, readable, holdout, step)
    with clock.phase("embed") as step:
        embeddings, probabilities = model.embed_and_predict(classifier, pixels, step)
    with backend.store.draft(snapshot.project_id) as draft:
        with clock.phase("neighbors"):
            build_index(embeddings, draft.path / "neighbors.ann", seed=settings.seed)
        with clock.phase("select"):
            choice = _select(backend, snapshot, readable, embeddings, probabilities)
        with clock.phase("save"):
            model.save_classifier(classifier, draft.path / "model.safetensors")
            record = _record(backend, snapshot, draft, choice, failures, clock)
            record = replace(
                record, backbone=classifier.description, training=training, holdout=tuple(sorted(holdout))
            )
            return draft.save(
                record,
                {
                    "task_ids": snapshot.task_ids,
                    "states": choice.states,
                    "scores": choice.scores,
                    "embedded_task_ids": pixels.task_ids,
                    "embeddings": embeddings,
                    **({} if probabilities is None else {"probabilities": probabilities}),
                },
            )


def _holdout(snapshot: Snapshot, previous: StoredRound | None, share: float, seed: int) -> frozenset[int]:
    return holdout_task_ids(snapshot.tasks, previous.record.holdout if previous else (), share, seed)


def _fit(
    backend: "Backend",
    chosen: Any,
    snapshot: Snapshot,
    pixels: "Pixels",
    readable: Rows,
    holdout: frozenset[int],
    step: Callable[[int, int], None],
) -> tuple[Any, dict[str, Any] | None]:
    """A classifier and its report; without two classes to tell apart, one without a head and None."""
    from coreset_backend import model

    settings, labels = backend.settings, snapshot.labels
    tasks = [snapshot.tasks[row] for row in readable]
    rows = np.array([row for row, task in enumerate(tasks) if task.label], dtype=np.int64)
    trained = {name for row in rows if tasks[row].task_id not in holdout for name in tasks[row].label or ()}
    if labels is None or len(trained) < 2:
        return model.untrained(chosen, pixels, seed=settings.seed, device=settings.device), None
    labeled = [tasks[row] for row in rows]
    classifier, report = model.fit(
        chosen,
        PixelSubset(pixels, rows),
        class_targets(labeled, labels),
        multiple=labels.multiple,
        holdout=np.array([task.task_id in holdout for task in labeled]),
        seed=settings.seed,
        device=settings.device,
        progress=step,
    )
    return classifier, asdict(report)


@dataclass(frozen=True, slots=True)
class PixelSubset:
    """Some rows of ``pixels``, still read from it as they are asked for."""

    pixels: "Pixels"
    rows: Rows

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.pixels.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Rows, /) -> NDArray[np.uint8]:
        return self.pixels[self.rows[rows]]


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, in task ids, and where every task of the snapshot stands.

    ``states``: uint8[n], positions in STATES. ``scores``: float32[n] in [0, 1], by distance to the
    nearest center: 0 is the farthest of the pool, 1 a center or a task without an embedding.
    """

    strategy: str
    batch: tuple[int, ...]
    reserve: tuple[int, ...]
    distances: NDArray[np.float32]
    radius_before: float
    radius_after: float
    states: NDArray[np.uint8]
    scores: NDArray[np.float32]


def _select(
    backend: "Backend",
    snapshot: Snapshot,
    readable: Rows,
    embeddings: NDArray[np.float32],
    probabilities: NDArray[np.float32] | None,
) -> Choice:
    """The batch and, as its continuation, the reserve: a greedy order may be cut anywhere."""
    settings = backend.settings
    states = _states_before(snapshot.tasks, readable)
    eligible = np.flatnonzero(np.isin(states[readable], _codes("pool", "labeled")))
    vectors = embeddings[eligible]
    rows = readable[eligible]  # position among the vectors -> row of the snapshot
    centers = np.flatnonzero(states[rows] == _code("labeled")).astype(np.int64)
    pool = Pool(vectors, centers, None if probabilities is None else probabilities[eligible])
    strategy = strategy_named(settings.strategy)
    rng = np.random.default_rng(settings.seed)
    asked = settings.batch_size + settings.reserve_size
    selection = strategy(pool, asked, rng) if len(centers) < len(vectors) else _nothing(vectors, centers)
    batch, reserve = np.split(selection.rows, [settings.batch_size])
    states[rows[batch]], states[rows[reserve]] = _code("selected"), _code("reserve")
    chosen = np.concatenate([centers, batch])
    scores = np.ones(len(states), dtype=np.float32)
    scores[rows] = _scores(vectors, chosen)
    return Choice(
        strategy=settings.strategy,
        batch=tuple(snapshot.task_ids[rows[batch]].tolist()),
        reserve=tuple(snapshot.task_ids[rows[reserve]].tolist()),
        distances=selection.distances,
        radius_before=selection.radius_before,
        radius_after=covering_radius(vectors, chosen),
        states=states,
        scores=scores,
    )


def _nothing(vectors: NDArray[np.float32], centers: Rows) -> Selection:
    """The selection from a pool that is labelled to its last task."""
    radius = covering_radius(vectors, centers)
    return Selection(np.empty(0, np.int64), np.empty(0, np.float32), radius, radius)


def _states_before(tasks: Sequence[Task], readable: Rows) -> NDArray[np.uint8]:
    """uint8[n]: where each task stands before the choice; of equal images only the first is in the pool."""
    states = np.full(len(tasks), _code("unreadable"), dtype=np.uint8)
    seen = {tasks[row].uri for row in readable if tasks[row].state == "labeled"}
    for row in readable:
        task = tasks[row]
        states[row] = _code(task.state)
        if task.state == "pool":
            if task.uri in seen:
                states[row] = _code("duplicate")
            seen.add(task.uri)
    return states


def _code(state: str) -> int:
    return STATES.index(state)


def _codes(*states: str) -> list[int]:
    return [_code(state) for state in states]


def _scores(vectors: NDArray[np.float32], center_rows: Rows) -> NDArray[np.float32]:
    """float32[n]: 1 at a center, falling to 0 at the row farthest from all of them."""
    centers = vectors[center_rows].astype(np.float64)
    distances = np.empty(len(vectors))
    for start in range(0, len(vectors), 1024):
        block = vectors[start : start + 1024].astype(np.float64)
        squared = (block**2).sum(1)[:, None] + (centers**2).sum(1)[None] - 2 * block @ centers.T
        distances[start : start + 1024] = np.sqrt(np.maximum(squared, 0)).min(1)
    farthest = distances.max()
    return (1 - distances / farthest if farthest else np.ones(len(vectors))).astype(np.float32)


def _record(
    backend: "Backend",
    snapshot: Snapshot,
    draft: Draft,
    choice: Choice,
    failures: "Sequence[ImageFailure]",
    clock: "Clock",
) -> Round:
    counts = np.bincount(choice.states, minlength=len(STATES))
    stamp = snapshot.taken_at.strftime("%Y%m%dT%H%M%S")
    return Round(
        project_id=snapshot.project_id,
        number=draft.number,
        model_version=f"{BATCH_VERSION_PREFIX}{draft.number}-{stamp}",
        fingerprint=snapshot.fingerprint(),
        taken_at=snapshot.taken_at.isoformat(),
        strategy=choice.strategy,
        backbone="",
        seed=backend.settings.seed,
        labels=snapshot.labels,
        batch=choice.batch,
        reserve=choice.reserve,
        distances=tuple(
            distance if np.isfinite(distance) else -1.0 for distance in choice.distances.tolist()
        ),
        radius_before=_finite(choice.radius_before),
        radius_after=_finite(choice.radius_after),
        training=None,
        holdout=(),
        counts=dict(zip(STATES, counts.tolist(), strict=True)),
        failures=tuple(asdict(failure) for failure in failures),
        timings=clock.timings,
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def publish_round(backend: "Backend", stored: StoredRound) -> None:
    """Have Label Studio serve the round's batch first, then its reserve; safe to repeat."""
    record = stored.record
    ordered = [*record.batch, *record.reserve]
    publication: dict[str, Any] = {"version": record.model_version, "sent": 0, "gone": [], "serves": []}
    if ordered:
        answers = Answers(stored)
        predictions = [
            answers.prediction(
                task_id, rank / len(ordered), record.model_version, backend.settings.preannotate
            )
            for rank, task_id in enumerate(ordered)
        ]
        publication = asdict(
            backend.label_studio.publish(
                record.project_id,
                predictions,
                record.labels,
                override_chosen_version=backend.settings.override_version,
            )
        )
    stored.mark_published({**publication, "at": datetime.now(UTC).isoformat()})


class Answers:
    """What a round's model says of each task, from the store; light enough for the web process."""

    def __init__(self, stored: StoredRound) -> None:
        self.record = stored.record
        self._task_ids = stored.array("task_ids")
        self._scores = stored.array("scores")
        self._embedded = stored.array("embedded_task_ids")
        has_model = "probabilities.npy" in stored.record.hashes
        self._probabilities = stored.array("probabilities") if has_model else None

    def knows(self, task_id: int) -> bool:
        """Whether the task was in the round's snapshot."""
        return _position(self._task_ids, task_id) is not None

    def score(self, task_id: int) -> float:
        """In [0, 1], 0 first; a task that the round has not seen comes last."""
        row = _position(self._task_ids, task_id)
        return 1.0 if row is None else float(self._scores[row])

    def answer(self, task_id: int) -> tuple[tuple[str, ...], float] | None:
        """The classes the model names and how sure it is, in [0, 1]; None without a model or an image."""
        row = _position(self._embedded, task_id)
        labels = self.record.labels
        if row is None or labels is None or self._probabilities is None:
            return None
        probabilities = self._probabilities[row]
        if not labels.multiple:
            best = int(probabilities.argmax())
            return (labels.names[best],), float(probabilities[best])
        named = tuple(name for name, p in zip(labels.names, probabilities, strict=True) if p >= 0.5)
        sureness = np.maximum(probabilities, 1 - probabilities).min()
        return (named, float(sureness)) if named else None

    def prediction(self, task_id: int, score: float, version: str, preannotate: str) -> Prediction:
        """The task's prediction; it shows the answer only where ``preannotate`` lets it."""
        answer = self.answer(task_id)
        if answer is None or not self._is_shown(answer[1], preannotate):
            return Prediction(task_id, score, version)
        return Prediction(task_id, score, version, *answer)

    def _is_shown(self, confidence: float, preannotate: str) -> bool:
        # An answer already chosen on a task that the model knows least invites a wrong click.
        accuracy = (self.record.training or {}).get("holdout_accuracy") or 0.0
        return preannotate == "on" or (preannotate == "auto" and confidence >= 0.9 and accuracy >= 0.8)


def _position(ascending: NDArray[np.int64], task_id: int) -> int | None:
    row = int(np.searchsorted(ascending, task_id))
    return row if row < len(ascending) and ascending[row] == task_id else None


@dataclass(slots=True)
class Clock:
    """Seconds by phase, and progress within each."""

    progress: Progress
    timings: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Time the block; the value given reports (done, total) within it."""
        started = time.monotonic()
        self.progress(name, 0, 0)
        yield lambda done, total: self.progress(name, done, total)
        self.timings[name] = round(time.monotonic() - started, 3)

    def __str__(self) -> str:
        return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.timings.items())
