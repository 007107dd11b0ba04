"""The secret that the store keeps: made once, readable by its owner only."""

import contextlib
import logging
import os
import re
import secrets
from pathlib import Path

from coreset_backend.files import flush, saving

log = logging.getLogger(__name__)


A_SECRET = re.compile(rb"[!-~]{20,}")


def kept_secret(path: Path) -> str:
    """The secret in the file, made at the first call by whichever process and readable by the owner only.

    What a crash or the disk left of one is replaced: an empty one would let anybody in. Raises Unwritable.
    """
    with saving(path):
        if os.path.lexists(path) and not _is_a_secret(path):
            log.error("%s is damaged: a new one is made, connect each project once more", path.name)
            path.unlink(missing_ok=True)
        if not path.exists():
            _make_secret(path)
        return path.read_text()


def _is_a_secret(path: Path) -> bool:
    return path.is_file() and A_SECRET.fullmatch(path.read_bytes()) is not None


def _make_secret(path: Path) -> None:
    made = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
        flush(made)
        # A link refuses to replace what another process made meanwhile.
        with contextlib.suppress(FileExistsError):
            os.link(made, path)
    finally:
        made.unlink(missing_ok=True)
