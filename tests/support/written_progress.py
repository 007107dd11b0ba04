"""Progress as a job would write it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

T = TypeVar("T", bound=Any)


def changed(**news: object) -> Callable[[T], T]:
    """What makes of the progress so far one with these fields changed."""
    return lambda known: replace(known, **news)
