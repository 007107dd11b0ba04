"""The phases of a round: how long each takes, and how far it is."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from coreset_backend.arrays import Progress, RoundWatch


@dataclass(slots=True)
class Clock:
    """Seconds by phase, and progress within each."""

    progress: RoundWatch
    timings: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[Progress]:
        """Add the time of the block; yields a callback (done, total) for progress within it."""
        started = time.monotonic()
        self.progress(name, 0, 0)
        yield lambda done, total: self.progress(name, done, total)
        self.timings[name] = round(self.timings.get(name, 0.0) + time.monotonic() - started, 3)

    def step(self, name: str) -> Progress:
        """What reports (done, total) of a phase that most rounds do without, and that is not timed."""
        return lambda done, total: self.progress(name, done, total)

    def __str__(self) -> str:
        return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.timings.items())
