"""Who may work on a project: a lock in Redis that a living process keeps and a killed one loses in 20 s."""

import contextlib
import logging
import secrets
import threading
from collections.abc import Callable, Iterator

from redis.exceptions import LockNotOwnedError, RedisError
from redis.lock import Lock

from coreset_backend.backend import Backend
from coreset_backend.jobs.progress import DAY, redis_key

log = logging.getLogger(__name__)
LEASE_SECONDS = 20


def project_lease(backend: Backend, project_id: int, name: str = "lease") -> Lock:
    """The lock to hold while writing to the project's rounds; its value is the id of the job that runs.

    ``name`` "pretraining-lease": to hold while writing to its pretraining.
    """
    lease: Lock = backend.redis.lock(redis_key(project_id, name), timeout=LEASE_SECONDS, thread_local=False)
    return lease


@contextlib.contextmanager
def kept_alive(backend: Backend, lease: Lock) -> Iterator[Callable[[], bool]]:
    """Renew the lease while the block runs; a killed process stops renewing and frees it in 20 s.

    The value given says whether no other process has been let in, because this one had stood still for longer
    than that, as on a machine that slept; it raises RedisError. The lease itself cannot tell: a job that is
    run again has the same id.
    """
    done, redis, holder, mine = threading.Event(), lease.redis, f"{lease.name}-holder", secrets.token_bytes(8)
    redis.set(holder, mine, ex=DAY)

    def is_ours() -> bool:
        return backend.brief_redis.get(holder) in (None, mine)

    def renew() -> None:
        while not done.wait(LEASE_SECONDS / 4):
            try:
                if not is_ours():
                    return
                try:
                    lease.reacquire()
                except LockNotOwnedError:  # Redis was away for longer than the lease lasts
                    redis.set(lease.name, lease.local.token, nx=True, ex=LEASE_SECONDS)
            except RedisError as error:
                log.warning("the lease could not be renewed: %s", error)

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield is_ours
    finally:
        done.set()
        thread.join()
        with contextlib.suppress(RedisError):
            if is_ours():
                lease.release()
