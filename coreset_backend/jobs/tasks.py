"""The jobs: run a round, pretrain, poll for changes whose webhook was lost.

Redis holds for each project the waiting job, the running job and its progress. All of it may be lost: the
store is the source of truth for rounds, Label Studio for labels.
"""

import contextlib
import logging
from dataclasses import replace
from functools import partial

from redis import Redis
from redis.exceptions import RedisError

from coreset_backend.backend import Backend, open_backend
from coreset_backend.connection.publication import connection_remarks, why_to_publish_again
from coreset_backend.errors import BulkError, CoresetError, FinishError, LabelStudioError, ProjectGone
from coreset_backend.finish.bulk import advance_bulk
from coreset_backend.finish.session import is_queue_behind
from coreset_backend.finish.work import advance, has_work
from coreset_backend.jobs.bulk import has_bulk_work
from coreset_backend.jobs.keys import (
    BULK_LEASE,
    FINISH_LEASE,
    NEVER_ENDS,
    PRETRAINING_LEASE,
    ROUND_LEASE,
    redis_key,
)
from coreset_backend.jobs.lease import LEASE_SECONDS, IsOurs, project_lease
from coreset_backend.jobs.monitoring import count
from coreset_backend.jobs.outcome import answer_demands, explained, note_failure, settle
from coreset_backend.jobs.progress import (
    Labeling,
    PretrainingProgress,
    is_demanded,
    pretraining_reporter,
    read_progress,
    reporter,
    write_idle,
    write_pretraining,
    write_progress,
)
from coreset_backend.jobs.queue import (
    answering_publication,
    forget_state,
    note_publication,
    queue_again,
    request_pretraining,
    request_publication,
    request_round,
    still_waits,
)
from coreset_backend.jobs.spare_time import request_spare_work
from coreset_backend.logs import set_log_context
from coreset_backend.rounds.backbone import download_wanted, is_download_wanted
from coreset_backend.rounds.due import round_due
from coreset_backend.rounds.features import (
    features_at_hand,
    is_pretraining_unfinished,
    pretrain_slice,
)
from coreset_backend.rounds.publishing import publish_round
from coreset_backend.rounds.run import run_round
from coreset_backend.settings import read_settings
from coreset_backend.store.saved_round import StoredRound
from coreset_backend.store.store import Store

log = logging.getLogger(__name__)

BUSY_RETRY_SECONDS = 5


def run_round_job(project_id: int) -> str:
    """The job that runs a round if one is due or demanded. Returns in words what it did.

    May run twice at the same time: the lease admits one job of a project, the other is queued again.
    """
    set_log_context(project=project_id)
    backend = open_backend(read_settings(), patient=True)
    with contextlib.closing(backend):
        # Long enough for the lease of a killed worker to expire; not while a person's start of another
        # project is waiting.
        patience, give_up = LEASE_SECONDS + 5, lambda: bool(backend.high_priority_queue.count)
        with project_lease(backend, project_id, patience=patience, give_up=give_up) as is_ours:
            if is_ours:
                backend.redis.delete(redis_key(project_id, "waiting"))
                return _advance(backend, project_id, is_ours)
        queue_again(backend, project_id, BUSY_RETRY_SECONDS)
        return "another job of this project is running; waiting for it"


def _advance(backend: Backend, project_id: int, is_ours: IsOurs) -> str:
    """Do the project's next step; returns in words what was done."""
    demands: list[bytes] = backend.redis.lrange(redis_key(project_id, "demands"), 0, -1)  # type: ignore[assignment]
    try:
        if backend.store.is_disconnected(project_id):
            return "the project is disconnected"
        finished = _advance_finish(backend, project_id)
        finished = _advance_bulk(backend, project_id) or finished
        if demands:
            return _run(backend, project_id, demands[-1].decode(errors="replace"), len(demands), is_ours)
        if backend.redis.exists(redis_key(project_id, "republish")):
            return _republish(backend, project_id, is_ours)
        if held := backend.store.held(project_id):
            return held.reason
        if reason := _why_due(backend, project_id):
            return _run(backend, project_id, reason, 0, is_ours)
        settle(backend.redis, backend.store, project_id)
        return finished or "no round is due"
    except ProjectGone as error:
        return _forget(backend.redis, backend.store, project_id, error)
    except Exception as error:  # the state must report any error
        with contextlib.suppress(RedisError):  # without Redis no other process takes over
            if not is_ours():  # then the state belongs to the other process
                log.warning("project %d: another process has taken the round over: %s", project_id, error)
                return "another process has taken over"
        ours = explained(backend.settings, error)
        note_failure(backend, project_id, ours, len(demands))
        raise ours from error


def _advance_finish(backend: Backend, project_id: int) -> str:
    """Do what the project's finish needs, and have the queue published where that changes it; in words."""
    with project_lease(backend, project_id, FINISH_LEASE, patience=5) as is_ours:
        if not is_ours:  # a person changes it, and requests a job afterwards
            return ""
        try:
            done, changes_queue = advance(backend, project_id)
        except FinishError as error:  # the rounds go on without
            log.error("project %d: %s", project_id, error)
            return ""
    if changes_queue:
        note_publication(backend.redis, project_id)
    return done


def _advance_bulk(backend: Backend, project_id: int) -> str:
    """Write and undo labels in bulk until nothing is left to do; in words.

    Between the steps the lease is free, so that a person can undo a write while it runs.
    """
    done = ""
    while True:
        with project_lease(backend, project_id, BULK_LEASE, patience=5) as is_ours:
            try:
                step = advance_bulk(backend, project_id) if is_ours else ""
            except BulkError as error:  # the rounds go on without
                log.error("project %d: %s", project_id, error)
                return done
        if not step:
            return done
        done = step


def _run(backend: Backend, project_id: int, reason: str, demands: int, is_ours: IsOurs) -> str:
    """Run a round that answers the oldest ``demands`` demands for one."""
    log.info("project %d: a round starts: %s", project_id, reason)
    held = backend.store.held(project_id)
    watch = reporter(backend.brief_redis, project_id, reason, is_ours)
    with answering_publication(backend.redis, project_id):
        stored = run_round(backend, project_id, watch)
    note_connection(backend, stored)
    count(backend.redis, "coreset_rounds", str(project_id), "done", "")
    for phase, seconds in stored.record.timings.items():
        count(backend.redis, "coreset_round_phase_seconds", phase, amount=seconds)
    answer_demands(backend.redis, project_id, demands)
    if held and stored.record.number != held.number:
        backend.store.release(project_id)
    backend.redis.delete(*(redis_key(project_id, name) for name in ("unseen", "failures", "spared")))
    write_idle(backend.redis, project_id)
    request_spare_work(backend, stored)
    return f"round {stored.record.number}: {reason}"


def _why_due(backend: Backend, project_id: int) -> str | None:
    """Why a round is due, or None; writes to the state how much of the batch is labelled."""
    due = round_due(backend, project_id)
    if due.done is not None:
        labeling = Labeling(due.number, due.done)
        write_progress(backend.redis, project_id, lambda known: replace(known, labeling=labeling))
    return due.reason


def note_connection(backend: Backend, stored: StoredRound) -> None:
    """Write to the state why the published batch is not served, and which version it replaced."""
    remarks = connection_remarks(backend, stored)
    if remarks is not None:
        project_id, connection = stored.record.project_id, tuple(remarks)
        write_progress(backend.redis, project_id, lambda known: replace(known, connection=connection))


def _republish(backend: Backend, project_id: int, is_ours: IsOurs) -> str:
    progress = reporter(backend.brief_redis, project_id, "published again", is_ours)
    with answering_publication(backend.redis, project_id):
        stored = backend.store.latest(project_id, verified=True)
        if stored:
            publish_round(backend, stored, partial(progress, "publish"))
            note_connection(backend, stored)
    write_idle(backend.redis, project_id)
    return f"round {stored.record.number} is published again" if stored else "there is no round to publish"


def pretrain_job(project_id: int) -> str:
    """The job of spare time: weights that could not be downloaded, else a slice of the project's pretraining,
    until a round of any project is waiting.

    Returns in words what it did. May run twice at the same time.
    """
    set_log_context(project=project_id)
    backend = open_backend(read_settings(), patient=True)
    with contextlib.closing(backend):
        before = features_at_hand(backend.store, project_id)
        with project_lease(backend, project_id, PRETRAINING_LEASE) as is_ours:
            if not is_ours:
                return "another worker is pretraining it"
            if is_download_wanted(backend.store, backend.settings, project_id):
                return download_wanted(backend.store, project_id)
            told, goes_on = _pretrain(backend, project_id)
        if features_at_hand(backend.store, project_id) != before:
            _use_new_features(backend, project_id)
        if goes_on:
            request_pretraining(backend, project_id)
    return told


def _use_new_features(backend: Backend, project_id: int) -> None:
    """Have features that were just learned on the pool used, or compared with what is in use."""
    newest = backend.store.latest(project_id)
    if newest and backend.settings.labels_choose_backbone:
        request_spare_work(backend, newest)
    else:
        request_round(backend, project_id, "features were learned on the pool")


def _pretrain(backend: Backend, project_id: int) -> tuple[str, bool]:
    """The result of a slice in words, and whether more slices are needed.

    Log and state report errors; rounds continue without the features.
    """
    report = pretraining_reporter(backend.redis, project_id)
    try:
        state = pretrain_slice(
            backend.store, backend.settings, project_id, report, lambda: backend.jobs_waiting > 0
        )
    except (CoresetError, OSError, MemoryError) as error:
        why = f"{error}" or "memory ran out"
        log.error("project %d, pretraining: %s: %s", project_id, type(error).__name__, why)
        write_pretraining(backend.redis, project_id, lambda known: replace(known, state="failed", error=why))
        return why, False
    if state is None:
        return "there is nothing to pretrain", False
    reached = PretrainingProgress(
        state="done" if state.finished else "waiting",
        images=state.images,
        seen=state.seen,
        budget=state.budget,
    )
    write_pretraining(backend.redis, project_id, lambda _: reached)
    if state.finished:
        log.info("project %d: pretrained on %d images in %.0f s", project_id, state.images, state.seconds)
    return f"{state.seen} of {state.budget} images seen", not state.finished


def is_pretraining_left_behind(redis: Redis, store: Store, project_id: int) -> bool:
    """Whether a first pretraining was started and has no job, for example because Redis lost it.

    A failed pretraining is not continued until the next round.
    """
    if not is_pretraining_unfinished(store, project_id):
        return False
    known = read_progress(redis, store, project_id).pretraining
    return known is None or known.state not in ("running", "failed")


def _forget(redis: Redis, store: Store, project_id: int, error: ProjectGone) -> str:
    store.forget(project_id)
    forget_state(redis, project_id)
    told = f"project {project_id} was deleted in Label Studio, so its folder is moved to gone/"
    log.warning("%s (%s)", told, error)
    return told


def _publish_what_was_lost(backend: Backend, project_id: int) -> None:
    """Request that the batch is published again if Label Studio does not serve it as it should be served.

    Raises ProjectGone.
    """
    try:
        why = _why_to_publish(backend, project_id)
        newest = backend.store.latest(project_id)
        written = read_progress(backend.redis, backend.store, project_id).written
        if newest and written.connection:  # the problem may be solved by now
            note_connection(backend, newest)
        if why:
            log.warning("project %d: %s; it is published again", project_id, why)
            request_publication(backend, project_id, by_hand=False)
    except ProjectGone:
        raise
    except LabelStudioError as error:  # no round is needed, so the state stays
        log.warning("project %d: whether its batch is served could not be checked: %s", project_id, error)


def _why_to_publish(backend: Backend, project_id: int) -> str | None:
    if backend.redis.exists(redis_key(project_id, "republish")):
        return "the job that was to publish its batch again is gone"
    if is_queue_behind(backend.store, project_id):
        return "a finish changed after its batch was published"
    newest, held = backend.store.latest(project_id), backend.store.held(project_id)
    if newest and held and held.number == newest.record.number and newest.publication is None:
        return "the job that was to publish the round that was rolled back to is gone"
    return why_to_publish_again(backend, project_id)


def reconcile_job() -> str:
    """The poll: requests a round for every known project that may need one, with or without a webhook.

    A round that a person started goes first: the remaining projects wait for the next poll.
    """
    backend = open_backend(read_settings(), patient=True)
    asked = []
    with contextlib.closing(backend):
        for project_id, found in backend.of_each_project(partial(_look_after, backend)):
            if found is True:
                asked.append(project_id)
            elif isinstance(found, CoresetError):
                note_failure(backend, project_id, found)
            if backend.high_priority_queue.count:
                break
        backend.store.empty_gone()
    return f"requested rounds in {asked}" if asked else "nothing to do"


def _look_after(backend: Backend, project_id: int) -> bool:
    """Request what the project needs; returns whether that is a round."""
    _drop_what_is_stuck(backend, project_id)
    if backend.redis.exists(redis_key(project_id, ROUND_LEASE), redis_key(project_id, "spared")):
        return False
    try:
        automatic = backend.trigger_of(project_id) == "auto" and not backend.store.held(project_id)
        if is_demanded(backend.redis, project_id) or (automatic and _why_due(backend, project_id)):
            request_round(backend, project_id, "found by polling")
            return True
        if not backend.redis.exists(redis_key(project_id, "waiting")):
            if automatic:
                settle(backend.redis, backend.store, project_id)
            _publish_what_was_lost(backend, project_id)
            _resume_labels(backend, project_id)
        left_behind = is_pretraining_left_behind(backend.redis, backend.store, project_id)
        if left_behind or is_download_wanted(backend.store, backend.settings, project_id):
            request_pretraining(backend, project_id)
    except ProjectGone as error:
        _forget(backend.redis, backend.store, project_id, error)
    return False


def _resume_labels(backend: Backend, project_id: int) -> None:
    """Request a job for labels, by the model or in bulk, that a killed worker left behind."""
    try:
        if has_bulk_work(backend, project_id):
            request_round(backend, project_id, "labels in bulk go on")
        elif has_work(backend, project_id):
            request_round(backend, project_id, "the finish goes on")
    except ProjectGone:
        raise
    except (BulkError, FinishError, LabelStudioError) as error:
        log.warning("project %d: the state of its labels is unknown: %s", project_id, error)


def _drop_what_is_stuck(backend: Backend, project_id: int) -> None:
    """Remove keys that would block the project forever: every key that this backend sets expires."""
    for name in (ROUND_LEASE, FINISH_LEASE, BULK_LEASE, "waiting", "spared", "republish"):
        key = redis_key(project_id, name)
        if backend.redis.ttl(key) == NEVER_ENDS:
            log.error(
                "%s in Redis would never expire, so it was not written by this backend; it is deleted", key
            )
            backend.redis.delete(key)
    waiting = redis_key(project_id, "waiting")
    if backend.redis.exists(waiting) and not still_waits(backend, waiting):
        backend.redis.delete(waiting)
