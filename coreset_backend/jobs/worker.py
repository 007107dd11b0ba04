"""The worker: RQ's worker that also notices a killed process within seconds, polls, and logs failures in one
line.
"""

import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
from functools import partial
from resource import struct_rusage

from redis.client import Pipeline
from redis.exceptions import OutOfMemoryError
from rq import Queue, Worker
from rq.exceptions import AbandonedJobError, DeserializationError
from rq.executions import Execution
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from coreset_backend.backend import Backend, OurJob, OurQueue
from coreset_backend.errors import CoresetError, memory_ran_out
from coreset_backend.jobs import tasks  # noqa: F401  # loads torch here, once: each job is forked from here
from coreset_backend.jobs.keys import AUDITION_JOB, NEVER_ENDS, PRETRAINING_JOB, RECONCILE_JOB, ROUND_JOB
from coreset_backend.jobs.monitoring import HEARTBEAT_SECONDS, alive_key
from coreset_backend.jobs.outcome import OVERDUE, free_lease, note_lost_process
from coreset_backend.redaction import redacted

log = logging.getLogger(__name__)
PR_SET_PDEATHSIG = 1
FULL_PAUSE = 5.0
POLL_KEY = "coreset:poll"
"""Exists while no poll is due; it expires when one is."""
NICENESS = 10
"""A round computes for minutes; on shared cores the web's answers go first: Label Studio waits one second."""


class RoundWorker(Worker):
    """RQ's worker with a short heartbeat and a poll; the project's state reports a killed child process."""

    backend: Backend
    poll_seconds = 60.0
    _next_maintenance = 0.0

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run only this backend's functions; otherwise anybody who can write to Redis could run
        any function.
        """
        if is_ours(job):
            super().execute_job(job, queue)
        else:
            log.error("job %.60r asks for a function that is not this backend's; it is dropped", job.id)
            job.delete()

    def main_work_horse(self, job: Job, queue: Queue) -> None:
        os.nice(NICENESS)
        super().main_work_horse(job, queue)

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        super().heartbeat(timeout, pipeline)
        connection = self.connection if pipeline is None else pipeline
        connection.set(alive_key(self.name), "1", ex=HEARTBEAT_SECONDS)

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        return int(self.job_monitoring_interval) + 10

    @property
    def dequeue_timeout(self) -> int:
        return 5

    @property
    def should_run_maintenance_tasks(self) -> bool:
        """Every five seconds by the monotonic clock; RQ uses the wall clock."""
        due = time.monotonic() >= self._next_maintenance
        if due:
            self._next_maintenance = time.monotonic() + self.maintenance_interval
        return due

    def handle_exception(self, job: Job, *exc_info: object) -> None:
        """Do not log a CoresetError again: it was logged where it happened.

        If there is no memory left to report an error, end the process: its parent reports that.
        """
        error = exc_info[1]
        if isinstance(error, CoresetError):
            return
        if isinstance(error, Exception) and memory_ran_out(error):
            os._exit(1)
        super().handle_exception(job, *exc_info)

    def handle_job_failure(
        self,
        job: Job,
        queue: Queue,
        started_job_registry: StartedJobRegistry | None = None,
        exc_string: str = "",
        execution: Execution | None = None,
    ) -> None:
        """Like RQ's method, but without the traceback, which RQ keeps in Redis with all that libraries quote.

        A failed round that a person started is retried behind rounds that other people started.
        """
        behind = self.backend.queue if queue == self.backend.high_priority_queue else queue
        super().handle_job_failure(job, behind, started_job_registry, redacted(exc_string), execution)

    def wait_for_horse(self) -> tuple[int | None, int | None, struct_rusage | None]:
        """Like RQ's method, which loses the exit status if its five-second alarm rings at that moment."""
        with contextlib.suppress(ChildProcessError):  # the alarm may ring here: nothing was read yet
            os.waitid(os.P_PID, self.horse_pid, os.WEXITED | os.WNOWAIT)
        signal.alarm(0)
        return super().wait_for_horse()

    def handle_work_horse_killed(self, job: Job, retpid: int, ret_val: int | None, rusage: object) -> None:
        """Write to the state how the process ended; ``ret_val`` is None if RQ killed it for its timeout."""
        _note_in_child(self.backend, job, OVERDUE if ret_val is None else _ending(ret_val), dead=True)

    def _handle_stopped_job(self, job: Job, queue: Queue, execution: Execution) -> None:
        super()._handle_stopped_job(job, queue, execution)
        free_lease(self.backend.redis, job)
        log.info("project %s: its round was cancelled", job.args[0] if job.args else "?")

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        try:
            super().maintain_heartbeats(job, execution)
        except OutOfMemoryError as error:  # a full Redis must not end a round that does not need it
            log.warning("Redis is full (%s); the round continues", error)

    def shorten_wait_for_poll(self) -> None:
        """Apply a CORESET_POLL_SECONDS that is shorter than the one of the current wait."""
        longest = int(self.poll_seconds * 1000)
        if self.connection.pttl(POLL_KEY) > longest:
            self.connection.pexpire(POLL_KEY, longest)

    def run_maintenance_tasks(self) -> None:
        super().run_maintenance_tasks()  # type: ignore[no-untyped-call]
        # The key lets only one of all workers poll, once per period.
        if self.connection.set(POLL_KEY, "1", nx=True, px=int(self.poll_seconds * 1000)):
            self.backend.queue.enqueue(RECONCILE_JOB, result_ttl=60, failure_ttl=3600, job_timeout=600)
        elif self.connection.ttl(POLL_KEY) == NEVER_ENDS:  # then this backend did not write it
            self.connection.delete(POLL_KEY)


def is_ours(job: Job) -> bool:
    """Whether the job calls one of this backend's functions with valid arguments."""
    try:
        called = job.func_name, [type(value) for value in job.args], job.instance, job.kwargs
    except (DeserializationError, TypeError, ValueError):
        return False
    return called in (
        (ROUND_JOB, [int], None, {}),
        (AUDITION_JOB, [int], None, {}),
        (PRETRAINING_JOB, [int], None, {}),
        (RECONCILE_JOB, [], None, {}),
    )


def _ending(wait_status: int) -> str:
    code = os.waitstatus_to_exitcode(wait_status)
    return f"signal {-code}" if code < 0 else f"status {code}"


def _abandoned(backend: Backend, job: Job, kind: type[BaseException], *_: object) -> None:
    """Called by RQ for a job whose worker sends no heartbeat any more."""
    if kind is AbandonedJobError and is_ours(job):
        _note_in_child(backend, job, "its worker was killed", dead=False)


def _note_in_child(backend: Backend, job: Job, how: str, *, dead: bool) -> None:
    """In a child, since a process that has used a bucket must not fork, and the worker forks each job."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        note_lost_process(backend, job, how, dead=dead)
    except Exception:
        log.exception("the end of job %s was not noted", job.id)
    finally:
        os._exit(0)


def work(backend: Backend) -> None:
    """Run rounds until the process is told to stop."""
    if sys.platform == "linux":
        # Else the child of a killed worker continues while its job is retried, and RQ's scheduler forever.
        os.register_at_fork(after_in_child=partial(ctypes.CDLL(None).prctl, PR_SET_PDEATHSIG, signal.SIGKILL))
    while True:
        try:
            _work(backend)
            return
        except OutOfMemoryError as error:
            log.error("Redis is full (%s): no round can run until it has room", error)
            time.sleep(FULL_PAUSE)


def _work(backend: Backend) -> None:
    worker = RoundWorker(
        [backend.high_priority_queue, backend.queue, backend.low_priority_queue],
        connection=backend.redis,
        job_class=OurJob,
        queue_class=OurQueue,
        serializer=JSONSerializer,
        worker_ttl=30,
        maintenance_interval=5,
        job_monitoring_interval=5,
        exception_handlers=[partial(_abandoned, backend)],
    )
    worker.backend = backend
    worker.poll_seconds = backend.settings.poll_seconds
    worker.shorten_wait_for_poll()
    # RQ logs two lines every five seconds, at each check of its registries.
    worker.work(with_scheduler=True, logging_level="WARNING")
