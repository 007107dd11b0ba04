"""A lease lets one process work on a project, and ends with the block that holds it, however that ends."""

from collections.abc import Callable

import pytest

from coreset_backend.backend import Backend
from coreset_backend.jobs.keys import PRETRAINING_LEASE, ROUND_LEASE, redis_key
from coreset_backend.jobs.lease import project_lease


def is_held(backend: Backend, name: str = ROUND_LEASE) -> bool:
    return bool(backend.redis.exists(redis_key(7, name)))


def test_one_at_a_time_and_each_project_and_kind_by_itself(make_backend: Callable[..., Backend]) -> None:
    backend = make_backend()
    with project_lease(backend, 7) as is_ours:
        assert is_ours and is_ours() and is_held(backend)
        with project_lease(backend, 7, patience=0.2) as second:
            assert second is None
        assert is_held(backend), "who does not get it leaves it to its holder"
        with project_lease(backend, 7, PRETRAINING_LEASE) as other, project_lease(backend, 8) as another:
            assert other and another
        assert not is_held(backend, PRETRAINING_LEASE)
    assert not is_held(backend)


def test_it_is_free_after_an_error(make_backend: Callable[..., Backend]) -> None:
    backend = make_backend()
    with pytest.raises(ValueError, match="in the middle"), project_lease(backend, 7):
        raise ValueError("in the middle")
    with project_lease(backend, 7) as is_ours:
        assert is_ours


def test_who_waits_gives_up_when_asked_to(make_backend: Callable[..., Backend]) -> None:
    backend = make_backend()
    asked: list[int] = []

    def give_up() -> bool:
        asked.append(1)
        return len(asked) == 2

    with project_lease(backend, 7), project_lease(backend, 7, patience=600, give_up=give_up) as second:
        assert second is None and len(asked) == 2


def test_who_was_passed_by_another_leaves_the_other_its_lease(make_backend: Callable[..., Backend]) -> None:
    backend = make_backend()
    with project_lease(backend, 7) as is_ours:
        assert is_ours
        backend.redis.delete(redis_key(7, ROUND_LEASE))  # as after standing still for longer than it lasts
        with project_lease(backend, 7) as other:
            assert other and other() and not is_ours()
            held = backend.redis.get(redis_key(7, ROUND_LEASE))
            assert held
        assert not is_ours()
