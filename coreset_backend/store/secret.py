"""The webhook secret in the store: generated once, readable by its owner only."""

import contextlib
import logging
import os
import re
import secrets
from pathlib import Path

from coreset_backend.files import flush, saving

log = logging.getLogger(__name__)


A_SECRET = re.compile(rb"[!-~]{20,}")
DAMAGED = "%s is damaged: a new secret is generated, connect each project again"


def made_secret() -> bytes:
    """A new secret."""
    return secrets.token_urlsafe(32).encode()


def kept_secret(path: Path) -> str:
    """The secret in the file, readable by its owner only; the first call of any process generates it.

    A damaged secret is replaced: an empty one would let anybody in. Raises Unwritable.
    """
    with saving(path):
        if os.path.lexists(path) and not _is_a_secret(path):
            log.error(DAMAGED, path.name)
            path.unlink(missing_ok=True)
        if not path.exists():
            _make_secret(path)
        return path.read_text()


def _is_a_secret(path: Path) -> bool:
    return path.is_file() and A_SECRET.fullmatch(path.read_bytes()) is not None


def _make_secret(path: Path) -> None:
    made = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(made_secret())
        flush(made)
        # Creating a link fails if another process has created the file meanwhile.
        with contextlib.suppress(FileExistsError):
            os.link(made, path)
    finally:
        made.unlink(missing_ok=True)
