"""The decoding child process: it decodes one file after another from its standard input, within limits.

A request is ``REQUEST`` and the file. An answer is ``ANSWER`` and as many bytes: the COST of decoding it, the
PIXELS, or the REASON why there are none. After COST the parent sends GRANT when there is room, or DENIAL.
"""

import os
import resource
import signal
import struct
import sys
import warnings
from pathlib import Path
from typing import BinaryIO, get_args

from coreset_backend.arrays import Interpolation, Resize
from coreset_backend.decoding.pixels import decoded_pixels
from coreset_backend.errors import ImageError

REQUEST = struct.Struct("<IBQQ")  # size, place in INTERPOLATIONS, max_pixels, length of the file
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
ANSWER = struct.Struct("<cIQ")  # kind, warnings of the decoder, length
COST, PIXELS, REASON = b"c", b"p", b"r"
PRICE = struct.Struct("<QQ")  # pixels, bytes
GRANT, DENIAL = b"g", b"d"
HEADER_BYTES = 16_000_000
"""Memory for reading a file's header, in addition to two copies of the file."""
SLACK_BYTES = 24_000_000
HEADER_SECONDS = 3.0
SECONDS_A_MEGAPIXEL = 0.3


def main() -> None:
    """Decode files until the parent closes the pipe or ends."""
    requests, answers = os.fdopen(os.dup(0), "rb", -1), os.fdopen(os.dup(1), "wb", 0)
    _give_up_rights()
    answers.write(ANSWER.pack(REASON, 0, 0))  # ready
    _silence()
    while len(head := requests.read(REQUEST.size)) == REQUEST.size:
        size, place, max_pixels, length = REQUEST.unpack(head)
        _limit(HEADER_BYTES + 2 * length, HEADER_SECONDS)
        data = requests.read(length)
        kind, said, answer = _decoded(
            data, Resize(size, INTERPOLATIONS[place]), max_pixels, requests, answers
        )
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(ANSWER.pack(kind, said, len(answer)) + answer)


def _give_up_rights() -> None:
    """Give up writing files and core dumps, so that a compromised decoder cannot use them."""
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(limit, (0, 0))


def _silence() -> None:
    """Discard the decoders' output: libtiff writes megabytes, and standard output carries the answers."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)


def _limit(memory: int, seconds: float) -> None:
    """Limit this process to ``seconds`` of CPU time and to ``memory`` bytes more than it has now."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_bytes().split()[0])
        most = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def _decoded(
    data: bytes, resize: Resize, max_pixels: int, requests: BinaryIO, answers: BinaryIO
) -> tuple[bytes, int, bytes]:
    """(PIXELS or REASON, warnings, the bytes of it)."""

    def admit(pixels: int, cost: int) -> None:
        answers.write(ANSWER.pack(COST, 0, PRICE.size) + PRICE.pack(pixels, cost))
        if requests.read(1) != GRANT:
            raise ImageError("denied")
        _limit(cost + SLACK_BYTES, HEADER_SECONDS + SECONDS_A_MEGAPIXEL * pixels / 1e6)

    with warnings.catch_warnings():
        said = 0

        def count(*_: object, **__: object) -> None:
            nonlocal said
            said += 1

        warnings.simplefilter("always")
        warnings.showwarning = count
        try:
            pixels = decoded_pixels(data, resize, max_pixels, admit).tobytes()
            return PIXELS, said, pixels
        except ImageError as error:
            return REASON, said, str(error).encode("utf-8", "replace")
        except Exception as error:  # noqa: BLE001 - whatever a decoder raises is this image's failure
            return REASON, said, f"the image file is damaged ({type(error).__name__})".encode()


if __name__ == "__main__":
    main()
