from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
from saved_rounds import LABELS, record

from coreset_backend.backend import Backend
from coreset_backend.cli.status import status_lines
from coreset_backend.evaluation.comparison import slice_summary
from coreset_backend.evaluation.history import RandomSlice, advice, project_history
from coreset_backend.evaluation.round_scores import batch_scores
from coreset_backend.evaluation.scores import evaluate, proportion
from coreset_backend.jobs.status import project_status
from coreset_backend.project import Labels, Snapshot, Task
from coreset_backend.reports import TrainingReport
from coreset_backend.store.record import BatchScores, Evaluation
from coreset_backend.web.app import create_app


def scores(right: int, n: int = 40) -> Evaluation:
    """The scores of a model that names ``right`` of ``n`` images, half cats and half dogs, rightly."""
    codes = np.arange(n) % 2
    said = np.where(np.arange(n) < right, codes, 1 - codes)
    return evaluate(["cat", "dog"], np.eye(2)[codes], np.eye(2)[said], multiple=False)


def test_history_over_http_outlives_pruned_rounds(make_backend: Callable[..., Backend]) -> None:
    backend = make_backend()
    for labels in (0, 50, 100):
        with backend.store.draft(7) as draft:
            measured = {"evaluation": scores(20 + labels // 10)} if labels else {}
            training = TrainingReport(n_train=labels - 10) if labels else None
            counts = {"labeled": labels, "selected": 50}
            draft.save(record(draft.number, title="Pets", counts=counts, training=training, **measured), {})
    backend.store.prune(7, keep=1)
    found = create_app(backend).test_client().get("/api/projects/7/history").json or {}
    assert (found["project"], found["title"]) == (7, "Pets")
    assert [line["number"] for line in found["rounds"]] == [1, 2, 3]
    assert [line["labels"] for line in found["rounds"]] == [0, 50, 100]
    assert [line["trained"] for line in found["rounds"]] == [0, 40, 90]
    assert found["rounds"][0]["accuracy"] is None and found["rounds"][0]["per_class"] == []
    newest = found["rounds"][2]
    assert newest["accuracy"]["value"] == 0.75 and newest["accuracy"]["n"] == 40
    assert newest["accuracy"]["low"] < 0.75 < newest["accuracy"]["high"]
    assert newest["macro_f1"]["low"] <= newest["macro_f1"]["value"] <= newest["macro_f1"]["high"]
    assert [(line["name"], line["n"]) for line in newest["per_class"]] == [("cat", 20), ("dog", 20)]
    assert found["advice"]["verdict"] == "too early"
    assert newest["radius_before"] is None and newest["radius_after"] == 1.5


def test_advice_comes_from_the_measured_rounds_of_the_same_label_config() -> None:
    foxes = Labels("label", "image", ("cat", "fox"), multiple=False)
    other = record(1, labels=foxes, counts={"labeled": 25, "selected": 25}, evaluation=scores(39))
    rounds = [
        record(n + 1, counts={"labeled": 50 * n, "selected": 50}, evaluation=scores(right))
        for n, right in ((1, 24), (2, 30), (3, 33), (4, 35))
    ]
    found = advice([other, *rounds])
    assert found == advice(rounds)
    assert found.next_batch and found.further
    assert found.next_batch.labels == 50 and found.further.labels == 100
    assert advice(rounds[:2]).verdict == "too early"


def test_status_has_the_advice_and_says_that_the_working_time_is_not_known(
    make_backend: Callable[..., Backend],
) -> None:
    backend = make_backend()
    with backend.store.draft(7) as draft:
        draft.save(record(draft.number, radius_before=2.0), {})
    lines = status_lines(project_status(backend, 7))
    assert lines[-2] == (
        "  Too early to say: a forecast needs 3 measured rounds, and there are 0. "
        "A batch lately shrinks the covering radius by 25 %."
    )
    assert lines[-1].startswith(
        "  How long a label takes is not known yet: round 1 found fewer than 20 labels"
    )


def test_a_project_that_is_not_connected_has_no_history(make_backend: Callable[..., Backend]) -> None:
    assert create_app(make_backend()).test_client().get("/api/projects/7/history").status_code == 404


def test_a_random_slice_shows_in_its_line_and_after_the_round_is_pruned(
    make_backend: Callable[..., Backend],
) -> None:
    backend = make_backend()
    share = proportion(4, 5)
    for given in ({"random_slice": (3,)}, {"batch_figures": BatchScores(share, None)}, {}):
        with backend.store.draft(7) as draft:
            draft.save(record(draft.number, **given), {})
    backend.store.prune(7, keep=1)
    first, second, third = project_history(backend.store, 7).rounds
    assert first.random_slice == RandomSlice(1, None, None)
    assert second.random_slice == RandomSlice(0, share, None)
    assert third.random_slice is None


def test_a_batch_counts_once_however_often_it_was_rolled_back_to(
    make_backend: Callable[..., Backend],
) -> None:
    store = make_backend().store
    tasks = tuple(Task(n, f"/{n}", "labeled", (LABELS.names[n % 2],)) for n in range(1, 9))
    seen = Snapshot(7, "Pets", None, LABELS, tasks, datetime.now(UTC))
    arrays = {
        "embedded_task_ids": np.arange(1, 9),
        "probabilities": np.eye(2, dtype=np.float32)[np.arange(1, 9) % 2],
    }

    def save_next(**given: object) -> int:
        with store.draft(7) as draft:
            scores = batch_scores(seen, store.latest(7))
            return draft.save(record(draft.number, batch_figures=scores, **given), arrays).record.number

    first = save_next(batch=tuple(range(1, 6)), random_slice=(1, 2))
    second = save_next(batch=(6, 7, 8), random_slice=(8,))
    store.hold(7, "rolled back", first)
    third = save_next()
    store.hold(7, "rolled back", second)
    save_next()
    store.prune(7, keep=1)
    lines = project_history(store, 7).rounds
    measured = {line.number: line.random_slice.pool_accuracy for line in lines if line.random_slice}
    assert {number: share and share.n for number, share in measured.items()} == {1: None, 2: None, 3: 2, 4: 1}
    summary = slice_summary(lines)
    assert third == 3 and summary and summary.picked_accuracy
    assert (summary.pool_accuracy.n, summary.picked_accuracy.n) == (3, 5)
