"""Who may work on a project: a lock in Redis that a living process keeps and a killed one loses in 20 s."""

import contextlib
import logging
import threading
from collections.abc import Iterator

from redis.exceptions import LockError, LockNotOwnedError, RedisError
from redis.lock import Lock

from coreset_backend.backend import Backend
from coreset_backend.progress import redis_key

log = logging.getLogger(__name__)
LEASE_SECONDS = 20


def project_lease(backend: Backend, project_id: int, name: str = "lease") -> Lock:
    """The lock to hold while writing to the project's rounds; its value is the id of the job that runs.

    ``name`` "pretraining-lease": to hold while writing to its pretraining.
    """
    lease: Lock = backend.redis.lock(redis_key(project_id, name), timeout=LEASE_SECONDS, thread_local=False)
    return lease


@contextlib.contextmanager
def kept_alive(lease: Lock) -> Iterator[None]:
    """Renew the lease while the block runs; a killed process stops renewing and frees it in 20 s."""
    done = threading.Event()

    def renew() -> None:
        while not done.wait(LEASE_SECONDS / 4):
            try:
                lease.reacquire()
            except LockNotOwnedError:  # Redis was away for longer than the lease lasts
                if not lease.redis.set(lease.name, lease.local.token, nx=True, ex=LEASE_SECONDS):
                    log.error("another job has taken over; what this one saves is refused or the same")
            except (LockError, RedisError) as error:
                log.warning("the lease could not be renewed: %s", error)

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with contextlib.suppress(LockError, RedisError):
            lease.release()
