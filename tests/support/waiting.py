"""Waiting for what other processes do, without a sleep of a guessed length."""

import time
from collections.abc import Callable
from typing import Any

import pytest


def wait_until(look: Callable[[], Any], what: str, seconds: float = 120.0, pause: float = 0.2) -> Any:
    """The first true value of ``look``, asked for again and again; fails after ``seconds``.

    A short ``pause`` is for what may be true for a moment only.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := look():
            return value
        time.sleep(pause)
    pytest.fail(f"waited {seconds:.0f} s in vain for {what}")
