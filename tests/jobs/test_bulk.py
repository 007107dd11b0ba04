"""Labels in bulk on the fake Label Studio: shown, written, undone, and what comes in between."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from backend_run import environment_of
from fake_label_studio import TOKEN, FakeLabelStudio, choices_config
from saved_rounds import LABELS, record
from served_project import ServedProject

from coreset_backend.backend import Backend
from coreset_backend.errors import BulkError, LabelStudioError
from coreset_backend.finish.bulk import (
    AT_ONCE,
    KEPT_WRITES,
    MOST_TASKS,
    BulkState,
    advance_bulk,
    keep_write,
    new_write,
    read_writes,
)
from coreset_backend.finish.session import FinishState, Session, keep_session
from coreset_backend.jobs.bulk import COUNTS, BulkStatus, bulk_status, plan_bulk, start_bulk, undo_bulk
from coreset_backend.jobs.tasks import reconcile_job, run_round_job
from coreset_backend.reports import Publication

N = 60


class Pool(ServedProject):
    """A project of N images with a published round."""

    def plan(self, task_ids: list[int], label: str = "cat", *, corrects: bool = False) -> str:
        return plan_bulk(self.backend, self.project_id, [label], task_ids, corrects=corrects).sentence

    def start(self, task_ids: list[int], label: str = "cat", *, corrects: bool = False) -> BulkStatus:
        return start_bulk(self.backend, self.project_id, [label], task_ids, corrects=corrects)

    def work(self) -> None:
        """What a worker does until nothing is left."""
        while advance_bulk(self.backend, self.project_id):
            pass

    def labels(self) -> dict[int, str]:
        """Task id -> its label, as a round reads it."""
        tasks = self.backend.label_studio.fetch_snapshot(self.project_id).tasks
        return {task.task_id: task.label[0] for task in tasks if task.label}

    @property
    def newest(self) -> str:
        return read_writes(self.backend.store, self.project_id)[0].version

    def undo(self) -> None:
        undo_bulk(self.backend, self.project_id, self.newest)
        self.work()


@pytest.fixture
def pool(
    make_backend: Callable[..., Backend], studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> Pool:
    backend = make_backend(label_studio_url=studio.url, label_studio_api_key=TOKEN)
    for name, value in environment_of(backend.settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CORESET_TRIGGER", "manual")  # a worker of these tests runs no round
    project_id = studio.create_project()
    task_ids = [studio.add_task(project_id, {"image": f"/data/upload/{i}.png"}) for i in range(N)]
    with backend.store.draft(project_id) as draft:
        given = {"project_id": project_id, "labels": LABELS, "batch": tuple(task_ids[-6:]), "distances": ()}
        arrays = {"task_ids": np.array(task_ids), "states": np.full(N, 3, dtype=np.uint8)}
        draft.save(record(draft.number, **given), arrays).mark_published(Publication())
    return Pool(studio, backend, project_id, task_ids)


def test_a_plan_tells_what_would_be_written_and_changes_nothing(pool: Pool) -> None:
    pool.studio.annotate(pool.task_ids[0], "dog")
    pool.studio.annotate(pool.task_ids[1], None, cancelled=True)
    before = len(pool.studio.asked)
    told = pool.plan([*pool.task_ids[:10], 10**9])
    assert told == (
        "8 annotations “cat” will be written as lead@example.com. 2 images already answered by "
        f"people are left out. 1 image is no longer in Label Studio. {COUNTS}"
    )
    assert {method for method, _ in pool.studio.asked[before:]} == {"GET"}
    assert read_writes(pool.backend.store, pool.project_id) == ()
    assert "Nothing would change" in pool.plan(pool.task_ids[:2])


def test_written_labels_count_as_a_persons_and_one_press_undoes_them(pool: Pool) -> None:
    pool.studio.annotate(pool.task_ids[0], "dog")
    pool.start(pool.task_ids[:40])
    assert run_round_job(pool.project_id).startswith("39 labels in bulk are written")
    assert pool.labels() == dict.fromkeys(pool.task_ids[1:40], "cat") | {pool.task_ids[0]: "dog"}
    told = bulk_status(pool.backend, pool.project_id)
    assert told.sentence == f"“cat” is written on 39 images. 1 left out: people have answered them. {COUNTS}"
    assert (told.writes[0].state, told.writes[0].done, told.writes[0].images) == ("written", 40, 40)

    undo_bulk(pool.backend, pool.project_id, pool.newest)
    assert run_round_job(pool.project_id) == "39 labels in bulk are undone"
    assert pool.labels() == {pool.task_ids[0]: "dog"}
    pool.undo()  # again changes nothing
    assert bulk_status(pool.backend, pool.project_id).writes[0].state == "undone"


def test_an_answer_by_people_is_corrected_only_when_asked_and_stays_beside_it(pool: Pool) -> None:
    mine, truth, free = pool.task_ids[:3]
    pool.studio.annotate(mine, "dog")
    pool.studio.annotate(mine, "dog")
    pool.studio.annotate(truth, "dog")
    pool.studio.tasks[truth]["annotations"][0]["ground_truth"] = True
    told = pool.plan([mine, truth, free], corrects=True)
    assert told.startswith("2 annotations “cat” will be written")
    assert "1 image already answered by people gets a ground truth, which counts instead" in told
    assert "1 image with a ground truth is left out." in told
    pool.start([mine, truth, free], corrects=True)
    pool.work()
    assert pool.labels() == {mine: "cat", truth: "dog", free: "cat"}
    assert len(pool.studio.tasks[mine]["annotations"]) == 3
    pool.undo()
    assert pool.labels() == {mine: "dog", truth: "dog"}


def test_what_a_person_has_changed_since_survives_the_undo(pool: Pool) -> None:
    pool.start(pool.task_ids[:3])
    pool.work()
    edited, starred, _ = (pool.studio.tasks[each]["annotations"][0] for each in pool.task_ids[:3])
    edited["result"] = [{**edited["result"][0], "value": {"choices": ["dog"]}}]
    del edited["result"][0]["labelled_in_bulk"]  # the editor saves no keys that it does not know
    starred["ground_truth"] = True
    pool.undo()
    assert pool.labels() == {pool.task_ids[0]: "dog", pool.task_ids[1]: "cat"}


def test_a_worker_killed_in_the_middle_writes_no_label_twice(pool: Pool) -> None:
    pool.start(pool.task_ids)
    advance_bulk(pool.backend, pool.project_id)
    half_done = read_writes(pool.backend.store, pool.project_id)[0]
    assert half_done.done == AT_ONCE
    advance_bulk(pool.backend, pool.project_id)
    keep_write(pool.backend.store, pool.project_id, half_done)  # as it was before the second step
    reconcile_job()
    assert pool.backend.jobs_waiting
    run_round_job(pool.project_id)
    assert [len(pool.studio.tasks[each]["annotations"]) for each in pool.task_ids] == [1] * N
    assert bulk_status(pool.backend, pool.project_id).writes[0].written == N

    keep_write(pool.backend.store, pool.project_id, half_done)
    pool.undo()  # of all that was written, also beyond what the file knew
    assert len(pool.labels()) == N - 2 * AT_ONCE


def test_who_answers_while_labels_are_written_is_not_outvoted(pool: Pool) -> None:
    labelled, skipped, corrected, *_ = some = pool.task_ids[:5]

    def faster() -> None:
        pool.studio.annotate(labelled, "dog", by=7)
        pool.studio.annotate(skipped, None, cancelled=True, by=7)

    pool.start(some)
    pool.studio.fail("meanwhile", "/annotations/", method="POST", times=1, act=faster)
    killed = pool.studio.fail(400, "/api/tasks/$", method="GET", skip=2)  # once all are written
    with pytest.raises(LabelStudioError):
        pool.work()
    pool.studio.faults.remove(killed)
    assert len(pool.studio.tasks[labelled]["annotations"]) == 2
    pool.studio.correct(corrected, "dog")
    pool.work()
    found = bulk_status(pool.backend, pool.project_id).writes[0]
    assert (found.written, found.left_out, found.gone) == (2, 3, 0)
    assert pool.labels() == {labelled: "dog", corrected: "dog", some[3]: "cat", some[4]: "cat"}
    assert [len(pool.studio.tasks[each]["annotations"]) for each in some] == [1] * 5
    pool.undo()
    assert pool.labels() == {labelled: "dog", corrected: "dog"}


def test_who_answers_while_a_correction_is_written_is_corrected_unless_it_is_a_truth(pool: Pool) -> None:
    answered, truth, free = pool.task_ids[:3]

    def faster() -> None:
        for task_id in (answered, truth):
            pool.studio.annotate(task_id, "dog", by=7)
        pool.studio.tasks[truth]["annotations"][-1]["ground_truth"] = True

    pool.start([free, answered, truth], corrects=True)
    pool.studio.fail("meanwhile", "/annotations/", method="POST", times=1, act=faster)
    pool.work()
    assert pool.labels() == {answered: "cat", truth: "dog", free: "cat"}
    found = bulk_status(pool.backend, pool.project_id).writes[0]
    assert (found.written, found.left_out) == (2, 1)
    pool.undo()
    assert pool.labels() == {answered: "dog", truth: "dog"}


def test_a_correction_that_a_person_saves_while_a_write_is_undone_stays(pool: Pool) -> None:
    some = pool.task_ids[:3]
    pool.start(some)
    pool.work()

    def corrected() -> None:
        pool.studio.correct(some[2], "dog")

    pool.studio.fail("meanwhile", "/api/annotations/", method="DELETE", times=1, act=corrected)
    pool.undo()
    assert pool.labels() == {some[2]: "dog"}


def test_label_studio_away_in_the_middle_loses_nothing(pool: Pool) -> None:
    pool.start(pool.task_ids[:30])
    fault = pool.studio.fail(500, "/annotations/", skip=5)
    with pytest.raises(LabelStudioError):
        pool.work()
    pool.studio.faults.remove(fault)
    pool.work()
    assert [len(pool.studio.tasks[each]["annotations"]) for each in pool.task_ids[:31]] == [1] * 30 + [0]


def test_tasks_deleted_meanwhile_are_counted(pool: Pool) -> None:
    pool.start(pool.task_ids[:4])
    pool.studio.delete_task(pool.task_ids[0])
    pool.work()
    found = bulk_status(pool.backend, pool.project_id).writes[0]
    assert (found.written, found.gone) == (3, 1)
    assert found.sentence.startswith("“cat” is written on 3 images. 1 no longer in Label Studio.")


def test_a_changed_label_config_stops_the_write_and_says_why(pool: Pool) -> None:
    pool.start(pool.task_ids)
    advance_bulk(pool.backend, pool.project_id)
    pool.studio.projects[pool.project_id]["label_config"] = choices_config(("wolf", "dog"))
    pool.work()
    found = bulk_status(pool.backend, pool.project_id).writes[0]
    assert found.sentence == "The label config has no class 'cat'; it has wolf, dog."
    assert found.written == AT_ONCE
    pool.undo()
    assert bulk_status(pool.backend, pool.project_id).writes[0].state == BulkState.UNDONE
    assert not any(task["annotations"] for task in pool.studio.tasks_of(pool.project_id))


def test_labels_in_bulk_do_not_bias_an_audit(pool: Pool) -> None:
    session = Session(1, "finish-1-now", 0.05, 0.95, 300, False, "2026-01-01T00:00:00+00:00")
    keep_session(pool.backend.store, pool.project_id, session)
    with pytest.raises(BulkError, match="would bias these checks"):
        pool.plan(pool.task_ids[:3])
    with pytest.raises(BulkError, match="would bias these checks"):
        pool.start(pool.task_ids[:3])
    keep_session(pool.backend.store, pool.project_id, replace(session, state=FinishState.WRITTEN))
    assert pool.plan(pool.task_ids[:3]).startswith("3 annotations")

    def audit_begins() -> None:
        keep_session(pool.backend.store, pool.project_id, session)

    pool.studio.fail("meanwhile", "/api/projects/", times=1, act=audit_begins)
    with pytest.raises(BulkError, match="would bias these checks"):
        pool.start(pool.task_ids[:3])
    assert read_writes(pool.backend.store, pool.project_id) == ()


@pytest.mark.parametrize(
    ("label", "count", "words"),
    [
        (["wolf"], 3, "no class 'wolf'; it has cat, dog"),
        (["cat", "dog"], 3, "names exactly one class, not 2"),
        ([], 3, "names exactly one class, not 0"),
        (["cat"], 0, "No image is selected"),
        (["cat"], MOST_TASKS + 1, "at once it is up to 5,000"),
    ],
)
def test_what_cannot_be_written_is_refused_in_words(
    pool: Pool, label: list[str], count: int, words: str
) -> None:
    with pytest.raises(BulkError, match=words):
        start_bulk(pool.backend, pool.project_id, label, range(1, count + 1), corrects=False)
    assert read_writes(pool.backend.store, pool.project_id) == ()


def test_the_latest_writes_are_kept_and_an_unknown_one_cannot_be_undone(pool: Pool) -> None:
    for task_id in pool.task_ids[: KEPT_WRITES + 1]:
        keep_write(pool.backend.store, pool.project_id, new_write(["cat"], [task_id], corrects=False))
    kept = read_writes(pool.backend.store, pool.project_id)
    assert [each.task_ids[0] for each in kept] == pool.task_ids[KEPT_WRITES:0:-1]
    with pytest.raises(BulkError, match="no write 'bulk-1' to undo"):
        undo_bulk(pool.backend, pool.project_id, "bulk-1")


def test_a_damaged_file_is_told_and_the_rounds_go_on(pool: Pool) -> None:
    pool.start(pool.task_ids[:1])
    path = pool.backend.store.root / f"projects/{pool.project_id}/bulk.json"
    path.write_text("{}")
    assert "Delete bulk.json" in bulk_status(pool.backend, pool.project_id).sentence
    assert run_round_job(pool.project_id) == "no round is due"
