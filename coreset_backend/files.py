"""Writes files completely or not at all, and detects altered bytes when it reads them."""

import contextlib
import hashlib
import json
import logging
import math
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from coreset_backend.errors import CorruptFile, CorruptRound, Unwritable

log = logging.getLogger(__name__)
FORMAT = 1
PARTIAL = ".part"
"""Suffix of a file that is being written."""
TORN_SECONDS = 3600
"""A partial file as old as this belongs to a process that is gone."""
LARGEST = 512_000_000
"""Largest file in bytes; the record of a round with a million unreadable images has 300 MB."""


def write_sealed(
    path: Path, fields: Mapping[str, object], *, before: Callable[[], None] = lambda: None
) -> None:
    """Write ``fields`` as JSON after a line with its SHA-256; raises Unwritable.

    ``before`` is called when there is room for the new file, before it replaces the old one.
    """
    content = sealed(fields)
    with saving(path), replacing(path) as partial:
        partial.write_bytes(content)
        before()


def sealed(fields: Mapping[str, object]) -> bytes:
    """``fields`` as JSON after a line with its SHA-256."""
    body = json.dumps({"format": FORMAT, **fields}).encode()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def unsealed(place: str, content: bytes, *, unsealed_too: bool = False) -> dict[str, object]:
    """The fields in the content of the file at ``place``; raises CorruptFile if it was altered.

    Numbers that are not finite become None. ``unsealed_too``: also read a file of an early release without
    hash.
    """
    name = place.rpartition("/")[2]
    seal, line_end, body = content.partition(b"\n")
    if unsealed_too and not line_end:
        body = content
    elif seal != hashlib.sha256(body).hexdigest().encode():
        raise CorruptFile(place, f"{name} does not match its hash")
    try:
        fields = json.loads(body, parse_constant=lambda _: None, parse_float=_finite)
    except (ValueError, RecursionError):
        raise CorruptFile(place, f"{name} does not match its hash") from None
    if not isinstance(fields, dict):
        raise CorruptFile(place, f"{name} contains no JSON object")
    found = fields.pop("format", FORMAT if body is content else None)
    if found != FORMAT:
        raise CorruptFile(place, f"its format is {str(found)[:40]}, this version reads {FORMAT}")
    return fields


def _finite(text: str) -> float | None:
    return value if math.isfinite(value := float(text)) else None


def content_of(path: Path) -> bytes:
    """The content of the file; raises CorruptFile if it cannot be read, or is larger than LARGEST."""
    _require_file(path)
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise CorruptFile(path, f"{path.name} has {size / 1e6:,.0f} MB")
        return path.read_bytes()
    except OSError as error:
        raise CorruptFile(path, f"{path.name} cannot be read ({error.strerror})") from error


def _require_file(path: Path) -> None:
    """Raises CorruptFile for anything but a file: reading from a pipe would wait forever."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise CorruptFile(path, f"{path.name} cannot be read ({why})") from error
    if not stat.S_ISREG(mode):
        raise CorruptFile(path, f"{path.name} is not a file")


def is_there(path: Path) -> bool:
    """Whether ``path`` exists, readable or not; its reader reports an unreadable one."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path.is_symlink()
    except OSError:
        return True
    return True


def check_hash(path: Path, expected: str | None) -> None:
    """Raises CorruptRound unless the file of a round has the expected SHA-256."""
    try:
        _require_file(path)
        found = sha256(path)
    except CorruptFile as error:
        raise CorruptRound(path.parent, error.why) from error
    except OSError as error:
        raise CorruptRound(path.parent, f"{path.name} cannot be read ({error.strerror})") from error
    if found != expected:
        raise CorruptRound(path.parent, f"{path.name} does not match its hash")


def sha256(path: Path) -> str:
    """The SHA-256 of the file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """Around code that writes the file or folder ``path``: raises Unwritable for errors of the disk."""
    try:
        yield
    except OSError as error:
        raise Unwritable(path, error) from error


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True, suffix: str = PARTIAL) -> Iterator[Path]:
    """A new path beside ``path``: what the block writes there becomes ``path``, whole or not at all.

    Whoever reads meanwhile, or after a crash, sees the old file or the new one. Where the block or the disk
    fails the old file stays, and nothing half-written fills the disk. ``durable``: written through to the
    disk before the block ends. ``suffix``: how the name of the new path ends. Raises OSError.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{suffix}")
    try:
        yield partial
        if durable:
            flush(partial)
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    if durable:
        flush(path.parent)


def remove_partial(folder: Path) -> None:
    """Remove what processes that were killed left half-written in the folder: partial files an hour old."""
    for partial in folder.glob(f".*.{'[0-9a-f]' * 8}{PARTIAL}"):
        with contextlib.suppress(OSError):
            if partial.stat().st_mtime < time.time() - TORN_SECONDS:
                partial.unlink()


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file by ``content``, whole or not at all; raises Unwritable."""
    with saving(path), replacing(path) as partial:
        partial.write_bytes(content)


def flush(path: Path) -> None:
    """Write the file or folder through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
