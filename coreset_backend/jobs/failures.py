"""Whatever ends a round, as one of our errors, which says what to do."""

import logging
import signal

from rq.timeouts import JobTimeoutException

from coreset_backend.backend import Backend
from coreset_backend.errors import CoresetError, OutOfMemory, StoreError, memory_ran_out

log = logging.getLogger(__name__)
OUT_OF_MEMORY = "The usual cause is that memory ran out: give the worker more, or lower CORESET_IMAGE_SIZE."
OVERDUE = "killed, for CORESET_JOB_TIMEOUT had passed"
DISK_FULL = "The usual cause is that the disk is full: make room below MODEL_DIR."


def explained(backend: Backend, error: Exception) -> CoresetError:
    """The error as one of ours; its traceback is logged where nobody foresaw it."""
    if isinstance(error, CoresetError):
        return error
    if memory_ran_out(error):
        return OutOfMemory(OUT_OF_MEMORY)
    if isinstance(error, JobTimeoutException):
        seconds = backend.settings.job_timeout
        return CoresetError(f"The round was given up after {seconds} s. Raise CORESET_JOB_TIMEOUT.")
    if isinstance(error, OSError):
        folder = backend.settings.model_dir.absolute()
        return StoreError(
            f"The round could not be saved below {folder}: {error.strerror or error}. Nothing of it "
            "was kept. Make room or mend the disk; the round is run again by itself."
        )
    log.exception("this was not foreseen")
    return CoresetError(
        f"An unexpected error ({type(error).__name__}: {error}). The worker's log has its traceback."
    )


def usual_cause(how: str) -> str:
    """Why a process may have ended so: SIGBUS is for a file in memory that has no room on the disk."""
    causes = {f"signal {signal.SIGBUS:d}": DISK_FULL, OVERDUE: "Raise it, or see what hangs."}
    return causes.get(how, OUT_OF_MEMORY)
