"""The parent's side of decoding: parallel child processes, and one memory budget for all of them."""

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from coreset_backend.arrays import Resize
from coreset_backend.decoding import machine
from coreset_backend.decoding.process import (
    ANSWER,
    COST,
    DENIAL,
    GRANT,
    INTERPOLATIONS,
    PIXELS,
    PRICE,
    REASON,
    REQUEST,
)
from coreset_backend.errors import ConfigError, ImageError

BYTES_A_PIXEL = 7.3
"""The memory budget of all decoding: bytes per pixel of the largest allowed image."""
MEMORY_SHARE = 0.25
"""The budget is at most this share of the memory of the machine or container."""
MOST_PROCESSES = 4
PATIENCE_SECONDS = 600.0
"""A child that is silent for longer counts as stuck; its own limits are in CPU time, of which it may get
little.
"""
_START_SECONDS = 120.0
_PIPE_BYTES = 1 << 20
_MODULE = "coreset_backend.decoding.process"
_CPU_SIGNALS = (signal.SIGPROF, signal.SIGXCPU)


class MemoryBudget:
    """Lends up to ``total`` bytes, first come, first served, so that large requests are not overtaken."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._lent = 0
        self._turn = threading.Lock()
        self._returned = threading.Condition()

    @contextlib.contextmanager
    def lent(self, count: int) -> Iterator[None]:
        """Wait until ``count`` bytes (at most ``total``) are free, and hold them during the block."""
        count = min(count, self.total)
        with self._turn, self._returned:
            self._returned.wait_for(lambda: self._lent + count <= self.total)
            self._lent += count
        try:
            yield
        finally:
            with self._returned:
                self._lent -= count
                self._returned.notify_all()


class _Ended(Exception):
    """The child ended, or was killed because it was stuck; ``code`` is subprocess's return code."""

    def __init__(self, code: int | None) -> None:
        super().__init__(code)
        self.code = code


class Decoders:
    """Up to ``processes`` child processes, started on demand. Safe to use from several threads."""

    def __init__(self, max_pixels: int, processes: int | None = None) -> None:
        self._max_pixels = max_pixels
        self._slots = threading.BoundedSemaphore(processes or min(machine.cores(), MOST_PROCESSES))
        self._memory = MemoryBudget(int(min(BYTES_A_PIXEL * max_pixels, MEMORY_SHARE * machine.memory())))
        self._idle: list[_Child] = []
        self._rests = 0
        self._lock = threading.Lock()
        self.warnings = 0
        """Number of the decoders' warnings so far; one file can cause thousands."""

    def pixels(self, data: bytes, resize: Resize) -> NDArray[np.uint8]:
        """``data`` as RGB pixels, uint8[size, size, 3]; raises ``ImageError`` with a reason.

        Raises ``ConfigError`` if no process can be started.
        """
        with self._slots:
            try:
                return self._asked(data, resize)
            except _Ended as ended:
                if ended.code != -signal.SIGKILL:
                    raise ImageError(_reason(ended.code)) from ended
            # Killed from outside, mostly by the kernel because other processes took the memory.
            try:
                return self._asked(data, resize)
            except _Ended as ended:
                raise ImageError(_reason(ended.code)) from ended

    def rest(self) -> None:
        """End the children, busy ones after their image; the next image starts one again."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._rests += 1
        for child in idle:
            child.end()

    def __enter__(self) -> "Decoders":
        return self

    def __exit__(self, *_: object) -> None:
        self.rest()

    def _asked(self, data: bytes, resize: Resize) -> NDArray[np.uint8]:
        with self._lock:
            child = self._idle.pop() if self._idle else None
            rests = self._rests
        child = child or _Child()
        try:
            kind, answer = self._conversation(child, data, resize)
        except BaseException:
            child.end()
            raise
        with self._lock:
            if kept := rests == self._rests:
                self._idle.append(child)
        if not kept:
            child.end()
        if kind != PIXELS:
            raise ImageError(answer.decode())
        return np.frombuffer(answer, np.uint8).reshape(resize.size, resize.size, 3)

    def _conversation(self, child: "_Child", data: bytes, resize: Resize) -> tuple[bytes, bytes]:
        place = INTERPOLATIONS.index(resize.interpolation)
        request = REQUEST.pack(resize.size, place, self._max_pixels, len(data))
        kind, said, answer = child.ask(request, data)
        if kind == COST:
            _, cost = PRICE.unpack(answer)
            if cost > self._memory.total:
                child.ask(DENIAL)
                return REASON, _too_costly(cost, self._memory.total).encode()
            with self._memory.lent(cost):
                kind, said, answer = child.ask(GRANT)
        with self._lock:
            self.warnings += said
        return kind, answer


class _Child:
    """One decoding process and the pipes to it. It ends when this process ends."""

    def __init__(self) -> None:
        try:
            self._process = subprocess.Popen(
                # -P: import nothing from the current folder.
                [sys.executable, "-P", "-m", _MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=_environment(),
            )
        except OSError as error:
            raise _not_started(str(error)) from error
        self._widen_pipe()
        try:
            self._answer(_START_SECONDS)
        except _Ended as ended:
            raise _not_started(self._last_words()) from ended
        except BaseException:
            self.end()
            raise

    def _widen_pipe(self) -> None:
        """Widen the pipe from the default of 64 kB, if the user's limit allows, to send a file
        in few pieces.
        """
        assert self._process.stdin
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._process.stdin.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def ask(self, *parts: bytes) -> tuple[bytes, int, bytes]:
        """(kind, warnings, body) of the answer; raises _Ended."""
        assert self._process.stdin
        try:
            for part in parts:
                _write(self._process.stdin.fileno(), part)
        except OSError:
            raise self._ended() from None
        return self._answer(PATIENCE_SECONDS)

    def end(self) -> None:
        """Kill the process and close its pipes."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe:
                pipe.close()

    def _answer(self, patience: float) -> tuple[bytes, int, bytes]:
        kind, said, length = ANSWER.unpack(self._read(ANSWER.size, patience))
        return kind, said, self._read(length, patience)

    def _read(self, count: int, patience: float) -> bytes:
        assert self._process.stdout
        stream, until = self._process.stdout.fileno(), time.monotonic() + patience
        answers, body = select.poll(), bytearray()
        answers.register(stream, select.POLLIN)
        while len(body) < count:
            ready = answers.poll(max(0.0, until - time.monotonic()) * 1000)
            part = os.read(stream, count - len(body)) if ready else b""
            if not part:
                raise self._ended()
            body += part
        return bytes(body)

    def _ended(self) -> _Ended:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return _Ended(self._process.wait(5))
        self._process.kill()
        self._process.wait()
        return _Ended(None)

    def _last_words(self) -> str:
        assert self._process.stderr
        self._process.kill()
        said = self._process.stderr.read().decode("utf-8", "replace").strip().splitlines()
        self.end()
        return said[-1] if said else "it gave no reason"


def _not_started(why: str) -> ConfigError:
    return ConfigError(f"The process that decodes images cannot be started ({why}).")


def _write(stream: int, part: bytes) -> None:
    view = memoryview(part)
    while view:
        view = view[os.write(stream, view) :]


def _environment() -> dict[str, str]:
    """The variables that Python needs to start, without secrets; one thread and one malloc arena."""
    known = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "LANG") if name in os.environ}
    return {**kept, **known, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}


def _too_costly(cost: int, allowed: int) -> str:
    return (
        f"decoding the image takes {cost / 1e6:.0f} MB of memory, more than the {allowed / 1e6:.0f} allowed; "
        "save it as an ordinary JPEG or smaller, or raise CORESET_IMAGE_MEGAPIXELS"
    )


def _reason(code: int | None) -> str:
    if code is None:
        return f"the decoder of the image did not answer for {PATIENCE_SECONDS:g} s"
    if -code in _CPU_SIGNALS:
        return "decoding the image takes more CPU time than allowed for its size; save it again"
    if code == -signal.SIGKILL:
        return "the decoder of the image was killed twice, usually because the machine ran out of memory"
    return f"the image file crashed its decoder ({_ending(code)}); save it again"


def _ending(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else f"status {code}"
    except ValueError:
        return f"signal {-code}"
