"""Workers as Redis knows them, without a process."""

from coreset_backend.backend import Backend
from coreset_backend.jobs.monitoring import alive_key


def worker_listens(backend: Backend, name: str = "one") -> None:
    """Have Redis say that a worker lives, for as long as a test may take."""
    backend.redis.sadd(f"rq:workers:{backend.queue.name}", f"rq:worker:{name}")
    backend.redis.set(alive_key(name), "1", ex=3600)


def no_worker_listens(backend: Backend) -> None:
    """Have Redis say that the workers were killed a while ago."""
    backend.redis.delete(*backend.redis.scan_iter(alive_key("*")), alive_key("one"))
