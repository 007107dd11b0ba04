"""Every state that a project can be in has one true sentence, the same wherever it is asked for."""

import itertools
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from fake_label_studio import TOKEN, FakeLabelStudio
from flask.testing import FlaskClient
from listening import no_worker_listens, worker_listens
from saved_rounds import record
from written_progress import changed

from coreset_backend.backend import Backend
from coreset_backend.cli.doctor import examine
from coreset_backend.cli.status import status_lines
from coreset_backend.connection.connect import SAMPLING, SECRET_HEADER
from coreset_backend.errors import NotFinite, QueueError, Unreachable
from coreset_backend.jobs.keys import redis_key
from coreset_backend.jobs.outcome import note_failure
from coreset_backend.jobs.progress import Failure, Labeling, write_progress
from coreset_backend.jobs.queue import request_round
from coreset_backend.jobs.status import project_status
from coreset_backend.reports import Publication
from coreset_backend.rounds.due import Due, round_due
from coreset_backend.store.record import STATES
from coreset_backend.web.app import create_app

BATCHES = {"none": 1, "unpublished": 2, "empty": 3, "begun": 4, "done": 5}
"""What a project's newest round is like -> the project."""
LABELED = {"begun": 20, "done": 50}
NO_IMAGE = {"error": "No image came.", "last_failure": Failure("No image came.", 1767225600.0)}
LISTEN = "Start one with `coreset-backend work`."


@dataclass(frozen=True)
class State:
    """Where a project stands: what Redis and the store hold of it."""

    batch: str = "begun"
    doing: str = "nothing"
    worker: bool = True
    trigger: str = "auto"
    held: bool = False

    @property
    def project_id(self) -> int:
        return BATCHES[self.batch]


def save_rounds(backend: Backend) -> None:
    backend.store.register(BATCHES["none"])
    left = {"labeled": 100, "pool": 0, "skipped": 15, "unreadable": 3, "duplicate": 2}
    for name, project_id in BATCHES.items():
        if name == "none":
            continue
        counts = left if name == "empty" else {"selected": 50, "pool": 70}
        batch = () if name == "empty" else tuple(range(1, 51))
        with backend.store.draft(project_id) as draft:
            given = {"project_id": project_id, "batch": batch, "counts": counts, "distances": ()}
            stored = draft.save(record(draft.number, **given), {})
        if name != "unpublished":
            stored.mark_published(Publication(at="2026-01-01T00:00:00+00:00"))


@pytest.fixture
def show(make_backend: Callable[..., Backend]) -> Iterator[Callable[[State], Backend]]:
    """Has Redis and the store be as in a state; the backend that looks at it."""
    backends = {trigger: make_backend(trigger=trigger) for trigger in ("auto", "manual")}
    save_rounds(backends["auto"])
    yield lambda state: arrange(backends[state.trigger], state)


def arrange(backend: Backend, state: State) -> Backend:
    project_id, store = state.project_id, backend.store
    backend.redis.flushall()
    store.hold(project_id, "A person cancelled the last round.") if state.held else store.release(project_id)
    if state.worker:
        worker_listens(backend)
    if done := LABELED.get(state.batch):
        write_progress(backend.redis, project_id, changed(labeling=Labeling(1, done)))
    DOINGS[state.doing](backend, project_id)
    return backend


def key(backend: Backend, project_id: int, name: str) -> None:
    backend.redis.set(redis_key(project_id, name), "a job's", ex=3600)


def demanded(backend: Backend, project_id: int) -> None:
    backend.redis.rpush(redis_key(project_id, "demands"), "started by hand")
    key(backend, project_id, "waiting")


def running(backend: Backend, project_id: int, leased: bool = True) -> None:
    write_progress(backend.redis, project_id, changed(state="running", phase="embed", done=30, total=60))
    if leased:
        key(backend, project_id, "lease")


def failed(state: str, again: float | None) -> Callable[[Backend, int], None]:
    def fail(backend: Backend, project_id: int) -> None:
        moment = None if again is None else time.time() + again
        write_progress(backend.redis, project_id, changed(state=state, retry_at=moment, **NO_IMAGE))

    return fail


DOINGS: dict[str, Callable[[Backend, int], None]] = {
    "nothing": lambda backend, project_id: None,
    "a look": lambda backend, project_id: key(backend, project_id, "waiting"),
    "started": demanded,
    "to be published": lambda backend, project_id: key(backend, project_id, "republish"),
    "running": running,
    "lost": lambda backend, project_id: running(backend, project_id, leased=False),
    # The furthest from where minutes are rounded another way, however slow the test is.
    "retry soon": failed("waiting", 149),
    "retry late": failed("waiting", -451),
    "poll soon": failed("failed", 629),
    "poll late": failed("failed", -451),
    "failed for good": failed("failed", None),
}
FAILED = "The last round failed: No image came."
BEGUN = "Round 1 is being labelled"
NOTHING_LEFT = (
    "There is nothing left to select: of 120 tasks 100 labelled, 15 skipped, 3 unreadable, 2 duplicates. "
    "Import more images."
)
ALONE = f"No worker listens, so nothing starts automatically. {LISTEN}"
SAYS = [
    (State("none"), "idle", "No round yet. The first starts automatically."),
    (State("none", trigger="manual"), "idle", "No round yet. Start one."),
    (State("none", worker=False), "idle", f"No round yet. {ALONE}"),
    (State("none", "a look"), "waiting", "A round is queued and starts as soon as a worker is free."),
    (
        State("unpublished"),
        "idle",
        "Round 1 is saved but not published yet. It will be published automatically.",
    ),
    (
        State("unpublished", trigger="manual"),
        "idle",
        "Round 1 is saved but not published yet. Start a round to publish it.",
    ),
    (State("empty"), "idle", f"{NOTHING_LEFT} The next round then starts automatically."),
    (State("empty", trigger="manual"), "idle", f"{NOTHING_LEFT} Then start a round."),
    (
        State("begun"),
        "idle",
        f"{BEGUN}: 20 of 50 done. The next round starts automatically when its batch is done.",
    ),
    (State("begun", trigger="manual"), "idle", f"{BEGUN}. Start the next round when its batch is done."),
    (State("begun", worker=False), "idle", f"{BEGUN}. {ALONE}"),
    (
        State("begun", "a look"),
        "idle",
        f"{BEGUN}: 20 of 50 done. The next round starts automatically when its batch is done.",
    ),
    (State("done"), "idle", f"{BEGUN}: 50 of 50 done. The next round starts as soon as a worker is free."),
    (State("done", held=True), "idle", "A person cancelled the last round. Start a round to continue."),
    (State("done", "started"), "waiting", "A round is queued and starts as soon as a worker is free."),
    (
        State("done", "started", held=True),
        "waiting",
        "A round is queued and starts as soon as a worker is free.",
    ),
    (
        State("done", "started", worker=False),
        "waiting",
        f"A round is queued, but no worker listens. {LISTEN}",
    ),
    (
        State("begun", "to be published"),
        "waiting",
        "The batch will be published again as soon as a worker is free.",
    ),
    (State("begun", "running"), "running", "Embedding: 30 of 60."),
    (
        State("begun", "running", worker=False),
        "running",
        "A round was running, but its worker sends no heartbeat any more. If it does not come back, "
        "start one with `coreset-backend work`: it then retries the round.",
    ),
    (
        State("begun", "lost"),
        "waiting",
        "The process of the round ended unexpectedly. The round is retried as soon as a worker is free.",
    ),
    (State("begun", "retry soon"), "waiting", f"{FAILED} It is retried within 2 min."),
    (
        State("begun", "retry soon", worker=False),
        "waiting",
        f"{FAILED} It is retried once a worker listens; none does. {LISTEN}",
    ),
    (
        State("begun", "retry late"),
        "waiting",
        f"{FAILED} Its retry was due 8 min ago and is waiting for a free worker.",
    ),
    (State("begun", "poll soon"), "failed", f"{FAILED} It is retried within 10 min."),
    (
        State("begun", "failed for good"),
        "failed",
        f"{FAILED} It is not retried automatically: start a round.",
    ),
]


@pytest.mark.parametrize(("state", "is_in", "words"), SAYS, ids=lambda value: str(value)[:60])
def test_the_sentence_of_a_state(
    show: Callable[[State], Backend], state: State, is_in: str, words: str
) -> None:
    found = project_status(show(state), state.project_id).progress
    assert (found.state, found.sentence) == (is_in, words)


def every_state() -> Iterator[State]:
    for given in itertools.product(BATCHES, DOINGS, (True, False), ("auto", "manual"), (False, True)):
        yield State(*given)


def assert_true(state: State, sentence: str) -> None:
    """What must not be said of such a state, whatever the words are."""
    promises = re.search(r"(?<!not retried )automatically|as soon as|within \d", sentence)
    if not state.worker and promises:
        assert "work`" in sentence, "without a worker nothing happens, and it must say so"
    if not state.worker and state.doing in (
        "started",
        "lost",
        "running",
        "a look" if state.batch == "none" else "",
    ):
        assert "work`" in sentence
    if state.doing == "nothing" and (state.held or state.trigger == "manual"):
        assert not re.search(r"automatically|as soon as", sentence), "only a person starts one"
        assert "tart " in sentence
    if state.batch == "empty" and state.doing == "nothing" and not state.held:
        assert " of 0" not in sentence and "There is nothing left to select" in sentence
    if "late" in state.doing and state.worker:
        assert "8 min ago" in sentence and "within" not in sentence
    assert "in a moment" not in sentence
    assert sentence.endswith(".")


def assert_possible(state: State, step: dict[str, str]) -> None:
    """The next step is one that its actor can do in such a state."""
    who, does = step["who"], step["does"]
    assert does.endswith(".") and does[0].islower()
    if who == "The worker":
        assert state.worker
    if who == "The operator":
        assert not state.worker and "coreset-backend work" in does
    if who == "Annotators":
        assert state.batch == "begun" or (state.batch == "done" and state.trigger == "manual")
        assert not state.held
    if state.doing == "nothing" and (state.held or state.trigger == "manual") and "starts" in does:
        assert who == "The lead" or "the lead then starts" in does


NEXT = [
    (State("none"), "The worker starts the first round."),
    (State("none", worker=False), "The operator starts a worker: coreset-backend work."),
    (State("none", trigger="manual"), "The lead starts the first round."),
    (State("unpublished"), "The worker publishes the batch."),
    (State("empty"), "The lead imports more images, or ends the project here."),
    (
        State("begun"),
        "Annotators label 30 more of the batch in Label Studio; the worker then starts the next round.",
    ),
    (
        State("begun", trigger="manual"),
        "Annotators label the batch of 50 in Label Studio; the lead then starts the next round.",
    ),
    (State("begun", held=True), "The lead starts a round to continue; annotators keep the current batch."),
    (State("done"), "The worker starts the next round."),
    (
        State("none", "running"),
        "The worker publishes the first batch; annotators then label it in Label Studio.",
    ),
    (State("begun", "lost", worker=False), "The operator starts a worker: coreset-backend work."),
    (State("begun", "to be published"), "The worker publishes the batch again."),
    (State("begun", "retry soon"), "The worker retries the round; annotators keep the current batch."),
    (State("begun", "failed for good"), "The lead removes the cause, then starts a round."),
]


@pytest.mark.parametrize(("state", "words"), NEXT, ids=lambda value: str(value)[:60])
def test_what_happens_next_and_who_does_it(
    show: Callable[[State], Backend], state: State, words: str
) -> None:
    found = project_status(show(state), state.project_id).progress.next
    assert f"{found.who} {found.does}" == words


def test_no_state_has_a_sentence_that_is_not_so_and_all_who_are_asked_say_the_same(
    show: Callable[[State], Backend],
) -> None:
    seen = 0
    clients: dict[str, FlaskClient] = {}
    for state in every_state():
        backend, project_id = show(state), state.project_id
        if state.trigger not in clients:
            clients[state.trigger] = create_app(backend).test_client()
        client = clients[state.trigger]
        progress = (client.get(f"/api/projects/{project_id}/progress").json or {})["progress"]
        status = project_status(backend, project_id)
        told = {name: progress[name] for name in ("state", "sentence")}
        assert_true(state, told["sentence"])
        assert_possible(state, progress["next"])
        assert {name: getattr(status.progress, name) for name in told} == told, state
        lines = status_lines(status)
        assert lines[0].startswith(f"Project {project_id}: {told['state']}") and told["sentence"] in lines[1]
        assert progress["startable"] == (state.doing not in ("running", "started"))
        seen += 1
    assert seen == 5 * 11 * 2 * 2 * 2


@pytest.mark.parametrize("doing", DOINGS)
def test_page_and_metrics_have_the_same_state(show: Callable[[State], Backend], doing: str) -> None:
    state = State("begun", doing)
    backend = show(state)
    client = create_app(backend).test_client()
    told = project_status(backend, state.project_id).progress
    page = client.get(f"/projects/{state.project_id}").text
    assert f'<span id="state" class="pill {told.state}">{told.state}</span>' in page
    assert told.sentence.replace("`", "") in page.replace("`", "")
    start = re.search(r'<button[^>]*data-action="start"[^>]*>', page)
    assert start and ("disabled" in start[0]) == (not told.startable)
    metrics = client.get("/metrics").text
    line = f'coreset_project_state{{project="{state.project_id}",state="{told.state}"}} 1.0'
    assert line in metrics
    assert metrics.count(f'coreset_project_state{{project="{state.project_id}"') == 5


@pytest.fixture
def connected(make_backend: Callable[..., Backend], studio: FakeLabelStudio) -> tuple[Backend, int]:
    """A project that is connected, of which no round has been published."""
    backend = make_backend(label_studio_url=studio.url, label_studio_api_key=TOKEN, url=studio.url)
    project_id = studio.create_project(4)
    studio.projects[project_id]["sampling"] = SAMPLING
    studio.backends[1] = {"id": 1, "project": project_id, "url": studio.url, "title": "ours"}
    hook = {"url": f"{studio.url}/webhook", "headers": {SECRET_HEADER: backend.webhook_secret}}
    studio.webhooks[1] = {"id": 1, "project": project_id, **hook}
    backend.store.register(project_id)
    worker_listens(backend)
    return backend, project_id


def forget(backend: Backend, project_id: int) -> None:
    backend.redis.delete(
        *(redis_key(project_id, name) for name in ("progress", "lease", "demands", "waiting"))
    )


def problems(backend: Backend, project_id: int) -> list[str]:
    return dict(examine(backend, [project_id]))[f"Project {project_id}"]


def test_doctor_does_not_ask_for_a_round_while_one_runs_or_waits(connected: tuple[Backend, int]) -> None:
    backend, project_id = connected
    [advice] = problems(backend, project_id)
    assert "start a round" in advice
    for doing in ("running", "started", "lost"):
        forget(backend, project_id)
        DOINGS[doing](backend, project_id)
        assert problems(backend, project_id) == [], doing
    forget(backend, project_id)
    DOINGS["retry soon"](backend, project_id)
    assert problems(backend, project_id) == [f"{FAILED} It is retried within 2 min."]
    no_worker_listens(backend)
    assert "none does" in problems(backend, project_id)[0]


def test_after_everything_was_labelled_new_images_start_a_round(
    make_backend: Callable[..., Backend], studio: FakeLabelStudio
) -> None:
    """What the sentence of an empty batch promises, also if as many images are deleted."""
    backend = make_backend(label_studio_url=studio.url, label_studio_api_key=TOKEN)
    project_id, task_ids = published(backend, studio, batch=0)
    assert round_due(backend, project_id).reason is None
    studio.delete_task(task_ids[0])
    studio.add_task(project_id, {"image": "/data/upload/new.png"})
    assert round_due(backend, project_id).reason == "1 new tasks, and none was left to select"
    studio.add_task(project_id, {"image": "/data/upload/newer.png"})
    studio.filters = False  # an early release, which cannot be asked for what is new
    assert round_due(backend, project_id).reason == "1 new tasks, and none was left to select"


def published(
    backend: Backend, studio: FakeLabelStudio, *, batch: int, states: Sequence[str] = ("labeled",) * 4
) -> tuple[int, list[int]]:
    """A project of four tasks, so many of them in the batch of its published round; and their ids."""
    project_id = studio.create_project(4)
    task_ids = [task["id"] for task in studio.tasks_of(project_id)]
    given = {"batch": tuple(task_ids[:batch]), "distances": (1.0,) * batch, "reserve": ()}
    with backend.store.draft(project_id) as draft:
        made = record(1, project_id=project_id, counts={"labeled": 4}, **given)
        arrays = {"task_ids": task_ids, "states": [STATES.index(state) for state in states]}
        draft.save(made, arrays).mark_published(Publication())
    return project_id, task_ids


def test_a_deleted_task_of_the_last_batch_does_not_hold_up_the_next_round(
    make_backend: Callable[..., Backend], studio: FakeLabelStudio
) -> None:
    backend = make_backend(label_studio_url=studio.url, label_studio_api_key=TOKEN)
    project_id, task_ids = published(backend, studio, batch=3)
    studio.delete_task(task_ids[0])
    studio.annotate(task_ids[1], "cat")
    assert round_due(backend, project_id) == Due(None, 1, 2)
    studio.annotate(task_ids[2], None, cancelled=True)
    assert round_due(backend, project_id).reason == "3 of the batch's 3 tasks are done"


@pytest.mark.parametrize("state", ["unreadable", "model", "copy"])
def test_annotations_that_teach_nothing_start_no_round(
    make_backend: Callable[..., Backend], studio: FakeLabelStudio, state: str
) -> None:
    backend = make_backend(label_studio_url=studio.url, label_studio_api_key=TOKEN, new_labels=2)
    project_id, task_ids = published(backend, studio, batch=1, states=("pool", state, state, "pool"))
    for task_id in task_ids[1:3]:
        studio.annotate(task_id, "cat")
    assert round_due(backend, project_id).reason is None
    studio.annotate(task_ids[3], "cat")
    assert round_due(backend, project_id).reason is None
    studio.annotate(task_ids[0], "cat")
    assert round_due(backend, project_id).reason == "1 of the batch's 1 tasks are done"


def test_what_only_a_person_can_repeat_is_not_said_to_be_tried_again(
    make_backend: Callable[..., Backend],
) -> None:
    """A round started by hand found the model broken; no round is due by itself."""
    backend = make_backend()
    worker_listens(backend)
    save_rounds(backend)
    project_id = BATCHES["begun"]

    def said(error: Any, forced: int) -> str:
        note_failure(backend, project_id, error, forced)
        return str(project_status(backend, project_id).progress.sentence)

    assert said(NotFinite("The loss is not finite."), 1).endswith(
        "It is not retried automatically: start a round."
    )
    assert re.search(r"It is retried within \d+ (s|min)\.$", said(NotFinite("The loss is not finite."), 0))
    assert re.search(r"It is retried within \d+ (s|min)\.$", said(Unreachable("Nobody answers."), 1))


def test_a_start_by_hand_takes_the_place_of_a_look_that_waits(make_backend: Callable[..., Backend]) -> None:
    backend = make_backend(debounce_seconds=3)
    assert request_round(backend, 4, "an event")
    assert backend.queue.scheduled_job_registry.count == 1
    assert request_round(backend, 4, "started by hand", force=True)
    assert backend.high_priority_queue.count == 1, "it waits for no pause"
    assert backend.queue.scheduled_job_registry.count == 0
    assert not request_round(backend, 4, "started again", force=True)
    assert backend.jobs_waiting == 1


def test_a_start_by_hand_that_fails_half_way_leaves_the_look_that_waits(
    make_backend: Callable[..., Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend()
    assert request_round(backend, 4, "an event")

    def redis_dies(*_: Any, **__: Any) -> None:
        raise redis.ConnectionError("Redis is gone")

    monkeypatch.setattr(backend.high_priority_queue, "enqueue", redis_dies)
    with pytest.raises(QueueError, match="Redis is gone"):
        request_round(backend, 4, "started by hand", force=True)
    assert backend.queue.count == 1
