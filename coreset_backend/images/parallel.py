"""The same work on many items in a few threads, with few of them waiting."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_WAITING = 4  # jobs in the queue per thread


def in_threads(
    count: int, work: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[tuple[Item, Result]]:
    """Each item with the result of ``work``, as they are done; what ``work`` raises is raised."""
    waiting = iter(items)
    threads = ThreadPoolExecutor(count, thread_name_prefix="images")

    def start(count: int) -> dict[Future[Result], Item]:
        return {threads.submit(work, item): item for item in itertools.islice(waiting, count)}

    running = start(count * _WAITING)
    try:
        while running:
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield running.pop(future), future.result()
            running |= start(len(finished))
    finally:
        # No wait: a person who cancels a round should not wait for the slowest server.
        threads.shutdown(wait=False, cancel_futures=True)
