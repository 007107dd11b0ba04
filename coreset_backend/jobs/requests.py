"""A person's requests: cancel a round, publish it again, roll back to an earlier one, disconnect
a project.
"""

import contextlib
from collections.abc import Callable, Iterator

from redis.exceptions import RedisError

from coreset_backend.backend import Backend
from coreset_backend.connection.connect import disconnect
from coreset_backend.errors import (
    FinishError,
    ProjectError,
    ProjectGone,
    QueueError,
    RoundNotFound,
    StoreError,
)
from coreset_backend.finish.session import Kind, is_queue_behind, read_session, readable_sessions
from coreset_backend.finish.work import undo, undo_now
from coreset_backend.jobs.keys import FINISH_LEASE
from coreset_backend.jobs.lease import LEASE_SECONDS, project_lease
from coreset_backend.jobs.queue import forget_state, request_publication, request_round, stop_round
from coreset_backend.store.store import Store

PATIENCE = 10.0
CANCELLED = "A person cancelled the last round."
LEFT_BEHIND = LEASE_SECONDS + 5.0
"""As long as the lease of a job that was just stopped may take to expire."""
WHOSE = {Kind.MODEL: "by the model", Kind.COPIES: "of copies"}


def cancel_round(backend: Backend, project_id: int) -> bool:
    """Cancel the running round and the waiting one within ten seconds; False if there was neither.

    Label Studio keeps serving the current batch. No round starts automatically until a person starts one.
    What a finish has changed in the queue is published all the same, by another job. Raises QueueError if
    Redis or the worker does not answer.
    """
    stopped, held = False, backend.store.held(project_id)
    if held is None:  # before the stop, or a waiting job could start just after it
        backend.store.hold(project_id, CANCELLED)
    try:
        stopped = stop_round(backend, project_id, PATIENCE)
        if stopped and backend.store.held(project_id) is None:  # a round that was just ending released it
            backend.store.hold(project_id, CANCELLED)
        if stopped and is_queue_behind(backend.store, project_id):
            request_publication(backend, project_id)
    except RedisError as error:
        raise _away(error) from error
    finally:
        if held is None and not stopped:
            backend.store.release(project_id)
    return stopped


def require_connected(store: Store, project_id: int) -> None:
    """Raises ProjectError for a project that was disconnected."""
    if store.is_disconnected(project_id):
        raise ProjectError(
            f"Project {project_id} was disconnected. "
            f"`coreset-backend connect --project {project_id}` resumes it with its saved rounds."
        )


def publish_again(backend: Backend, project_id: int) -> bool:
    """Publish the current batch again, for example after Label Studio was restored from a backup.

    True if a job was queued, False if one is already waiting. Raises RoundNotFound and QueueError.
    """
    require_connected(backend.store, project_id)
    if backend.store.latest(project_id) is None:
        raise RoundNotFound(f"Project {project_id} has no round to publish yet. Start one.")
    try:
        return request_publication(backend, project_id)
    except RedisError as error:
        raise _away(error) from error


def roll_back(backend: Backend, project_id: int, number: int) -> None:
    """Make round ``number`` the current one: Label Studio serves its batch and its model's predictions.

    Later rounds are kept. A running round is cancelled, and none starts automatically until a person starts
    one. Raises RoundNotFound, CorruptRound and Unwritable before anything is changed, and QueueError.
    """
    require_connected(backend.store, project_id)
    stored = backend.store.open(project_id, number)
    stored.verify()
    try:
        stop_round(backend, project_id, PATIENCE)
        with project_lease(backend, project_id, patience=PATIENCE) as is_ours:
            if not is_ours:
                raise QueueError(f"A round of project {project_id} has just started. Roll back again.")
            reason = f"A person rolled back to round {number}."
            # Unpublished before it counts, or the page takes the earlier publication for this one.
            backend.store.hold(project_id, reason, number, before=stored.mark_unpublished)
        request_publication(backend, project_id)
    except RedisError as error:
        raise _away(error) from error


@contextlib.contextmanager
def held_work(
    backend: Backend,
    project_id: int,
    lease: str,
    what: str,
    go_on: Callable[[], object],
    give_up: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Hold the ``lease`` while the block changes ``what`` workers do for the project, then have them go on.

    Raises QueueError, also as soon as ``give_up()`` is true while a worker holds the lease.
    """
    try:
        with project_lease(backend, project_id, lease, patience=PATIENCE, give_up=give_up) as is_ours:
            if not is_ours:
                raise QueueError(
                    f"A worker is busy with the {what} of project {project_id}. Try again in a moment."
                )
            yield
        go_on()
    except RedisError as error:
        raise QueueError(
            f"Redis does not answer ({error}). Check that Redis runs, then try again."
        ) from error


def labels_to_remove(store: Store, project_id: int) -> list[str]:
    """A sentence for the labels of each finish that a disconnect removes; empty where none are written."""
    return [
        f"{len(each.accepted):,} labels {WHOSE[each.kind]}, which a finish has written, are removed"
        f"{', their annotations too' if each.annotations else ''}. Labels by people stay."
        for each in readable_sessions(store, project_id)
        if each.accepted
    ]


def disconnect_project(backend: Backend, project_id: int, *, keep_labels: bool = False) -> Iterator[str]:
    """Cancel the project's round, undo what connect, the rounds and a finish changed, forget the connection.

    Yields a sentence for each step; can be repeated. The store keeps the rounds. ``keep_labels``: a finish is
    not undone, and goes on if the project is connected again. Raises QueueError before anything is changed,
    and LabelStudioError.
    """
    try:
        stop_round(backend, project_id, PATIENCE)
        with (
            project_lease(backend, project_id, patience=PATIENCE) as is_ours,
            project_lease(backend, project_id, FINISH_LEASE, patience=LEFT_BEHIND) as finish_is_ours,
        ):
            if not (is_ours and finish_is_ours):
                raise QueueError(f"A round of project {project_id} has just started. Disconnect again.")
            if not keep_labels:
                yield from _undo_finishes(backend, project_id)
            yield from disconnect(backend, project_id)
        forget_state(backend.redis, project_id)
        for number in backend.store.numbers(project_id)[-1:]:  # so that connecting again publishes it
            with contextlib.suppress(StoreError):
                backend.store.open(project_id, number).mark_unpublished()
    except RedisError as error:
        raise _away(error) from error


def _undo_finishes(backend: Backend, project_id: int) -> Iterator[str]:
    """Undo the finishes; a worker completes what is cut off here, if the project is not disconnected."""
    for kind in Kind:
        try:
            session = read_session(backend.store, project_id, kind)
        except FinishError as error:
            yield f"{error} Its labels stay."
            continue
        if session is None:
            continue
        with contextlib.suppress(ProjectGone):  # then there is nothing to undo in Label Studio
            done = undo_now(backend, project_id, undo(backend, project_id, kind))
            yield f"{done[:1].upper()}{done[1:]}."


def refresh_images(backend: Backend, project_id: int) -> bool:
    """Start a round that reads all tasks and checks every image for a replaced file.

    Until that is done, on whatever host, each round begins with it. False, and no round, for a project that
    had none yet. Raises ProjectError, Unwritable, QueueError.
    """
    require_connected(backend.store, project_id)
    if project_id not in backend.store.projects():
        return False
    backend.store.refresh(project_id)
    request_round(backend, project_id, "images are to be checked", force=True)
    return True


def _away(error: RedisError) -> QueueError:
    return QueueError(f"Redis does not answer ({error}), so nothing was changed. Check that Redis runs.")
