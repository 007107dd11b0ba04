"""The lease of a project: a lock in Redis that a running process renews and a killed one loses
within 20 s.
"""

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator

from redis import Redis
from redis.exceptions import LockNotOwnedError, RedisError
from redis.lock import Lock
from rq import get_current_job

from coreset_backend.backend import Backend
from coreset_backend.jobs.keys import DAY, ROUND_LEASE, redis_key

log = logging.getLogger(__name__)
LEASE_SECONDS = 20
IsOurs = Callable[[], bool]


@contextlib.contextmanager
def project_lease(
    backend: Backend,
    project_id: int,
    name: str = ROUND_LEASE,
    *,
    patience: float = 0,
    give_up: Callable[[], bool] = lambda: False,
) -> Iterator[IsOurs | None]:
    """Hold a lease of the project while the block runs: acquired, renewed, and released at its end.

    Yields a function that returns whether this process still holds the lease and may raise RedisError.
    Yields None if another process still holds the lease after ``patience`` seconds or once ``give_up()``,
    called every second, is true.
    """
    lease: Lock = backend.redis.lock(redis_key(project_id, name), timeout=LEASE_SECONDS, thread_local=False)
    if not _acquired(lease, patience, give_up):
        yield None
        return
    with _renewed(backend.brief_redis, lease) as is_ours:
        yield is_ours


def _acquired(lease: Lock, patience: float, give_up: Callable[[], bool]) -> bool:
    job, deadline = get_current_job(), time.monotonic() + patience
    token = job.id if job else None
    while not lease.acquire(blocking_timeout=min(patience, 1), token=token):
        if time.monotonic() >= deadline or give_up():
            return False
    return True


@contextlib.contextmanager
def _renewed(brief_redis: Redis, lease: Lock) -> Iterator[IsOurs]:
    """Renew the lease while the block runs, then release it.

    A process that is stopped for longer than the lease lasts (a suspended machine) loses it to another
    process. The value of the lease alone does not show that, because a retried job has the same id.
    """
    done, redis, holder, mine = threading.Event(), lease.redis, f"{lease.name}-holder", secrets.token_bytes(8)

    def is_ours() -> bool:
        return brief_redis.get(holder) in (None, mine)

    def renew() -> None:
        while not done.wait(LEASE_SECONDS / 4):
            try:
                if not is_ours():
                    return
                try:
                    lease.reacquire()
                except LockNotOwnedError:  # Redis was unreachable for longer than the lease lasts
                    redis.set(lease.name, lease.local.token, nx=True, ex=LEASE_SECONDS)
            except RedisError as error:
                log.warning("the lease could not be renewed: %s", error)

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    try:
        redis.set(holder, mine, ex=DAY)
        thread.start()
        yield is_ours
    finally:
        done.set()
        if thread.is_alive():
            thread.join()
        with contextlib.suppress(RedisError):
            if is_ours():
                lease.release()
