"""Progress is one record, written to Redis as JSON and read back, whichever release wrote it."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from written_progress import changed

from coreset_backend.backend import Backend
from coreset_backend.jobs.keys import PRETRAINING_LEASE, ROUND_LEASE, redis_key
from coreset_backend.jobs.progress import (
    Failure,
    Labeling,
    PretrainingProgress,
    RoundProgress,
    WrittenProgress,
    read_progress,
    reporter,
    write_idle,
    write_pretraining,
    write_progress,
)
from coreset_backend.jobs.states import RoundState, steps

WRITTEN_BY_0_9 = {
    "progress": b'{"state": "running", "phase": "embed", "done": 30, "total": 60, "phase_started": '
    b'1767225600.25, "reason": "10 new labels", "error": null, "retry_at": null, "at": 1767225601.5, '
    b'"passing": true, "last_failure": {"error": "No image came.", "at": 1767225000}, '
    b'"labeling": {"round": 3, "done": 12}, "connection": ["Task sampling is \'Uniform sampling\'."]}',
    "pretraining": b'{"images": 500, "seen": 5700, "budget": 20000, "seconds_left": 190.0, "error": null, '
    b'"state": "running", "at": 1767225601.5}',
}
"""What the release before kept in Redis, byte for byte."""


class Meanwhile(Redis):
    """A connection that has something happen just before it sends the command, once."""

    def happens_before(self, command: str, act: Callable[[], None]) -> None:
        self.command, self.acts = command, [act]

    def execute_command(self, *args: Any, **options: Any) -> Any:
        if args[0] == self.command and self.acts:
            self.acts.pop()()
        return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]


@pytest.fixture
def backend(make_backend: Callable[..., Backend]) -> Backend:
    return make_backend()


def progress_of(backend: Backend) -> RoundProgress:
    return read_progress(backend.redis, backend.store, 7)


def test_what_the_release_before_kept_in_redis_is_read(backend: Backend) -> None:
    for name, content in WRITTEN_BY_0_9.items():
        backend.redis.set(redis_key(7, name), content)
    for name in (ROUND_LEASE, PRETRAINING_LEASE):
        backend.redis.set(redis_key(7, name), "a job's")
    known = progress_of(backend)
    assert known.state is RoundState.RUNNING
    assert known.written == WrittenProgress(
        state=RoundState.RUNNING,
        phase="embed",
        done=30,
        total=60,
        reason="10 new labels",
        last_failure=Failure("No image came.", 1767225000.0),
        labeling=Labeling(3, 12),
        connection=("Task sampling is 'Uniform sampling'.",),
    )
    assert known.pretraining == PretrainingProgress(
        state="running",
        images=500,
        seen=5700,
        budget=20000,
        seconds_left=190.0,
        sentence="Pretraining on the pool: epoch 12 of 40, about 3 min left.",
    )


def test_the_first_values_had_few_fields_and_those_of_a_later_release_have_more(backend: Backend) -> None:
    backend.redis.set(redis_key(7, "progress"), b'{"state": "idle", "at": 1.0}')
    assert progress_of(backend).written == WrittenProgress()
    backend.redis.set(redis_key(7, "progress"), b'{"state": "failed", "error": "a", "mood": {"is": "new"}}')
    assert progress_of(backend).written == WrittenProgress(state=RoundState.FAILED, error="a")


@pytest.mark.parametrize("state", ["unknown", "dreaming", 1, None])
def test_a_state_that_no_job_writes_counts_as_empty(backend: Backend, state: Any) -> None:
    backend.redis.set(redis_key(7, "progress"), json.dumps({"state": state, "error": "a"}))
    assert progress_of(backend).written == WrittenProgress()


def test_what_is_written_is_read_back_and_leaves_other_fields(backend: Backend) -> None:
    labeling = Labeling(2, 5)
    write_progress(backend.redis, 7, changed(labeling=labeling, connection=("Two.",)))
    reporter(backend.redis, 7, "asked for", lambda: True)("train", 3, 9)
    running = WrittenProgress(
        state=RoundState.RUNNING,
        phase="train",
        done=3,
        total=9,
        reason="asked for",
        labeling=labeling,
        connection=("Two.",),
    )
    assert progress_of(backend).written == running
    write_idle(backend.redis, 7)
    assert progress_of(backend).written == changed(state=RoundState.IDLE, phase=None)(running)
    write_pretraining(backend.redis, 7, changed(state="failed", error="The loss was not finite."))
    assert progress_of(backend).pretraining == PretrainingProgress(
        state="failed",
        error="The loss was not finite.",
        sentence="Pretraining on the pool failed: The loss was not finite.",
    )


@pytest.mark.parametrize("begins", [False, True])
def test_a_round_that_ends_or_begins_while_its_state_is_read_does_not_look_lost(
    backend: Backend, redis_url: str, begins: bool
) -> None:
    lease = redis_key(7, ROUND_LEASE)
    write_progress(backend.redis, 7, changed(state="running", phase="publish"))

    def next_round_ends() -> None:
        backend.redis.delete(lease)
        if begins:  # another one, before this one looked again
            reporter(backend.redis, 7, "asked for", lambda: True)("snapshot", 0, 1)
            backend.redis.set(lease, "a job's")
        else:
            write_idle(backend.redis, 7)

    with Meanwhile.from_url(redis_url) as redis:
        redis.happens_before("EXISTS", next_round_ends)
        found = read_progress(redis, backend.store, 7)
    assert found.state is (RoundState.RUNNING if begins else RoundState.IDLE) and not found.lost
    assert not redis.acts


def test_what_another_process_writes_meanwhile_is_not_lost(backend: Backend, redis_url: str) -> None:
    """As when a worker notes the death of the round before, while the next one reports its phase."""
    with Meanwhile.from_url(redis_url) as redis:
        failure = Failure("Its worker was killed.", 1.0)
        redis.happens_before("EVAL", lambda: write_progress(backend.redis, 7, changed(last_failure=failure)))
        write_progress(redis, 7, changed(state="running", done=3))
        assert progress_of(backend).written == WrittenProgress(
            state=RoundState.RUNNING, done=3, last_failure=failure
        )
        redis.happens_before("EVAL", lambda: write_pretraining(backend.redis, 7, changed(images=9)))
        write_pretraining(redis, 7, changed(state="failed", error="No memory."))
    found = progress_of(backend).pretraining
    assert found and (found.state, found.images) == ("failed", 9)


def test_the_steps_of_a_round() -> None:
    assert {step.status for step in steps(None)} == {"pending"}
    statuses = [step.status for step in steps("embed")]
    assert statuses == ["done"] * 3 + ["current"] + ["pending"] * 6
    assert [(step.name, step.status) for step in steps("polishing")][:2] == [
        ("Polishing", "current"),
        ("Reading the project", "pending"),
    ]
