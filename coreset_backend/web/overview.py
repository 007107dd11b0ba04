"""What the pages say of a project, as plain JSON values, read from the store and Redis."""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreset_backend.backend import Backend
from coreset_backend.errors import CoresetError, CorruptRound, QueueError
from coreset_backend.evaluation.comparison import read_replay, slice_summary
from coreset_backend.evaluation.history import project_history
from coreset_backend.evaluation.round_scores import holdout_accuracy
from coreset_backend.evaluation.scores import named_classes
from coreset_backend.jobs.states import Phase
from coreset_backend.jobs.status import standing
from coreset_backend.project import Labels
from coreset_backend.project_settings import LABEL_CONFIG, known_settings, settings_table
from coreset_backend.store.findings import duplicates, label_names, suspects
from coreset_backend.store.record import STATES
from coreset_backend.store.saved_round import StoredRound
from coreset_backend.store.store import Round

log = logging.getLogger(__name__)

Json = Any
NONE_OF_THESE = "none of these"
# Every task of a snapshot is in exactly one of these.
STATE_WORDS = {
    "labeled": ("Labelled", "somebody has annotated it"),
    "selected": ("Selected", "in the batch that is served now"),
    "reserve": ("Reserve", "served after the batch, in the order of the same choice"),
    "pool": ("Pool", "waits to be chosen; served at random after the reserve"),
    "skipped": ("Skipped", "annotators passed it over"),
    "unreadable": ("Unreadable", "its image could not be read"),
    "duplicate": (
        "Duplicate",
        "shows the same file as another task, or with group_duplicates nearly the same image",
    ),
}
FARTHEST = "Each is the image farthest from everything labelled or picked before it"
STANDS_FOR = "Each was the image that let labelled and picked ones stand for most of the pool"
CHOICE_WORDS = {
    "k_center": FARTHEST,
    "k_center_cosine": FARTHEST,
    "robust_k_center": "Together they leave as little of the pool as possible far from a labelled image",
    "max_herding": STANDS_FOR,
    "uncertainty_herding": f"{STANDS_FOR}, above all for what the model is unsure of",
    "random": "They were sampled at random",
}
"""How a batch was chosen, by strategy, as the beginning of a sentence."""


def project_list(backend: Backend) -> list[Json]:
    """One entry for each known project, in the order of their ids; one that is broken says why."""
    return [
        _broken_line(project_id, found) if isinstance(found, CoresetError) else found
        for project_id, found in backend.of_each_project(partial(project_line, backend))
    ]


def _broken_line(project_id: int, error: CoresetError) -> Json:
    return {
        "project": project_id,
        "title": title(None, project_id),
        "number": None,
        "labeled": 0,
        "total": 0,
        "accuracy": None,
        "progress": unknown(error),
    }


def project_line(backend: Backend, project_id: int) -> Json:
    """What the list of projects says of one."""
    stored = backend.store.latest(project_id)
    counts = stored.record.counts if stored else {}
    accuracy = holdout_accuracy(stored.record) if stored else None
    return {
        "project": project_id,
        "title": title(stored, project_id),
        "number": stored.record.number if stored else None,
        "labeled": counts.get("labeled", 0),
        "total": sum(counts.values()),
        "accuracy": accuracy.value if accuracy else None,
        "progress": progress(backend, project_id, stored),
    }


def project_overview(backend: Backend, project_id: int) -> Json:
    """Everything on the page of one project."""
    rounds = list(backend.store.readable(project_id))
    newest, served = rounds[0] if rounds else None, served_number(rounds)
    history = project_history(backend.store, project_id)
    overview: Json = {
        "project": project_id,
        "title": title(newest, project_id),
        "label_studio": label_studio_address(backend, project_id),
        "progress": progress(backend, project_id, newest),
        "settings": settings_table(
            backend.settings,
            backend.known_params(project_id),
            known_settings(newest.record.attributes if newest else {}, LABEL_CONFIG),
        ),
        "round": None,
        "rounds": [
            round_line(stored) | {"served": stored.record.number == served}
            for stored in sorted(rounds, key=lambda stored: -stored.record.number)
        ],
        "history": history.rounds,
        "advice": history.advice,
        "slice": slice_summary(history.rounds),
        "replay": read_replay(backend.store, project_id),
    }
    for stored in rounds:  # the newest whose files are as they were saved
        try:
            overview["round"] = round_details(stored)
            break
        except CorruptRound as error:
            log.error("passed over: %s", error)
    return overview


def round_details(stored: StoredRound) -> Json:
    """What the page shows of the round that it is about; raises CorruptRound."""
    record = stored.record
    with stored.reading():
        return _details(stored, record)


def _details(stored: StoredRound, record: Round) -> Json:
    return round_line(stored) | {
        "counts": counts(record),
        "total": sum(record.counts.values()),
        "choice": CHOICE_WORDS.get(record.strategy, f"The strategy {record.strategy} chose them"),
        "batch": picks(stored),
        "failures": list(record.failures),
        "remarks": list(record.remarks),
        "control": record.labels.from_name if record.labels else None,
        "classes": class_table(stored),
        "map": stored.has("layout"),
        "duplicates": duplicates(stored),
        "suspects": suspects(stored),
    }


def served_number(rounds: Sequence[StoredRound]) -> int | None:
    """The round whose batch Label Studio serves: what was published last, which need not be the newest."""
    published = [
        (publication.at or "", stored.record.number)
        for stored in rounds
        if (publication := stored.publication)
    ]
    return max(published)[1] if published else None


def title(stored: StoredRound | None, project_id: int) -> str:
    return (stored.record.title if stored else "") or f"Project {project_id}"


def label_studio_address(backend: Backend, project_id: int) -> str | None:
    """The project's Data Manager as a person's browser reaches it."""
    settings = backend.settings
    url = settings.label_studio_browser_url or settings.label_studio_url
    return f"{url}/projects/{project_id}/data" if url else None


def counts(record: Round) -> list[Json]:
    """The tasks by state in a fixed order, states that never occurred included."""
    return [
        {"state": state, "name": STATE_WORDS[state][0], "meaning": STATE_WORDS[state][1], "count": count}
        for state in STATES
        for count in [record.counts.get(state, 0)]
    ]


def round_line(stored: StoredRound) -> Json:
    """One row of the table of rounds."""
    record = stored.record
    accuracy, publication = holdout_accuracy(record), stored.publication
    return {
        "number": record.number,
        "model_version": record.model_version,
        "taken_at": record.taken_at,
        "strategy": record.strategy,
        "backbone": record.backbone,
        "labeled": record.counts.get("labeled", 0),
        "selected": len(record.batch),
        "radius_before": record.radius_before,
        "radius_after": record.radius_after,
        "accuracy": accuracy.value if accuracy else None,
        "interval": [accuracy.low, accuracy.high] if accuracy else None,
        "n_holdout": accuracy.n if accuracy else None,
        "seconds": round(sum(stored.timings(publication).values()), 1),
        "published": publication is not None,
        "published_at": publication.at if publication else None,
    }


def picks(stored: StoredRound) -> list[Json]:
    """The batch in pick order, each with its distance and what it was nearest to."""
    record = stored.record
    label_of = label_names(stored)
    known = stored.has("pick_neighbors") and stored.has("pick_distances")
    near = stored.array("pick_neighbors") if known else np.empty((0, 2), np.int64)
    far = stored.array("pick_distances") if known else np.empty((0, 2), np.float32)
    return [
        {
            "rank": rank + 1,
            "task_id": task_id,
            "distance": None if distance < 0 else distance,
            "labeled": _neighbor(near[rank, 0], far[rank, 0], label_of) if rank < len(near) else None,
            "earlier": _neighbor(near[rank, 1], far[rank, 1], {}) if rank < len(near) else None,
        }
        for rank, (task_id, distance) in enumerate(zip(record.batch, record.distances, strict=False))
    ]


def _neighbor(task_id: np.int64, distance: np.float32, label_of: dict[int, str]) -> Json:
    if task_id < 0:
        return None
    return {"task_id": int(task_id), "distance": float(distance), "label": label_of.get(int(task_id))}


def class_table(stored: StoredRound) -> list[Json]:
    """One entry for each class: how many carry it, are said to be it, and were right on the hold-out.

    ``said`` counts the tasks without a label; ``right`` of ``held_out`` are None where nothing was measured.
    In multiple choice an image may count for several classes, and the last entry is that of none.
    """
    labels = stored.record.labels
    if labels is None or not stored.has("label_codes"):
        return []
    carried, known = _labels_given(stored, labels)
    columns = {"labeled": carried[known].sum(0).tolist()}
    if stored.has("probabilities"):
        columns |= _answers_by_class(stored, labels, carried, known)
    names = [*labels.names, NONE_OF_THESE] if labels.multiple else labels.names
    missing = [None] * len(names)
    return [
        {
            "name": name,
            **{key: columns.get(key, missing)[code] for key in ("labeled", "predicted", "held_out", "right")},
        }
        for code, name in enumerate(names)
    ]


def _labels_given(stored: StoredRound, labels: Labels) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """bool[n, columns] by task, whether its label names the class, and bool[n], whether it has a label."""
    if stored.has("label_sets"):
        sets = stored.array("label_sets")
        return _with_none(sets == 1), sets[:, 0] >= 0
    codes = stored.array("label_codes")  # of multiple choice, older rounds kept the first class alone
    carried = codes[:, None] == np.arange(len(labels.names))
    return _with_none(carried) if labels.multiple else carried, codes >= 0


def _with_none(named: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool[n, classes + 1]: the last column is true where no class is named."""
    return np.column_stack([named, ~named.any(1)])


def _answers_by_class(
    stored: StoredRound, labels: Labels, carried: NDArray[np.bool_], known: NDArray[np.bool_]
) -> dict[str, list[int]]:
    embedded = stored.array("embedded_task_ids")
    rows = np.searchsorted(stored.array("task_ids"), embedded)
    said = named_classes(stored.array("probabilities"), labels.multiple)
    said = _with_none(said) if labels.multiple else said
    columns = {"predicted": said[~known[rows]].sum(0).tolist()}
    if labels.multiple:
        return columns
    held = carried[rows] & (np.isin(embedded, stored.record.holdout) & known[rows])[:, None]
    return columns | {"held_out": held.sum(0).tolist(), "right": (held & said).sum(0).tolist()}


def map_bytes(stored: StoredRound) -> bytes:
    """The embedding map for a browser, little-endian: uint32 n and version 1; then n values of each of

    float64 task id, uint16 x and y (in pairs), int16 label, int16 what the model says (-1 for nothing, else
    the place in class_table; of several classes the first and the likeliest), uint8 state (by index in
    STATES). Raises CorruptRound.
    """
    with stored.reading():
        return _map_bytes(stored)


def _map_bytes(stored: StoredRound) -> bytes:
    task_ids, embedded = stored.array("task_ids"), stored.array("embedded_task_ids")
    rows = np.searchsorted(task_ids, embedded)
    labels, said = stored.record.labels, np.full(len(rows), -1)
    given = stored.array("label_codes")[rows]
    if labels and stored.has("probabilities"):
        probabilities = stored.array("probabilities")
        named = named_classes(probabilities, labels.multiple)
        said = np.where(named.any(1), probabilities.argmax(1), len(labels.names))
    if labels and stored.has("label_sets"):
        given = np.where((stored.array("label_sets")[rows] == 0).all(1), len(labels.names), given)
    parts = (
        np.array([len(rows), 1], dtype="<u4"),
        embedded.astype("<f8"),
        stored.array("layout").astype("<u2"),
        given.astype("<i2"),
        said.astype("<i2"),
        stored.array("states")[rows].astype("u1"),
    )
    return b"".join(part.tobytes() for part in parts)


# ---------------------------------------------------------------- progress


def progress(backend: Backend, project_id: int, newest: StoredRound | None) -> Json:
    """:func:`coreset_backend.jobs.status.standing` with ``steps``; ``unknown`` without Redis."""
    try:
        known = standing(backend, project_id, newest)
    except QueueError as error:
        return unknown(error)
    return known | {"steps": steps(known)}


def unknown(error: CoresetError) -> Json:
    """The progress of a project of which nothing can be read."""
    return {"state": "unknown", "sentence": str(error), "steps": [], "startable": True}


def steps(known: Json) -> list[Json]:
    """The phases in order, each done, current or still to come."""
    phases: list[str] = list(Phase)
    phase = known.get("phase") if known["state"] == "running" else None
    if phase and phase not in phases:
        phases.insert(0, phase)
    place = phases.index(phase) if phase else -1
    return [
        {
            "phase": name,
            "name": name.words if isinstance(name, Phase) else name.capitalize(),
            "status": "done" if number < place else "current" if number == place else "pending",
        }
        for number, name in enumerate(phases)
    ]
