"""Which failures are tried again by the queue, which make the poll back off, and which wait for a person."""

import inspect
from collections.abc import Callable

import pytest

from coreset_backend import errors
from coreset_backend.backend import Backend
from coreset_backend.errors import (
    ConfigError,
    CoresetError,
    CorruptFile,
    EmptyPool,
    NotFinite,
    TooManyImageFailures,
    Unreachable,
)
from coreset_backend.jobs.keys import redis_key
from coreset_backend.jobs.outcome import LONGEST_PAUSE, RETRIES, RetryPolicy, note_failure, retry_policy


@pytest.mark.parametrize(
    ("error", "by_queue", "backs_off"),
    [
        (Unreachable("Nobody answers."), True, False),
        (TooManyImageFailures(0.9, "No image came."), True, True),
        (CorruptFile("x", "it is cut off"), True, True),
        (EmptyPool("No tasks."), False, False),
        (ConfigError("Unknown."), False, True),
        (NotFinite("The loss is not finite."), False, True),
    ],
)
def test_the_policy_of_an_error(error: CoresetError, by_queue: bool, backs_off: bool) -> None:
    assert retry_policy(error) == RetryPolicy(by_queue, backs_off)


def test_every_error_has_one_policy_and_no_row_hides_another() -> None:
    kinds = [kind for kind, _ in RETRIES]
    for place, kind in enumerate(kinds):
        assert not any(issubclass(kind, before) for before in kinds[:place]), f"{kind} is never reached"
    ours = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, CoresetError)]
    assert all(issubclass(kind, tuple(kinds)) for kind in ours)


def test_the_poll_backs_off_for_twice_as_long_at_each_failure(make_backend: Callable[..., Backend]) -> None:
    backend = make_backend()

    def pause(error: CoresetError) -> int:
        note_failure(backend, 7, error)
        return int(backend.redis.ttl(redis_key(7, "spared")))

    assert pause(Unreachable("Nobody answers.")) < 0
    pauses = [pause(NotFinite("The loss is not finite.")) for _ in range(8)]
    for found, wanted in zip(
        pauses, [60, 120, 240, 480, 960, 1920, LONGEST_PAUSE, LONGEST_PAUSE], strict=True
    ):
        assert wanted - 30 < found <= wanted
