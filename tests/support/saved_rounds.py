"""Rounds for tests that need one in the store and do not run it."""

from pathlib import Path
from typing import Any

import numpy as np

from coreset_backend.backend import Backend
from coreset_backend.evaluation.calibration import lower_bound
from coreset_backend.evaluation.scores import proportion
from coreset_backend.project import Labels
from coreset_backend.store.record import Evaluation, SureAnswers
from coreset_backend.store.saved_round import StoredRound
from coreset_backend.store.store import Round, Store

LABELS = Labels("label", "image", ("cat", "dog"), multiple=False)


def record(number: int = 1, **given: Any) -> Round:
    """A round's record with two classes and nothing learned; ``given`` goes on top."""
    known: dict[str, Any] = {
        "project_id": 7,
        "number": number,
        "model_version": f"coreset-{number}-now",
        "fingerprint": "f",
        "taken_at": "2026-01-01T00:00:00+00:00",
        "strategy": "k_center",
        "backbone": "small_cnn",
        "seed": 0,
        "labels": LABELS,
        "batch": (3, 1),
        "reserve": (2,),
        "distances": (3.0, 2.0, 1.0),
        "radius_before": None,
        "radius_after": 1.5,
        "training": None,
        "holdout": (),
        "counts": {"pool": 0},
        "failures": (),
        "timings": {"fit": 0.5},
    }
    return Round(**{**known, **given})


def save(store: Store, **given: Any) -> StoredRound:
    """The next round of project 7."""
    with store.draft(7) as draft:
        return draft.save(record(draft.number, **given), {"task_ids": np.array([1, 2, 3])})


def save_round(backend: Backend, right: int = 57, sure: int = 60) -> None:
    """A round of project 7: four tasks, three of them embedded, two classes.

    Of ``sure`` images of the hold-out it is sure, and has so many ``right``.
    """
    share = proportion(right, sure)
    answers = SureAnswers(sure, right, lower_bound(right, sure))
    with backend.store.draft(7) as draft:
        draft.save(
            record(draft.number, evaluation=Evaluation(share, share, sure=answers)),
            {
                "task_ids": np.array([1, 2, 3, 4]),
                "states": np.array([1, 2, 1, 3], dtype=np.uint8),
                "scores": np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32),
                "embedded_task_ids": np.array([1, 2, 3]),
                "probabilities": np.array([[0.05, 0.95], [0.6, 0.4], [0.92, 0.08]], dtype=np.float32),
            },
        )


def flip_a_byte(path: Path, place: float = 0.5) -> None:
    """Alter one bit, ``place`` of the way through the file."""
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)
