"""What a person does to rounds: cancel one, publish one again, roll back to an earlier one."""

import contextlib
from collections.abc import Iterator

from redis.exceptions import RedisError

from coreset_backend.backend import Backend
from coreset_backend.connection.connect import disconnect
from coreset_backend.errors import ProjectError, QueueError, RoundNotFound, StoreError
from coreset_backend.jobs.lease import project_lease
from coreset_backend.jobs.queue import forget_state, request_publication, request_round, stop_round
from coreset_backend.store.store import Store

PATIENCE = 10.0


def cancel_round(backend: Backend, project_id: int) -> bool:
    """End the running round and drop the waiting one, within ten seconds; False if there was neither.

    Annotators keep the batch they have. No round starts by itself until a person starts one. Raises
    QueueError when Redis or the worker does not react.
    """
    stopped, held = False, backend.store.held(project_id)
    if held is None:  # before the stop, or a job that waits could begin just after it
        backend.store.hold(project_id, "The last round was cancelled by hand.")
    try:
        stopped = stop_round(backend, project_id, PATIENCE)
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
            f"`coreset-backend connect --project {project_id}` goes on where it was."
        )


def publish_again(backend: Backend, project_id: int) -> bool:
    """Publish the current batch again, as after Label Studio was restored from a backup.

    True if a job was queued for it, False if one waits. Raises RoundNotFound and QueueError.
    """
    require_connected(backend.store, project_id)
    if backend.store.latest(project_id) is None:
        raise RoundNotFound(f"Project {project_id} has no round to publish yet. Start one.")
    try:
        return request_publication(backend, project_id)
    except RedisError as error:
        raise _away(error) from error


def roll_back(backend: Backend, project_id: int, number: int) -> None:
    """Make round ``number`` the current one again: its batch is served, its model answers.

    Later rounds are kept. A running round is cancelled, and none starts by itself until a person starts
    one. Raises RoundNotFound, CorruptRound and Unwritable before anything is changed, and QueueError.
    """
    require_connected(backend.store, project_id)
    stored = backend.store.open(project_id, number)
    stored.verify()
    try:
        stop_round(backend, project_id, PATIENCE)
        with project_lease(backend, project_id, patience=PATIENCE) as is_ours:
            if not is_ours:
                raise QueueError(f"A round of project {project_id} has just begun. Roll back once more.")
            backend.store.hold(project_id, f"Rolled back to round {number} by hand.", number)
            stored.mark_unpublished()
        request_publication(backend, project_id)
    except RedisError as error:
        raise _away(error) from error


def disconnect_project(backend: Backend, project_id: int) -> Iterator[str]:
    """Cancel its round, undo in Label Studio all that connect and the rounds did, and forget the connection.

    Yields a sentence for each thing done or left; harmless where nothing is left to undo. Rounds stay in the
    store. Raises QueueError before anything is changed, and LabelStudioError.
    """
    try:
        stop_round(backend, project_id, PATIENCE)
        with project_lease(backend, project_id, patience=PATIENCE) as is_ours:
            if not is_ours:
                raise QueueError(f"A round of project {project_id} has just begun. Disconnect once more.")
            yield from disconnect(backend.label_studio, backend.store, project_id, url=backend.settings.url)
        forget_state(backend.redis, project_id)
        for number in backend.store.numbers(project_id)[-1:]:  # so that connecting again publishes it
            with contextlib.suppress(StoreError):
                backend.store.open(project_id, number).mark_unpublished()
    except RedisError as error:
        raise _away(error) from error


def refresh_images(backend: Backend, project_id: int) -> int:
    """Let the next round ask for every image whether its file was replaced; how many are known.

    The round starts soon; none is asked for where no image is known yet. Raises LabelStudioError, QueueError.
    """
    snapshot = backend.label_studio.fetch_snapshot(project_id)
    count = backend.images.ask_again(task.uri for task in snapshot.tasks)
    if count:
        request_round(backend, project_id, "images are to be read again", force=True)
    return count


def _away(error: RedisError) -> QueueError:
    return QueueError(f"Redis does not answer ({error}), so nothing was changed. Is it running?")
