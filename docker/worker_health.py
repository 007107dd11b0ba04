"""Exit status 0 if the worker of this container has sent Redis a heartbeat of late, or Redis is away.

A worker cannot send any while Redis is away, and starting it again would not bring Redis back.
"""

import socket
import sys
from datetime import UTC, datetime, timedelta

from redis.exceptions import RedisError
from rq import Worker

from coreset_backend.backend import open_backend
from coreset_backend.settings import read_settings

LATEST = timedelta(seconds=60)


def beats(queue_workers: list[Worker], hostname: str, now: datetime) -> bool:
    """Whether a worker of this host is among them whose last heartbeat is recent."""
    return any(
        worker.hostname == hostname and worker.last_heartbeat and now - worker.last_heartbeat < LATEST
        for worker in queue_workers
    )


def main() -> str | None:
    """What is wrong with this container's worker; None when nothing is."""
    backend = open_backend(read_settings())
    try:
        workers = Worker.all(queue=backend.queue)
    except RedisError as error:
        sys.stderr.write(f"Redis does not answer: {error}\n")
        return None
    if beats(workers, socket.gethostname(), datetime.now(UTC)):
        return None
    return f"no worker of {socket.gethostname()} has sent a heartbeat in {LATEST.seconds} s"


if __name__ == "__main__":
    sys.exit(main())
