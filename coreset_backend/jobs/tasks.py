"""Rounds as jobs: ask for one, run it, look after what a lost webhook missed.

Redis holds, for each project, which job waits, who runs, and how far it is. All of it may be lost:
the truth about rounds is in the store, the truth about labels in Label Studio.
"""

import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial

from redis.exceptions import RedisError
from redis.lock import Lock
from rq import get_current_job

from coreset_backend.backend import Backend, open_backend
from coreset_backend.connection.publication import why_to_publish_again
from coreset_backend.errors import CoresetError, LabelStudioError, ProjectGone
from coreset_backend.jobs.lease import LEASE_SECONDS, kept_alive, project_lease
from coreset_backend.jobs.monitoring import count
from coreset_backend.jobs.outcome import answer_demands, explained, note_failure, settle
from coreset_backend.jobs.progress import DAY, PRETRAINING_LEASE, redis_key, reporter, write_idle
from coreset_backend.jobs.queue import (
    NEVER_ENDS,
    _job_id,
    _queue,
    _still_waits,
    forget_state,
    is_demanded,
    request_publication,
    request_round,
)
from coreset_backend.logs import about
from coreset_backend.rounds.features import is_left_behind, may_pretrain, request_pretraining, run_slice
from coreset_backend.settings import read_settings

log = logging.getLogger(__name__)

BUSY_RETRY_SECONDS = 5


def run_round_job(project_id: int) -> str:
    """The job: run a round if one is due or forced. Returns in words what was done.

    Safe to run twice and at the same time: a lease lets one job of a project in, the other comes back later.
    """
    about(project=project_id)
    backend = open_backend(read_settings(), patient=True)
    with contextlib.closing(backend):
        lease = project_lease(backend, project_id)
        if not _waited_for(backend, lease):
            job_id = _job_id(project_id, by_hand=is_demanded(backend, project_id))
            backend.redis.set(redis_key(project_id, "waiting"), job_id, ex=DAY)
            _queue(backend, project_id, job_id, BUSY_RETRY_SECONDS)
            return "another job of this project is running; waiting for it"
        with kept_alive(backend, lease) as is_ours:
            backend.redis.delete(redis_key(project_id, "waiting"))
            return _advance(backend, project_id, is_ours)


def _waited_for(backend: Backend, lease: Lock) -> bool:
    """Whether the lease could be had before a killed worker's would have run out; nobody waits who would hold
    up what a person has started of another project.
    """
    job, deadline = get_current_job(), time.monotonic() + LEASE_SECONDS + 5
    while time.monotonic() < deadline:
        if lease.acquire(blocking_timeout=1, token=job.id if job else None):
            return True
        if backend.first_queue.count:
            break
    return False


def _advance(backend: Backend, project_id: int, is_ours: Callable[[], bool]) -> str:
    from coreset_backend.rounds.due import round_due
    from coreset_backend.rounds.run import run_round

    forced: list[bytes] = backend.redis.lrange(redis_key(project_id, "demands"), 0, -1)  # type: ignore[assignment]
    held = backend.store.held(project_id)
    if backend.store.is_disconnected(project_id):
        return "the project is disconnected"
    try:
        if backend.redis.exists(redis_key(project_id, "republish")) and not forced:
            return _republish(backend, project_id, is_ours)
        if held and not forced:
            return held.reason
        reason = forced[-1].decode(errors="replace") if forced else round_due(backend, project_id)
        if reason is None:
            settle(backend, project_id)
            return "no round is due"
        log.info("project %d: a round starts: %s", project_id, reason)
        stored = run_round(backend, project_id, reporter(backend, project_id, reason, is_ours))
    except ProjectGone as error:
        return _forget(backend, project_id, error)
    except Exception as error:  # whatever it was, the state must say it
        with contextlib.suppress(RedisError):  # nobody else gets in without it either
            if not is_ours():  # then the state is the other's
                log.warning("project %d: another process has taken the round over: %s", project_id, error)
                return "another process has taken over"
        ours = explained(backend, error)
        note_failure(backend, project_id, ours, len(forced))
        raise ours from error
    count(backend, "coreset_rounds", str(project_id), "done", "")
    for phase, seconds in stored.record.timings.items():
        count(backend, "coreset_round_phase_seconds", phase, amount=seconds)
    answer_demands(backend, project_id, len(forced))
    if held and stored.record.number != held.number:
        backend.store.release(project_id)
    backend.redis.delete(*(redis_key(project_id, name) for name in ("unseen", "failures", "spared")))
    write_idle(backend, project_id)
    if may_pretrain(backend.settings, stored):
        request_pretraining(backend, project_id)
    return f"round {stored.record.number}: {reason}"


def _republish(backend: Backend, project_id: int, is_ours: Callable[[], bool]) -> str:
    from coreset_backend.rounds.run import publish_round

    stored = backend.store.latest(project_id, verified=True)
    if stored:
        progress = reporter(backend, project_id, "published again", is_ours)
        publish_round(backend, stored, partial(progress, "publish"))
    backend.redis.delete(redis_key(project_id, "republish"))
    write_idle(backend, project_id)
    return f"round {stored.record.number} is published again" if stored else "there is no round to publish"


def pretrain_job(project_id: int) -> str:
    """The job: a slice of the project's pretraining; until a round waits, whichever project's.

    Returns in words what was done. Safe to run twice and at the same time.
    """
    about(project=project_id)
    backend = open_backend(read_settings(), patient=True)
    with contextlib.closing(backend):
        lease, job = project_lease(backend, project_id, PRETRAINING_LEASE), get_current_job()
        if not lease.acquire(blocking=False, token=job.id if job else None):
            return "another worker is at it"
        with kept_alive(backend, lease):
            done = run_slice(backend, project_id)
        if done.better:
            request_round(backend, project_id, "features were learned on the pool")
        if done.goes_on:
            request_pretraining(backend, project_id)
    return done.told


def _forget(backend: Backend, project_id: int, error: ProjectGone) -> str:
    backend.store.forget(project_id)
    forget_state(backend, project_id)
    told = f"project {project_id} is gone from Label Studio, so it is put aside"
    log.warning("%s (%s)", told, error)
    return told


def _publish_what_was_lost(backend: Backend, project_id: int) -> None:
    """Have the batch published again where Label Studio does not serve it any more. Raises ProjectGone."""
    try:
        if why := why_to_publish_again(backend, project_id):
            log.warning("project %d: %s; it is published again", project_id, why)
            request_publication(backend, project_id, by_hand=False)
    except ProjectGone:
        raise
    except LabelStudioError as error:  # no round is wanted, so the state stays as it is
        log.warning("project %d: it is not known whether its batch is served: %s", project_id, error)


def reconcile_job() -> str:
    """The poll: ask for a round in every known project that may need one, webhook or no webhook.

    What a person has started goes first: the projects that are left wait for the next poll.
    """
    backend = open_backend(read_settings(), patient=True)
    asked = []
    with contextlib.closing(backend):
        for project_id, found in backend.of_each_project(partial(_look_after, backend)):
            if found is True:
                asked.append(project_id)
            elif isinstance(found, CoresetError):
                note_failure(backend, project_id, found)
            if backend.first_queue.count:
                break
        backend.store.empty_gone()
    return f"asked for rounds in {asked}" if asked else "nothing to do"


def _look_after(backend: Backend, project_id: int) -> bool:
    """Ask for what the project needs; whether that is a round."""
    from coreset_backend.rounds.due import round_due

    _drop_what_is_stuck(backend, project_id)
    if backend.redis.exists(redis_key(project_id, "lease"), redis_key(project_id, "spared")):
        return False
    try:
        automatic = backend.trigger_of(project_id) == "auto" and not backend.store.held(project_id)
        if is_demanded(backend, project_id) or (automatic and round_due(backend, project_id)):
            request_round(backend, project_id, "found by polling")
            return True
        if not backend.redis.exists(redis_key(project_id, "waiting")):
            if automatic:
                settle(backend, project_id)
            _publish_what_was_lost(backend, project_id)
        if is_left_behind(backend, project_id):
            request_pretraining(backend, project_id)
    except ProjectGone as error:
        _forget(backend, project_id, error)
    return False


def _drop_what_is_stuck(backend: Backend, project_id: int) -> None:
    """Remove keys that would stand in the way for good: each that we set ends by itself."""
    for name in ("lease", "waiting", "spared", "republish"):
        key = redis_key(project_id, name)
        if backend.redis.ttl(key) == NEVER_ENDS:
            log.error("%s in Redis would never end, so it is not ours; it is dropped", key)
            backend.redis.delete(key)
    waiting = redis_key(project_id, "waiting")
    if backend.redis.exists(waiting) and not _still_waits(backend, waiting):
        backend.redis.delete(waiting)
