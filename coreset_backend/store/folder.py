"""A folder as the place of the store's files, on a disk or on a file system that hosts share."""

import contextlib
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from coreset_backend.errors import CorruptFile, CorruptRound, StoreError
from coreset_backend.files import check_hash, content_of, flush, is_there, saving, write_sealed
from coreset_backend.store.secret import kept_secret
from coreset_backend.store.storage import A_ROUND, RECORD


class Folder:
    """The files below ``local``, as `Storage` says. A round becomes visible by one rename."""

    def __init__(self, local: Path) -> None:
        self.local = local

    def place(self, key: str) -> str:
        return str(self.local / key)

    def as_of_now(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def read(self, key: str) -> bytes | None:
        path = self.local / key
        return content_of(path) if is_there(path) else None

    def write(
        self, key: str, fields: Mapping[str, object], *, before: Callable[[], None] = lambda: None
    ) -> None:
        write_sealed(self.local / key, fields, before=before)

    def delete(self, key: str) -> bool:
        path = self.local / key
        if not is_there(path):
            return False
        with saving(path):
            path.unlink(missing_ok=True)
            flush(path.parent)
        return True

    def mark(self, key: str) -> None:
        with saving(path := self.local / key):
            path.touch()

    def is_marked(self, key: str) -> bool:
        try:
            return (self.local / key).exists()
        except OSError:  # the folder cannot be read, so nothing says that it is marked
            return False

    def secret(self, key: str) -> str:
        with saving(path := self.local / key):
            self.local.mkdir(parents=True, exist_ok=True)
        return kept_secret(path)

    def has_folder(self, key: str) -> bool:
        return (self.local / key).exists()

    def make_folder(self, key: str) -> bool:
        with saving(folder := self.local / key):
            folder.parent.mkdir(parents=True, exist_ok=True)
            is_new = not folder.is_dir()
            folder.mkdir(exist_ok=True)
        return is_new

    def folders(self, key: str, pattern: re.Pattern[str]) -> list[str]:
        folder = self.local / key
        try:
            paths = list(folder.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(
                f"The folder {folder} cannot be read ({error.strerror}). Repair it or its permissions."
            ) from error
        return [path.name for path in paths if pattern.fullmatch(path.name) and _is_folder(path)]

    def move_folder(self, key: str, to: str) -> None:
        aside = self.local / to
        with saving(aside), contextlib.suppress(FileNotFoundError):
            aside.parent.mkdir(exist_ok=True)
            (self.local / key).rename(aside)

    def remove_folder(self, key: str) -> None:
        shutil.rmtree(self.local / key, ignore_errors=True)

    def rounds(self, key: str) -> list[str]:
        return self.folders(key, A_ROUND)

    def taken_names(self, key: str) -> list[str]:
        return [path.name for path in (self.local / key).glob("round-*") if A_ROUND.fullmatch(path.name)]

    def open_round(self, key: str) -> tuple[bytes, Path] | None:
        folder = self.local / key
        if not _is_folder(folder):
            return None
        try:
            return content_of(folder / RECORD), folder
        except CorruptFile as error:
            raise CorruptRound(folder, error.why) from error

    def file_of_round(self, key: str, folder: Path, name: str, expected: str | None) -> Path:
        check_hash(path := folder / name, expected)
        return path

    def publish(self, draft: Path, key: str) -> Path:
        for path in draft.iterdir():
            flush(path)
        final = self.local / key
        draft.rename(final)
        flush(final.parent)
        return final

    def probe(self) -> None:
        """Nothing to do: a folder that cannot be written says so."""

    def sweep(self, key: str) -> None:
        """Nothing to do: drafts are removed by the next draft."""

    def fetched_folder(self, key: str) -> Path:
        return self.local / key

    def keep_folder(self, key: str) -> None:
        """Nothing to do: it is where it belongs."""


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # nothing in it can be read either
        return False
