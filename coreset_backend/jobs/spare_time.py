"""What workers do for a project when no round waits: auditions of backbones; `tasks` has the pretraining."""

import contextlib
import logging

from coreset_backend.backend import Backend, open_backend
from coreset_backend.errors import CoresetError
from coreset_backend.jobs.keys import AUDITION_LEASE
from coreset_backend.jobs.lease import project_lease
from coreset_backend.jobs.queue import request_audition, request_pretraining
from coreset_backend.logs import set_log_context
from coreset_backend.rounds.audition import GivenWay, hold_audition, is_audition_due
from coreset_backend.rounds.features import may_pretrain
from coreset_backend.settings import read_settings
from coreset_backend.store.saved_round import StoredRound

log = logging.getLogger(__name__)


def audition_job(project_id: int) -> str:
    """The job: compare the backbones at hand on the project's labels, until a round waits, of any project.

    Returns in words what was done. Safe to run twice and at the same time.
    """
    set_log_context(project=project_id)
    backend = open_backend(read_settings(), patient=True)
    with (
        contextlib.closing(backend),
        project_lease(backend, project_id, AUDITION_LEASE) as is_ours,
    ):
        return _audition(backend, project_id) if is_ours else "another worker is at it"


def _audition(backend: Backend, project_id: int) -> str:
    """How it ended. What goes wrong is said in the log: the rounds stay with the backbone that they have."""
    try:
        held = hold_audition(backend.store, backend.settings, project_id, lambda: backend.jobs_waiting > 0)
    except GivenWay:
        request_audition(backend, project_id)
        return "a round waits"
    except (CoresetError, OSError, MemoryError) as error:
        log.error("project %d, audition: %s: %s", project_id, type(error).__name__, error)
        return f"{error}" or "memory ran out"
    if held is None:  # the next round asks again: it may bring labels, and images into the cache
        return "no audition is due, or too few of the labelled images are in the cache"
    if newest := backend.store.latest(project_id):
        request_spare_work(backend, newest)
    return held.sentence


def request_spare_work(backend: Backend, stored: StoredRound) -> None:
    """Ask for what the project of that round, its newest, can use when no round waits."""
    project_id = stored.record.project_id
    if is_audition_due(backend.store, backend.settings, stored):
        request_audition(backend, project_id)
    if may_pretrain(backend.store, backend.settings, stored):
        request_pretraining(backend, project_id)
