"""Near-duplicates take the label of their original on the fake Label Studio, also with what comes between."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from backend_run import environment_of
from click.testing import CliRunner
from fake_label_studio import TOKEN, FakeLabelStudio
from saved_rounds import LABELS, record
from served_project import ServedProject

from coreset_backend.arrays import unwatched
from coreset_backend.backend import Backend
from coreset_backend.cli.main import main
from coreset_backend.errors import FinishError, LabelStudioError
from coreset_backend.finish.copies import said_by_people
from coreset_backend.finish.session import FinishState, Kind, Rest, Session, read_session
from coreset_backend.finish.tally import Tally
from coreset_backend.finish.work import Wish, advance, has_work
from coreset_backend.jobs.finishing import (
    FinishStatus,
    accept_finish,
    finish_status,
    plan_finish,
    start_finish,
    undo_finish,
)
from coreset_backend.jobs.status import project_status
from coreset_backend.label_studio.model_labels import TAB, annotated_by_model
from coreset_backend.project import Task
from coreset_backend.rounds.due import round_due
from coreset_backend.rounds.publishing import publish_round
from coreset_backend.store.record import STATES
from coreset_backend.store.saved_round import StoredRound
from coreset_backend.web.app import create_app

FAMILIES, SIZE, ALONE = 30, 6, 20
WISH = Wish(Kind.COPIES, accuracy=0.9, annotations=True)


@dataclass
class Pool(ServedProject):
    """FAMILIES groups of SIZE near-duplicates, the first of each labelled by people, and ALONE others."""

    stored: StoredRound

    def family(self, number: int) -> list[int]:
        return self.task_ids[number * SIZE : (number + 1) * SIZE]

    def truth(self, task_id: int) -> str:
        return LABELS.names[self.task_ids.index(task_id) // SIZE % 2]

    @property
    def copies(self) -> set[int]:
        """All near-duplicates but the originals."""
        return {task_id for number in range(FAMILIES) for task_id in self.family(number)[1:]}

    @property
    def session(self) -> Session:
        session = read_session(self.backend.store, self.project_id, Kind.COPIES)
        assert session
        return session

    @property
    def status(self) -> FinishStatus:
        return finish_status(self.backend, self.project_id, Kind.COPIES)

    def say(self, task_id: int, label: str) -> None:
        self.studio.annotate(task_id, label)

    def audit(self, looks: int = 20) -> None:
        """Label rightly what is asked for, as long as something is."""
        for _ in range(looks):
            if not self.session.asked:
                return
            for task_id in self.session.asked[:10]:
                self.say(task_id, self.truth(task_id))
            advance(self.backend, self.project_id)

    def copied(self) -> set[int]:
        """Tasks with an annotation that a copy took."""
        return set(annotated_by_model(self.backend.label_studio, self.project_id, "finish-copies-"))

    def labels(self, task_id: int) -> list[str]:
        found = [each["result"] for each in self.studio.tasks[task_id]["annotations"]]
        return [choice for result in found for choice in result[0]["value"]["choices"]]


@pytest.fixture
def pool(make_backend: Callable[..., Backend], studio: FakeLabelStudio) -> Iterator[Pool]:
    backend = make_backend(label_studio_url=studio.url, label_studio_api_key=TOKEN)
    project_id = studio.create_project()
    n = FAMILIES * SIZE + ALONE
    task_ids = [studio.add_task(project_id, {"image": f"/data/upload/{i}.png"}) for i in range(n)]
    groups = np.repeat([*range(FAMILIES), -1], [*[SIZE] * FAMILIES, ALONE]).astype(np.int32)
    states = np.full(n, STATES.index("duplicate"), dtype=np.uint8)
    states[: FAMILIES * SIZE : SIZE] = STATES.index("labeled")
    states[FAMILIES * SIZE :] = STATES.index("pool")
    says = np.arange(n) // SIZE % 2
    with backend.store.draft(project_id) as draft:
        stored = draft.save(
            record(
                draft.number,
                project_id=project_id,
                labels=LABELS,
                batch=tuple(task_ids[-4:]),
                distances=(1.0,) * 4,
                counts={"labeled": FAMILIES, "duplicate": FAMILIES * (SIZE - 1), "pool": ALONE},
            ),
            {
                "task_ids": np.array(task_ids),
                "states": states,
                "scores": np.linspace(0, 1, n, dtype=np.float32),
                "embedded_task_ids": np.array(task_ids),
                "duplicate_groups": groups,
                "probabilities": np.stack([1 - 0.98 * says, 0.98 * says], 1).astype(np.float32),
            },
        )
    made = Pool(studio, backend, project_id, task_ids, stored)
    for number in range(FAMILIES):
        original = made.family(number)[0]
        made.say(original, made.truth(original))
    yield made


def test_copies_are_shown_first_audited_in_the_queue_and_labelled_once_the_bound_holds(pool: Pool) -> None:
    planned = plan_finish(pool.backend, pool.project_id, WISH)
    assert planned.state is None and planned.groups[0].images == FAMILIES * (SIZE - 1)
    assert "150 unlabelled images are near-duplicates of images that people labelled" in planned.sentence
    assert read_session(pool.backend.store, pool.project_id, Kind.COPIES) is None
    assert planned.labels == Tally(by_people=FAMILIES, left=FAMILIES * (SIZE - 1) + ALONE)
    start_finish(pool.backend, pool.project_id, WISH)
    asked = pool.session.asked
    assert set(asked) <= pool.copies
    publish_round(pool.backend, pool.stored, unwatched)
    assert tuple(pool.studio.queue(pool.project_id)[: len(asked)]) == asked
    assert not any(each["result"] for id_ in asked for each in pool.studio.predictions_of(id_))
    assert not pool.copied()
    pool.audit()
    written = pool.status
    people = {task_id for task_id in pool.copies if task_id not in pool.copied()}
    assert written.state is FinishState.WRITTEN
    assert 0 < written.groups[0].most_wrong <= 15  # of the 150 copies as one set
    assert pool.copied() == pool.copies - people and len(people) < 60
    assert all(pool.labels(task_id) == [pool.truth(task_id)] for task_id in pool.copies)
    assert written.labels == Tally(by_people=FAMILIES + len(people), by_copies=len(pool.copied()), left=ALONE)
    assert_seen_everywhere_and_no_label_of_a_round(pool)
    assert_undone(pool, people)


def assert_seen_everywhere_and_no_label_of_a_round(pool: Pool) -> None:
    counts = pool.status.labels
    assert counts.tasks == len(pool.task_ids)
    assert project_status(pool.backend, pool.project_id).labels == counts
    client = create_app(pool.backend).test_client()
    path = f"/api/projects/{pool.project_id}"
    for answer in (client.get(f"{path}/{each}").json for each in ("copies", "overview", "status")):
        assert answer["labels"]["by_copies"] == counts.by_copies
        assert sum(answer["labels"].values()) == counts.tasks
    metrics = client.get("/metrics").text
    assert f'coreset_labels{{by="copies",project="{pool.project_id}"}} {counts.by_copies}.0' in metrics
    snapshot = pool.backend.label_studio.fetch_snapshot(pool.project_id)
    states = {task.task_id: task.state for task in snapshot.tasks}
    assert {states[task_id] for task_id in pool.copied()} == {"copy"}
    assert all(task.label is None for task in snapshot.tasks if task.state == "copy")
    assert round_due(pool.backend, pool.project_id).reason is None
    (tab,) = [view["data"] for view in pool.studio.views.values() if view["data"]["title"] == TAB]
    assert tab["filters"]["items"][0]["value"] == [pool.session.version]


def assert_undone(pool: Pool, people: set[int]) -> None:
    version = pool.session.version
    undo_finish(pool.backend, pool.project_id, Kind.COPIES)
    assert has_work(pool.backend, pool.project_id)
    advance(pool.backend, pool.project_id)
    assert pool.status.state is None and not pool.copied()
    assert version not in pool.studio.versions(pool.project_id)
    assert not any(view["data"]["title"] == TAB for view in pool.studio.views.values())
    annotated = {task["id"] for task in pool.studio.tasks_of(pool.project_id) if task["annotations"]}
    assert annotated == people | {pool.family(number)[0] for number in range(FAMILIES)}


def test_groups_that_people_contradict_are_not_followed(pool: Pool) -> None:
    contradicted, skipped = pool.family(0), pool.family(1)
    pool.say(contradicted[1], "dog" if pool.truth(contradicted[0]) == "cat" else "cat")
    pool.studio.annotate(skipped[1], None, cancelled=True)
    planned = plan_finish(pool.backend, pool.project_id, WISH)
    assert planned.contradicted == 1 and "1 group is left out" in planned.sentence
    start_finish(pool.backend, pool.project_id, WISH)
    pool.audit()
    assert not pool.copied() & {*contradicted, skipped[1]}
    assert set(skipped[2:]) <= pool.copied() | set(pool.session.ever_asked)


def test_a_copy_follows_its_original_when_people_change_their_mind(pool: Pool) -> None:
    start_finish(pool.backend, pool.project_id, WISH)
    pool.audit()
    family = next(
        each for each in map(pool.family, range(FAMILIES)) if len(pool.copied() & {*each}) == SIZE - 1
    )
    before = pool.copied()
    original = pool.studio.tasks[family[0]]["annotations"][0]
    original["result"][0]["value"]["choices"] = ["dog" if pool.truth(family[0]) == "cat" else "cat"]

    def corrected() -> None:
        pool.studio.correct(family[2], "dog")

    pool.studio.fail("meanwhile", "/api/annotations/", method="DELETE", times=1, act=corrected)
    told, _ = advance(pool.backend, pool.project_id)
    assert "labels of copies are written" in told
    assert pool.copied() == before - {*family}
    assert [pool.labels(each) for each in family[1:4]] == [[], ["dog"], []]
    assert pool.studio.versions(pool.project_id)[pool.session.version] == len(pool.copied())
    assert pool.status.labels.by_copies == len(pool.copied()) and pool.status.labels.tasks == len(
        pool.task_ids
    )
    assert advance(pool.backend, pool.project_id) == ("", False)
    pool.say(next(iter(pool.copied())), "cat")  # a person may annotate a copy too
    advance(pool.backend, pool.project_id)
    assert pool.status.labels.tasks == len(pool.task_ids)


@pytest.mark.parametrize("requests", [0, 1, 2, 3])
def test_a_worker_that_is_killed_while_copies_are_written_is_completed_by_the_next(
    pool: Pool, requests: int
) -> None:
    start_finish(pool.backend, pool.project_id, WISH)
    while pool.status.state is FinishState.AUDITING:
        for task_id in pool.session.asked[:10]:
            pool.say(task_id, pool.truth(task_id))
        fault = pool.studio.fail(500, "predictions|dm/", skip=requests)
        with contextlib.suppress(LabelStudioError):
            advance(pool.backend, pool.project_id)
        assert fault in pool.studio.faults
        pool.studio.heal()
    assert pool.status.state is FinishState.WRITING and has_work(pool.backend, pool.project_id)
    assert pool.status.labels.tasks == len(pool.task_ids)
    accepted = set(pool.session.accepted)
    advance(pool.backend, pool.project_id)
    assert pool.status.state is FinishState.WRITTEN and pool.copied() == accepted
    assert all(len(pool.studio.tasks[each]["annotations"]) == 1 for each in accepted)


def test_too_many_wrong_copies_are_never_labelled(pool: Pool) -> None:
    start_finish(pool.backend, pool.project_id, replace(WISH, audits=60))
    rng = np.random.default_rng(0)
    for _ in range(40):
        if not pool.session.asked:
            break
        for task_id in pool.session.asked:
            right = pool.truth(task_id)
            wrong = "dog" if right == "cat" else "cat"
            pool.say(task_id, wrong if rng.random() < 0.3 else right)
        advance(pool.backend, pool.project_id)
    assert pool.status.state is FinishState.AUDITING and not pool.copied()
    assert "Too little is known" in pool.status.sentence and "No more answers" in pool.status.sentence


def test_the_model_and_copies_label_side_by_side_and_only_one_is_checked_at_a_time(pool: Pool) -> None:
    start_finish(pool.backend, pool.project_id, WISH)
    with pytest.raises(FinishError, match=r"finish of copies .* people check only one at a time"):
        start_finish(pool.backend, pool.project_id, Wish(accuracy=0.6))
    with pytest.raises(FinishError, match=r"finish of copies of project .* is auditing already"):
        start_finish(pool.backend, pool.project_id, WISH)
    pool.audit()
    copied = pool.copied()
    planned = start_finish(pool.backend, pool.project_id, Wish(accuracy=0.6, audits=20))
    assert planned.groups[0].images == len(pool.copies) + ALONE - len(copied)
    model = read_session(pool.backend.store, pool.project_id, Kind.MODEL)
    assert model and not set(model.asked) & copied
    while not finish_status(pool.backend, pool.project_id, Kind.MODEL).groups[0].set_size:
        model = read_session(pool.backend.store, pool.project_id, Kind.MODEL)
        for task_id in model.asked[:10] if model else ():
            pool.say(task_id, pool.truth(task_id))
        advance(pool.backend, pool.project_id)
    accept_finish(pool.backend, pool.project_id, annotations=True, rest=Rest.HARDEST_FIRST)
    advance(pool.backend, pool.project_id)
    found = finish_status(pool.backend, pool.project_id, Kind.MODEL)
    assert found.labels.by_copies == len(copied) and found.labels.tasks == len(pool.task_ids)
    undo_finish(pool.backend, pool.project_id, Kind.MODEL)
    advance(pool.backend, pool.project_id)
    assert pool.copied() == copied
    (tab,) = [view["data"] for view in pool.studio.views.values() if view["data"]["title"] == TAB]
    assert tab["filters"]["items"][0]["value"] == [pool.session.version]


def test_what_people_say_of_a_group() -> None:
    def task(task_id: int, label: tuple[str, ...] | None, **more: object) -> Task:
        return Task(task_id, None, "labeled", label, **more)  # type: ignore[arg-type]

    cat, dog = ("cat",), ("dog",)
    split = (cat, dog)
    tasks = {
        1: task(1, cat),
        2: task(2, dog),
        3: task(3, None, unread="it is empty"),
        4: task(4, cat, votes=split),
        5: task(5, cat, votes=split, is_truth=True),
        6: Task(6, None, "skipped"),
        7: Task(7, None, "copy"),
        8: task(8, ()),
    }
    assert said_by_people([1, 6, 7, 99], tasks) == {cat}
    assert said_by_people([1, 2], tasks) == {cat, dog}
    assert said_by_people([1, 3], tasks) == {cat, None}
    assert said_by_people([4], tasks) == {cat, dog}
    assert said_by_people([1, 5], tasks) == {cat}
    assert said_by_people([8], tasks) == {()}
    assert said_by_people([6], tasks) == set()


def test_the_command_lets_copies_follow_and_undoes_it(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment_of(pool.backend.settings).items():
        monkeypatch.setenv(name, value)

    def typed(*words: str) -> str:
        command = ["finish", "--project", str(pool.project_id), "--copies", *words]
        return CliRunner().invoke(main, command).output

    assert "would take their label" in typed("--accuracy", "0.9", "--dry-run")
    assert "does not go with --copies" in typed("--accept")
    assert "does not go with --copies" in typed("--per-class")
    assert "first in the queue" in typed("--accuracy", "0.9", "--annotations")
    pool.audit()
    assert "images have the label of their original" in (said := typed())
    assert f"+ {len(pool.copied())} as copies +" in said
    shown = CliRunner().invoke(main, ["status", "--project", str(pool.project_id)]).output
    assert "Labels of copies, written:" in shown and "Labels: 200 tasks =" in shown
    assert "is being removed" in typed("--undo")
    advance(pool.backend, pool.project_id)
    assert "do not take the label of their original" in typed("--undo", "--dry-run")
    assert "No unlabelled image is a near-duplicate" in _nothing_to_follow(pool)


def _nothing_to_follow(pool: Pool) -> str:
    for task_id in pool.copies:
        if not pool.studio.tasks[task_id]["annotations"]:
            pool.say(task_id, pool.truth(task_id))
    with pytest.raises(FinishError) as caught:
        plan_finish(pool.backend, pool.project_id, WISH)
    return str(caught.value)
