"""A finish from proposal to undo on the fake Label Studio, also with what comes in between."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from backend_run import environment_of
from click.testing import CliRunner
from fake_label_studio import TOKEN, FakeLabelStudio
from finishing_pool import BATCH, N, Pool, made_pool
from saved_rounds import LABELS, record
from waiting import wait_until

from coreset_backend.arrays import unwatched
from coreset_backend.backend import Backend
from coreset_backend.cli.main import main
from coreset_backend.errors import BulkError, FinishError, LabelStudioError, ProjectGone
from coreset_backend.finish.bulk import advance_bulk, keep_write, new_write
from coreset_backend.finish.proposal import could_finish, groups, propose
from coreset_backend.finish.session import (
    FinishState,
    Kind,
    Rest,
    Session,
    keep_session,
    read_proposal,
    read_session,
)
from coreset_backend.finish.words import sentence
from coreset_backend.finish.work import Wish, advance, has_work, remove_labels
from coreset_backend.jobs.bulk import bulk_status, has_bulk_work, start_bulk, undo_bulk
from coreset_backend.jobs.finishing import (
    accept_finish,
    finish_status,
    look_at_finish,
    plan_acceptance,
    plan_finish,
    start_finish,
    undo_finish,
)
from coreset_backend.jobs.keys import FINISH_LEASE
from coreset_backend.jobs.lease import project_lease
from coreset_backend.jobs.requests import disconnect_project, labels_to_remove
from coreset_backend.jobs.tasks import reconcile_job, run_round_job
from coreset_backend.label_studio.bulk_labels import write_label
from coreset_backend.label_studio.model_labels import TAB, annotate_as_predicted, annotated_by_model
from coreset_backend.project import Labels, Prediction
from coreset_backend.reports import Publication
from coreset_backend.rounds.due import round_due
from coreset_backend.rounds.publishing import publish_round
from coreset_backend.store.record import STATES


@pytest.fixture
def pool(make_backend: Callable[..., Backend], studio: FakeLabelStudio) -> Iterator[Pool]:
    yield made_pool(make_backend(label_studio_url=studio.url, label_studio_api_key=TOKEN), studio)


def test_the_most_that_could_be_finished_is_what_the_model_expects_to_be_right() -> None:
    odds = np.array([[0.99, 0.01], [0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [1.0, 0.0]], dtype=np.float32)
    states = np.array(
        [STATES.index(each) for each in ("pool", "selected", "reserve", "duplicate", "labeled")]
    )
    for wrong, most in ((0.005, 0), (0.05, 1), (0.06, 2), (0.11, 3), (0.3, 4)):
        assert could_finish(states.astype(np.uint8), odds, multiple=False, wrong=wrong) == most
    assert could_finish(np.empty(0, np.uint8), np.empty((0, 2), np.float32), multiple=True) == 0


def test_a_plan_shows_the_audit_and_changes_nothing(pool: Pool) -> None:
    before = list(pool.studio.asked)
    planned = plan_finish(pool.backend, pool.project_id, Wish(accuracy=0.9))
    assert planned.state is None
    assert "would propose labels for 240 images" in planned.sentence
    assert "Too little is known" in planned.sentence
    assert planned.groups[0].needed
    assert planned.labels.left == N
    assert read_session(pool.backend.store, pool.project_id, Kind.MODEL) is None
    changed = [method for method, _ in pool.studio.asked[len(before) :] if method != "GET"]
    assert changed == []


def test_the_audit_comes_before_the_batch_without_the_answer_and_the_batch_is_not_lost(pool: Pool) -> None:
    start_finish(pool.backend, pool.project_id, Wish(accuracy=0.9))
    session = read_session(pool.backend.store, pool.project_id, Kind.MODEL)
    assert session
    publish_round(pool.backend, pool.stored, unwatched)
    queue = pool.studio.queue(pool.project_id)
    assert tuple(queue[: len(session.asked)]) == session.asked
    batch = [task_id for task_id in pool.stored.record.batch if task_id not in session.asked]
    assert queue[len(session.asked) :][: len(batch)] == batch
    assert not any(each["result"] for id_ in session.asked for each in pool.studio.predictions_of(id_))
    pool.answer(session.asked[:30])
    done, changes_queue = advance(pool.backend, pool.project_id)
    assert changes_queue and "are to be checked" in done
    publish_round(pool.backend, pool.stored, unwatched)
    again = read_session(pool.backend.store, pool.project_id, Kind.MODEL)
    assert again and tuple(pool.studio.queue(pool.project_id)[: len(again.asked)]) == again.asked
    assert not any(each["result"] for id_ in again.asked for each in pool.studio.predictions_of(id_))


def test_what_is_accepted_is_written_marked_and_undone_to_the_last_piece(pool: Pool) -> None:
    start_finish(pool.backend, pool.project_id, Wish(accuracy=0.9))
    with pytest.raises(FinishError, match=r"Too little is known.*more checks are needed"):
        accept_finish(pool.backend, pool.project_id, annotations=True, rest=Rest.HARDEST_LAST)
    found = pool.audit()
    assert found.groups[0].set_size > N / 2
    planned = plan_acceptance(pool.backend, pool.project_id)
    assert planned.to_write and "can be finished" in planned.sentence
    (group,) = planned.groups
    assert group.by_model == planned.to_write
    assert 0 < group.most_wrong <= group.by_model  # no more can be wrong than nobody has checked
    share = f"{group.most_wrong / group.by_model:.1%} of the {group.by_model:,} labels by the model"
    assert share in planned.sentence
    people = {task["id"] for task in pool.studio.tasks_of(pool.project_id) if task["annotations"]}
    accept_finish(pool.backend, pool.project_id, annotations=True, rest=Rest.HARDEST_LAST)
    # A person is faster than the worker.
    session = read_session(pool.backend.store, pool.project_id, Kind.MODEL)
    assert session
    pool.answer(session.accepted[:1])
    told, changes_queue = advance(pool.backend, pool.project_id)
    assert changes_queue and told == f"the model's labels are written on {planned.to_write - 1} tasks"
    written = finish_status(pool.backend, pool.project_id, Kind.MODEL)
    assert (written.state, written.labels.by_model) == (FinishState.WRITTEN, planned.to_write - 1)
    assert written.labels.tasks == N
    assert set(pool.by_model()) == set(session.accepted[1:])
    assert not set(pool.by_model()) & people
    assert any(view["data"]["title"] == TAB for view in pool.studio.views.values())
    assert_counts_as_the_models(pool)
    publish_round(pool.backend, pool.stored, unwatched)
    rest = [each for each in pool.studio.queue(pool.project_id) if each not in pool.stored.record.batch]
    places = [pool.task_ids.index(task_id) for task_id in rest if task_id not in pool.stored.record.reserve]
    assert places == sorted(places)  # the surest first, the hardest last
    assert_undone(pool, session.version, people | {session.accepted[0]})


def assert_counts_as_the_models(pool: Pool) -> None:
    """Rounds neither learn from the model's annotations nor count them nor start because of them."""
    snapshot = pool.backend.label_studio.fetch_snapshot(pool.project_id)
    states = {task.task_id: task.state for task in snapshot.tasks}
    assert {states[task_id] for task_id in pool.by_model()} == {"model"}
    assert all(task.label is None for task in snapshot.tasks if task.state == "model")
    pool.stored.mark_published(Publication(pool.stored.record.model_version, sent=1))
    pool.studio.projects[pool.project_id]["model_version"] = pool.stored.record.model_version
    people = sum(state == "labeled" for state in states.values())
    due = round_due(pool.backend, pool.project_id)
    assert due.reason in (None, f"{people} new labels") or "are done" in (due.reason or "")


def assert_undone(pool: Pool, version: str, people: set[int]) -> None:
    changed = pool.by_model()[0]
    by_person = next(each for each in pool.studio.tasks[changed]["annotations"])
    by_person |= {"result": [{**by_person["result"][0], "value": {"choices": ["dog"]}}], "updated_by": 2}
    undo_finish(pool.backend, pool.project_id, Kind.MODEL)
    assert finish_status(pool.backend, pool.project_id, Kind.MODEL).state is FinishState.UNDOING
    advance(pool.backend, pool.project_id)
    assert finish_status(pool.backend, pool.project_id, Kind.MODEL).state is None
    annotated = {task["id"] for task in pool.studio.tasks_of(pool.project_id) if task["annotations"]}
    assert annotated == people | {changed}
    assert version not in pool.studio.versions(pool.project_id)
    assert not any(view["data"]["title"] == TAB for view in pool.studio.views.values())
    with pytest.raises(FinishError, match="no finish to undo"):
        undo_finish(pool.backend, pool.project_id, Kind.MODEL)


@pytest.mark.parametrize("requests", [1, 2, 3, 5, 8])
def test_a_worker_that_is_killed_while_writing_is_completed_by_the_next(pool: Pool, requests: int) -> None:
    start_finish(pool.backend, pool.project_id, Wish(accuracy=0.9))
    pool.audit()
    accept_finish(pool.backend, pool.project_id, annotations=True, rest=Rest.HARDEST_FIRST)
    session = read_session(pool.backend.store, pool.project_id, Kind.MODEL)
    assert session
    fault = pool.studio.fail(500, "", skip=2 * requests)  # a GET is tried three times, then all fail
    with contextlib.suppress(LabelStudioError):
        advance(pool.backend, pool.project_id)
    assert fault in pool.studio.faults
    pool.studio.heal()
    advance(pool.backend, pool.project_id)
    assert set(pool.by_model()) == set(session.accepted)
    assert pool.studio.versions(pool.project_id)[session.version] == len(session.accepted)
    assert all(len(pool.studio.tasks[each]["annotations"]) == 1 for each in session.accepted)
    remove_labels(pool.backend.label_studio, pool.project_id, session.version)
    assert not pool.by_model()


def test_labels_that_label_studio_does_not_accept_are_neither_annotated_nor_counted(pool: Pool) -> None:
    """As its import does by itself with a class that its editor takes from the text of a <Choice>."""
    start_finish(pool.backend, pool.project_id, Wish(accuracy=0.9))
    pool.audit(looks=4)
    accept_finish(pool.backend, pool.project_id, annotations=True, rest=Rest.HARDEST_FIRST)
    project = pool.studio.projects[pool.project_id]
    project["label_config"] = project["label_config"].replace('"cat"/>', '"c">cat</Choice>')
    session = read_session(pool.backend.store, pool.project_id, Kind.MODEL)
    assert session
    told, _ = advance(pool.backend, pool.project_id)
    taken = pool.by_model()
    refused = len(session.accepted) - len(taken)
    assert len(taken) > 0 and refused > 0
    assert told == (
        f"the model's labels are written on {len(taken)} tasks, and not on {refused}, where Label Studio did "
        "not accept them"
    )
    now = read_session(pool.backend.store, pool.project_id, Kind.MODEL)
    assert now and set(now.accepted) == set(taken) and now.written == len(taken)
    assert f"{refused} images have no label, because Label Studio did not accept" in sentence(
        now, planned=False
    )
    assert all(pool.studio.tasks[each]["annotations"] == [] for each in {*session.accepted} - {*taken})
    advance(pool.backend, pool.project_id)
    again = read_session(pool.backend.store, pool.project_id, Kind.MODEL)
    assert again and again.refused == refused  # still told


def test_another_label_config_stops_the_finish_before_anything_is_written(pool: Pool) -> None:
    start_finish(pool.backend, pool.project_id, Wish(accuracy=0.9))
    pool.audit()
    accept_finish(pool.backend, pool.project_id, annotations=True, rest=Rest.HARDEST_FIRST)
    before = pool.studio.projects[pool.project_id]["label_config"]
    pool.studio.projects[pool.project_id]["label_config"] = before.replace('"dog"', '"wolf"')
    advance(pool.backend, pool.project_id)
    stopped = finish_status(pool.backend, pool.project_id, Kind.MODEL)
    assert "are not those that were answered" in stopped.sentence
    assert not pool.by_model() and not has_work(pool.backend, pool.project_id)
    pool.studio.projects[pool.project_id]["label_config"] = before
    advance(pool.backend, pool.project_id)
    assert finish_status(pool.backend, pool.project_id, Kind.MODEL).state is FinishState.WRITTEN


def test_skipped_and_deleted_tasks_count_as_errors_and_stop_no_audit(pool: Pool) -> None:
    start_finish(pool.backend, pool.project_id, Wish(accuracy=0.8))
    session = read_session(pool.backend.store, pool.project_id, Kind.MODEL)
    assert session
    skipped, deleted, *others = session.asked
    pool.studio.annotate(skipped, None, cancelled=True)
    pool.studio.delete_task(deleted)
    pool.answer(others)
    found = look_at_finish(pool.backend, pool.project_id, Kind.MODEL)
    truth_wrong = found.groups[0].wrong
    assert truth_wrong >= 2
    assert found.groups[0].checked == len(session.asked)
    assert pool.audit().groups[0].set_size > 0


def test_picks_of_the_strategy_are_no_audit_and_the_random_slice_comes_first(pool: Pool) -> None:
    proposal = propose(pool.stored)
    order = [proposal.task_ids[row] for row in proposal.order]
    assert set(order[:2]) == set(pool.stored.record.random_slice)
    start_finish(pool.backend, pool.project_id, Wish(accuracy=0.9))
    pool.answer(pool.stored.record.batch)
    found = look_at_finish(pool.backend, pool.project_id, Kind.MODEL)
    assert found.groups[0].checked == 0
    assert found.labels.by_people == BATCH


def test_classes_are_bounded_each_by_itself(pool: Pool) -> None:
    planned = start_finish(pool.backend, pool.project_id, Wish(accuracy=0.8, per_class=True))
    assert [group.name for group in planned.groups] == ["cat", "dog"]
    assert sum(group.images for group in planned.groups) == N
    found = pool.audit()
    assert all(group.checked for group in found.groups)
    assert all(group.set_size for group in found.groups)
    assert "cat: By" in found.sentence and "dog: By" in found.sentence


def test_in_multiple_choice_the_whole_set_must_be_right(
    make_backend: Callable[..., Backend], studio: FakeLabelStudio
) -> None:
    backend = make_backend(label_studio_url=studio.url, label_studio_api_key=TOKEN)
    pool = made_pool(backend, studio, Labels("label", "image", ("cat", "dog"), multiple=True))
    config = studio.projects[pool.project_id]["label_config"]
    studio.projects[pool.project_id]["label_config"] = config.replace(
        "<Choices ", '<Choices choice="multiple" '
    )
    proposal = propose(pool.stored)
    assert set(proposal.label_sets) == {("cat",), ("dog",)}
    assert [group.name for group in groups(proposal, per_class=True)] == ["cat", "dog"]
    start_finish(backend, pool.project_id, Wish(accuracy=0.8))
    session = read_session(backend.store, pool.project_id, Kind.MODEL)
    assert session
    region = {
        "from_name": "label",
        "to_name": "image",
        "type": "choices",
        "value": {"choices": ["cat", "dog"]},
    }
    studio.add_annotation(session.asked[0], {"result": [region]})
    assert look_at_finish(backend, pool.project_id, Kind.MODEL).groups[0].wrong == 1


def test_a_second_finish_is_refused_and_a_damaged_one_keeps_no_round_from_running(pool: Pool) -> None:
    start_finish(pool.backend, pool.project_id, Wish(accuracy=0.9))
    with pytest.raises(FinishError, match="is auditing already"):
        start_finish(pool.backend, pool.project_id, Wish(accuracy=0.9))
    path = pool.stored.path.parent / "finish.json"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(FinishError, match=r"Delete finish\.json"):
        finish_status(pool.backend, pool.project_id, Kind.MODEL)
    publish_round(pool.backend, pool.stored, unwatched)
    assert tuple(pool.studio.queue(pool.project_id)[:BATCH]) == pool.stored.record.batch


@pytest.mark.parametrize("wish", [{"accuracy": 1.0}, {"accuracy": 0.1}, {"confidence": 1.0}, {"audits": 0}])
def test_what_cannot_be_promised_is_refused_in_words(wish: dict[str, float]) -> None:
    with pytest.raises(FinishError, match="must be from"):
        Wish(**wish)  # type: ignore[arg-type]


def test_a_round_without_a_model_proposes_nothing(pool: Pool) -> None:
    with pool.backend.store.draft(pool.project_id) as draft:
        bare = draft.save(record(draft.number, project_id=pool.project_id), {"task_ids": np.array([1])})
    with pytest.raises(FinishError, match="has no model yet"):
        propose(bare)


def test_the_command_shows_begins_looks_accepts_and_undoes(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment_of(pool.backend.settings).items():
        monkeypatch.setenv(name, value)

    def typed(*words: str) -> str:
        result = CliRunner().invoke(main, ["finish", "--project", str(pool.project_id), *words])
        return result.output

    assert "nothing is written" in typed("--accuracy", "0.9", "--dry-run")
    assert "Project" in (begun := typed("--accuracy", "0.9")) and "first in the queue" in begun
    assert "Too little is known" in typed("--accept")
    pool.audit()
    assert "--accept writes the model's label on" in typed()
    assert "belongs to --accept" in typed("--annotations")
    assert "being written" in typed("--accept", "--rest", "hardest-last")
    assert run_round_job(pool.project_id).endswith("published again")
    assert "by the model" in typed()
    assert '"state": "written"' in typed("--json")
    shown = CliRunner().invoke(main, ["status", "--project", str(pool.project_id)]).output
    assert "Labels by the model, written:" in shown and "Labels: 240 tasks =" in shown
    assert "is being removed" in typed("--undo")
    assert reconcile_job()
    run_round_job(pool.project_id)
    assert "No labels by the model" in typed("--dry-run", "--undo")
    assert read_session(pool.backend.store, pool.project_id, Kind.MODEL) is None
    with pytest.raises(FinishError):
        read_proposal(pool.backend.store, pool.project_id, Kind.MODEL)


def written_pool(pool: Pool) -> Session:
    """The finish of the pool once the model's annotations are written."""
    start_finish(pool.backend, pool.project_id, Wish(accuracy=0.9))
    pool.audit()
    accept_finish(pool.backend, pool.project_id, annotations=True, rest=Rest.HARDEST_FIRST)
    advance(pool.backend, pool.project_id)
    session = read_session(pool.backend.store, pool.project_id, Kind.MODEL)
    assert session and pool.by_model()
    return session


def test_a_correction_that_a_person_saves_while_a_finish_is_undone_stays(pool: Pool) -> None:
    session = written_pool(pool)
    *others, last = session.accepted
    assert others

    def corrected() -> None:
        pool.studio.correct(last, "dog")

    undo_finish(pool.backend, pool.project_id, Kind.MODEL)
    pool.studio.fail("meanwhile", "/api/annotations/", method="DELETE", times=1, act=corrected)
    told, _ = advance(pool.backend, pool.project_id)
    assert told == f"the finish is undone, {len(others)} annotations of the model are deleted"
    assert [pool.studio.tasks[each]["annotations"] for each in others] == [[]] * len(others)
    (kept,) = pool.studio.tasks[last]["annotations"]
    assert kept["result"][0]["value"] == {"choices": ["dog"]}


def test_where_a_person_was_faster_the_models_annotation_is_removed_unless_it_was_corrected(
    pool: Pool,
) -> None:
    some = pool.task_ids[:3]
    predictions = [Prediction(each, 1.0, "finish-1-now", ("cat",)) for each in some]
    pool.backend.label_studio.add_missing(pool.project_id, predictions, LABELS)

    def answered() -> None:
        for task_id in some[:2]:
            pool.studio.annotate(task_id, "dog", by=2)

    def corrected() -> None:
        pool.studio.correct(some[1], "dog")

    pool.studio.fail("meanwhile", "/api/dm/actions/", times=1, act=answered)
    pool.studio.fail("meanwhile", "/api/annotations/", method="DELETE", times=1, act=corrected)
    annotate_as_predicted(pool.backend.label_studio, pool.project_id, "finish-1-now", some)
    assert [len(pool.studio.tasks[each]["annotations"]) for each in some] == [1, 2, 1]
    assert annotated_by_model(pool.backend.label_studio, pool.project_id, "finish-").keys() == {some[2]}


def test_an_audit_and_labels_in_bulk_wait_for_each_other(pool: Pool) -> None:
    wish, some = Wish(accuracy=0.9), pool.task_ids[:30]
    begun = start_bulk(pool.backend, pool.project_id, ["cat"], some, corrects=False)
    advance_bulk(pool.backend, pool.project_id)
    with pytest.raises(FinishError, match="are being written, and would bias the checks"):
        start_finish(pool.backend, pool.project_id, wish)
    while advance_bulk(pool.backend, pool.project_id):
        pass
    undo_bulk(pool.backend, pool.project_id, begun.writes[0].version)
    with pytest.raises(FinishError, match="are being undone, and would bias the checks"):
        start_finish(pool.backend, pool.project_id, wish)
    while advance_bulk(pool.backend, pool.project_id):
        pass
    start_finish(pool.backend, pool.project_id, wish)
    with pytest.raises(BulkError, match="would bias these checks"):
        undo_bulk(pool.backend, pool.project_id, begun.writes[0].version)

    # As a release left it that let both begin.
    keep_write(pool.backend.store, pool.project_id, new_write(["cat"], some, corrects=False))
    assert advance_bulk(pool.backend, pool.project_id) == ""
    assert not has_bulk_work(pool.backend, pool.project_id)
    told = bulk_status(pool.backend, pool.project_id).sentence
    assert told == "“cat” is written further once nobody checks labels of the model or of copies any more."
    undo_finish(pool.backend, pool.project_id, Kind.MODEL)
    advance(pool.backend, pool.project_id)
    assert has_bulk_work(pool.backend, pool.project_id)
    assert advance_bulk(pool.backend, pool.project_id) == "25 labels in bulk are written"


def test_a_look_waits_for_no_worker_that_has_begun_to_write(pool: Pool) -> None:
    """The worker found by itself that the bound holds, and holds the finish for as long as it writes."""
    start_finish(pool.backend, pool.project_id, Wish(accuracy=0.9))
    store, redis = pool.backend.store, pool.backend.redis
    auditing = read_session(store, pool.project_id, Kind.MODEL)
    assert auditing

    def tries() -> int:
        return int(redis.info("commandstats")["cmdstat_set"]["calls"])

    with (
        ThreadPoolExecutor(1) as threads,
        project_lease(pool.backend, pool.project_id, FINISH_LEASE),
    ):
        before = tries()
        looked = threads.submit(look_at_finish, pool.backend, pool.project_id, Kind.MODEL)
        wait_until(lambda: tries() > before + 1, "the look to wait for the finish")
        keep_session(store, pool.project_id, replace(auditing, state=FinishState.WRITING))
        assert looked.result().state is FinishState.WRITING


def test_labels_in_bulk_are_no_checks(pool: Pool) -> None:
    in_bulk = pool.task_ids[:100]
    start_bulk(pool.backend, pool.project_id, ["cat"], in_bulk, corrects=False)
    while advance_bulk(pool.backend, pool.project_id):
        pass
    begun = start_finish(pool.backend, pool.project_id, Wish(accuracy=0.9))
    assert (begun.groups[0].images, begun.groups[0].checked, begun.labels.by_people) == (N - 100, 0, 100)
    proposal = read_proposal(pool.backend.store, pool.project_id, Kind.MODEL)
    assert not set(proposal.task_ids) & {*in_bulk}
    session = read_session(pool.backend.store, pool.project_id, Kind.MODEL)
    assert session
    asked = session.asked[0]
    right = proposal.named(proposal.task_ids.index(asked))[0]
    write_label(pool.backend.label_studio, asked, LABELS, [right], "bulk-1", corrects=False)
    assert look_at_finish(pool.backend, pool.project_id, Kind.MODEL).groups[0].wrong == 1


def test_disconnect_undoes_a_finish_says_so_before_and_goes_on_where_it_was_cut_off(pool: Pool) -> None:
    session = written_pool(pool)
    people = {task["id"] for task in pool.studio.tasks_of(pool.project_id)} - set(session.accepted)
    (line,) = labels_to_remove(pool.backend.store, pool.project_id)
    count = len(session.accepted)
    assert line.startswith(f"{count:,} labels by the model") and "their annotations too" in line
    pool.studio.fail(500, "/api/annotations/", method="DELETE", skip=1)
    with pytest.raises(LabelStudioError):
        list(disconnect_project(pool.backend, pool.project_id))
    assert pool.by_model()
    pool.studio.heal()
    told = list(disconnect_project(pool.backend, pool.project_id))
    assert told[0] == f"The finish is undone, {count - 1} annotations of the model are deleted."
    assert not pool.studio.versions(pool.project_id).get(session.version)
    assert not any(view["data"]["title"] == TAB for view in pool.studio.views.values())
    annotated = {task["id"] for task in pool.studio.tasks_of(pool.project_id) if task["annotations"]}
    assert annotated == people
    assert labels_to_remove(pool.backend.store, pool.project_id) == []
    assert not any("finish" in line for line in disconnect_project(pool.backend, pool.project_id))


def test_disconnect_keeps_the_labels_of_a_finish_where_asked(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = written_pool(pool)
    monkeypatch.setenv("REDIS_URL", pool.backend.settings.redis_url)
    monkeypatch.setenv("MODEL_DIR", str(pool.backend.settings.model_dir))
    monkeypatch.setenv("LABEL_STUDIO_URL", pool.studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)
    command = ["disconnect", "--project", str(pool.project_id)]
    shown = CliRunner().invoke(main, [*command, "--dry-run"]).output
    assert "labels by the model" in shown and "Nothing was changed." in shown
    assert pool.backend.store.projects() == [pool.project_id]
    done = CliRunner().invoke(main, [*command, "--keep-labels"])
    assert done.exit_code == 0 and "is disconnected" in done.output
    assert set(pool.by_model()) == set(session.accepted)
    pool.backend.store.register(pool.project_id)
    assert finish_status(pool.backend, pool.project_id, Kind.MODEL).labels.by_model == len(session.accepted)


@pytest.mark.parametrize("state", [FinishState.AUDITING, FinishState.WRITING, FinishState.UNDOING])
def test_a_project_that_is_deleted_in_the_middle_ends_its_finish(pool: Pool, state: FinishState) -> None:
    start_finish(pool.backend, pool.project_id, Wish(accuracy=0.9))
    if state is FinishState.WRITING:
        pool.audit()
        accept_finish(pool.backend, pool.project_id, annotations=True, rest=Rest.HARDEST_FIRST)
    elif state is FinishState.UNDOING:
        undo_finish(pool.backend, pool.project_id, Kind.MODEL)
    pool.studio.delete_project(pool.project_id)
    with pytest.raises(ProjectGone):
        advance(pool.backend, pool.project_id)
    told = list(disconnect_project(pool.backend, pool.project_id))
    assert "has no project" in told[0] and "nothing to undo" in told[0]
