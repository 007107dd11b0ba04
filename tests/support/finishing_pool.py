"""A pool of images with a model's answers and people who know the truth, for tests of finishing."""

from dataclasses import dataclass

import numpy as np
from fake_label_studio import FakeLabelStudio
from saved_rounds import LABELS, record
from served_project import ServedProject

from coreset_backend.backend import Backend
from coreset_backend.finish.session import Kind, read_session
from coreset_backend.finish.work import advance
from coreset_backend.jobs.finishing import FinishStatus, finish_status
from coreset_backend.label_studio.model_labels import annotated_by_model
from coreset_backend.project import Labels
from coreset_backend.store.record import STATES
from coreset_backend.store.saved_round import StoredRound

N = 240
BATCH, RESERVE = 6, 4


@dataclass
class Pool(ServedProject):
    """A project of N images of which a round's model is surest of the first; ``truth`` is what people say."""

    truth: list[str]
    stored: StoredRound

    def answer(self, task_ids: tuple[int, ...] | list[int]) -> None:
        for task_id in task_ids:
            if not self.studio.tasks[task_id]["annotations"]:
                self.studio.annotate(task_id, self.truth[self.task_ids.index(task_id)])

    def audit(self, looks: int = 40) -> FinishStatus:
        """Answer what is asked for until nothing is."""
        for _ in range(looks):
            session = read_session(self.backend.store, self.project_id, Kind.MODEL)
            assert session
            if not session.asked:
                break
            self.answer(session.asked)
            advance(self.backend, self.project_id)
        return finish_status(self.backend, self.project_id, Kind.MODEL)

    def by_model(self) -> list[int]:
        """Tasks with an annotation of the model."""
        session = read_session(self.backend.store, self.project_id, Kind.MODEL)
        version = session.version if session else "finish-"
        return list(annotated_by_model(self.backend.label_studio, self.project_id, version))


def made_pool(backend: Backend, studio: FakeLabelStudio, labels: Labels = LABELS) -> Pool:
    project_id = studio.create_project()
    task_ids = [studio.add_task(project_id, {"image": f"/data/upload/{i}.png"}) for i in range(N)]
    odds = np.linspace(0.995, 0.55, N)
    rng = np.random.default_rng(0)
    says = rng.integers(0, 2, N)
    wrong = rng.random(N) < (1 - odds)
    truth = [labels.names[int(code) ^ int(error)] for code, error in zip(says, wrong, strict=True)]
    probabilities = np.stack([np.where(says == 0, odds, 1 - odds), np.where(says == 1, odds, 1 - odds)], 1)
    states = np.full(N, STATES.index("pool"), dtype=np.uint8)
    batch, reserve = task_ids[-BATCH:], task_ids[-BATCH - RESERVE : -BATCH]
    states[-BATCH:], states[-BATCH - RESERVE : -BATCH] = STATES.index("selected"), STATES.index("reserve")
    with backend.store.draft(project_id) as draft:
        stored = draft.save(
            record(
                draft.number,
                project_id=project_id,
                labels=labels,
                batch=tuple(batch),
                reserve=tuple(reserve),
                random_slice=tuple(batch[:2]),
                distances=tuple([1.0] * (BATCH + RESERVE)),
                counts={"pool": N},
            ),
            {
                "task_ids": np.array(task_ids),
                "states": states,
                "scores": np.linspace(0, 1, N, dtype=np.float32),
                "embedded_task_ids": np.array(task_ids),
                "probabilities": probabilities.astype(np.float32),
            },
        )
    return Pool(studio, backend, project_id, task_ids, truth, stored)
