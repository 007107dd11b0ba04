"""Files that are written whole or not at all, and that show when a byte of them was altered; a secret."""

import contextlib
import hashlib
import json
import logging
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coreset_backend.errors import CorruptRound

log = logging.getLogger(__name__)
FORMAT = 1
A_SECRET = re.compile(rb"[!-~]{20,}")


def write_sealed(path: Path, fields: Mapping[str, Any]) -> None:
    """Keep ``fields`` as JSON behind a line with its SHA-256."""
    body = json.dumps({"format": FORMAT, **fields}).encode()
    write_atomically(path, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def read_sealed(path: Path, *, unsealed_too: bool = False) -> dict[str, Any]:
    """The fields that were kept; raises CorruptRound unless they are as they were written.

    ``unsealed_too``: an early release wrote this file as JSON alone.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorruptRound(path.parent, f"{path.name} cannot be read ({error.strerror})") from error
    seal, sealed, body = content.partition(b"\n")
    try:
        if unsealed_too and not sealed:
            fields: dict[str, Any] = {"format": FORMAT, **json.loads(content)}
        elif seal == hashlib.sha256(body).hexdigest().encode():
            fields = json.loads(body)
        else:
            raise ValueError
    except (ValueError, TypeError):
        raise CorruptRound(path.parent, f"{path.name} does not match its hash") from None
    if (found := fields.pop("format", None)) != FORMAT:
        raise CorruptRound(path.parent, f"its format is {found}, this version reads {FORMAT}")
    return fields


def check_hash(path: Path, expected: str | None) -> None:
    """Raises CorruptRound unless the file has that SHA-256."""
    try:
        found = sha256(path)
    except OSError as error:
        raise CorruptRound(path.parent, f"{path.name} cannot be read ({error.strerror})") from error
    if found != expected:
        raise CorruptRound(path.parent, f"{path.name} does not match its hash")


def sha256(path: Path) -> str:
    """Hex, of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file by ``content``; whoever reads meanwhile, or after a crash, sees one or the other."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        partial.write_bytes(content)
        flush(partial)
        partial.replace(path)
    except OSError:  # a full disk is not to be filled with what was half-written
        partial.unlink(missing_ok=True)
        raise
    flush(path.parent)


def kept_secret(path: Path) -> str:
    """The secret in the file, made at the first call by whichever process and readable by the owner only.

    What a crash or the disk left of one is replaced: an empty one would let anybody in.
    """
    with contextlib.suppress(FileNotFoundError):
        if not A_SECRET.fullmatch(path.read_bytes()):
            log.error("%s is damaged: a new one is made, connect each project once more", path.name)
            path.unlink()
    if not path.exists():
        made = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
        flush(made)
        # A link refuses to replace what another process made meanwhile.
        with contextlib.suppress(FileExistsError):
            os.link(made, path)
        made.unlink()
    return path.read_text()


def flush(path: Path) -> None:
    """Have the file or folder on the disk, not only in the machine's memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
