"""Counts wrong credentials by caller: after ten different ones within a minute, the caller has to wait.

The counts are in this process's memory, so they do not need Redis.
"""

import hashlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

WRONG_GUESSES = 10
WINDOW_S = 60.0
KNOWN_S = 24 * 3600.0
REMEMBERED_CALLERS = 10_000


@dataclass(slots=True)
class Wrong:
    """The wrong credentials of one caller since ``since``: their number, and the different ones (hashed)."""

    since: float
    times: int = 0
    guesses: set[bytes] = field(default_factory=set)


class Throttle:
    """Wrong credentials by caller, for a minute each; safe to use from several threads.

    After ten different wrong credentials a caller is refused until the minute is over, right credentials
    included. The same wrong credential again does not count: a Label Studio or a script with an old password
    must not lock out others behind its address. If the right credential came from the caller within a day,
    it is always accepted: nobody who shares an address with Label Studio can lock it out by guessing.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._callers: OrderedDict[str, Wrong] = OrderedDict()
        self._right: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def seconds_shut(self, caller: str) -> float:
        """Seconds for which the caller is refused; 0 if it is not."""
        with self._lock:
            wrongs = self._current(caller)
            return self._left(wrongs) if len(wrongs.guesses) >= WRONG_GUESSES else 0.0

    def note_right(self, caller: str) -> None:
        """Remember that the right credential came from there."""
        with self._lock:
            self._right[caller] = self._clock()
            self._right.move_to_end(caller)
            if len(self._right) > REMEMBERED_CALLERS:
                self._right.popitem(last=False)

    def knows(self, caller: str) -> bool:
        """Whether the right credential came from there within a day."""
        with self._lock:
            return self._clock() < self._right.get(caller, -math.inf) + KNOWN_S

    def note_wrong(self, caller: str, credential: bytes) -> float:
        """Count a wrong credential; returns the seconds to wait after more than ten, else 0."""
        with self._lock:
            wrongs = self._current(caller)
            wrongs.times += 1
            if len(wrongs.guesses) < WRONG_GUESSES:
                wrongs.guesses.add(hashlib.sha256(credential).digest())
            return self._left(wrongs) if wrongs.times > WRONG_GUESSES else 0.0

    def _left(self, wrongs: Wrong) -> float:
        return max(wrongs.since + WINDOW_S - self._clock(), 1.0)

    def _current(self, caller: str) -> Wrong:
        wrongs = self._callers.pop(caller, None)
        if wrongs is None or self._clock() >= wrongs.since + WINDOW_S:
            wrongs = Wrong(self._clock())
        self._callers[caller] = wrongs
        if len(self._callers) > REMEMBERED_CALLERS:
            self._callers.popitem(last=False)
        return wrongs
