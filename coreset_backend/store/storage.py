"""What the store needs of the place where its files are: a folder, or a bucket that several hosts share.

A key is the path of a file below that place, with slashes. What need not be shared lies in ``local``, a
folder of this machine: the image cache, drafts, and of a bucket the copies that were read.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, cast

from pydantic import TypeAdapter

from coreset_backend.files import unsealed
from coreset_backend.store.record import taken

T = TypeVar("T")
MOST_REMEMBERED = 2**26
"""Bytes of files of which a process remembers what they say."""
_remembered: dict[str, tuple[bytes, object]] = {}
RECORD = "round.json"
A_ROUND = re.compile(r"round-((?=[0-9]*[1-9])[0-9]{5}|[1-9][0-9]{5,8})")
"""The exact name of a round's folder; anything else, such as a copy that a person made, is ignored."""


class Storage(Protocol):
    """Where the files are. Every method also raises StorageError where a bucket cannot be used."""

    local: Path

    def place(self, key: str) -> str:
        """How messages name the file or folder."""

    def as_of_now(self) -> AbstractContextManager[None]:
        """Around code that only reads: a bucket is then asked once for all small files of a project."""

    def read(self, key: str) -> bytes | None:
        """The content of a file that was written by `write`; None without one. Raises CorruptFile."""

    def write(
        self, key: str, fields: Mapping[str, object], *, before: Callable[[], None] = lambda: None
    ) -> None:
        """Replace the file, whole or not at all; ``before`` as `write_sealed` has it. Raises Unwritable."""

    def delete(self, key: str) -> bool:
        """Remove the file; whether there was one. Raises Unwritable."""

    def mark(self, key: str) -> None:
        """Make an empty file, which `is_marked` finds. Raises Unwritable."""

    def is_marked(self, key: str) -> bool: ...

    def secret(self, key: str) -> str:
        """The secret in the file; the first call of any process generates it. Raises Unwritable."""

    def has_folder(self, key: str) -> bool: ...

    def make_folder(self, key: str) -> bool:
        """Make the folder; whether there was none. Raises Unwritable."""

    def folders(self, key: str, pattern: re.Pattern[str]) -> list[str]:
        """Names of the folders in the folder that match the whole pattern; raises StoreError."""

    def move_folder(self, key: str, to: str) -> None:
        """Move all that is in the folder, if there is one. Raises Unwritable."""

    def remove_folder(self, key: str) -> None:
        """Remove the folder with all that is in it, as far as that can be done."""

    def rounds(self, key: str) -> list[str]:
        """Names of the rounds' folders in a project's folder; raises StoreError."""

    def taken_names(self, key: str) -> list[str]:
        """The names that no new round may have: those of rounds, also of half ones."""

    def open_round(self, key: str) -> tuple[bytes, Path] | None:
        """The content of RECORD, and the round's folder on this machine; None if there is no such round.

        Raises CorruptRound.
        """

    def file_of_round(self, key: str, folder: Path, name: str, expected: str | None) -> Path:
        """The file in the round's folder on this machine, with the SHA-256 ``expected``.

        Raises CorruptRound and Unwritable.
        """

    def publish(self, draft: Path, key: str) -> Path:
        """Make the files of the draft the round ``key``, all at once; returns its folder on this machine.

        Raises OSError, and in a bucket StoreError, also where another host has saved such a round meanwhile.
        """

    def probe(self) -> None:
        """Raises StoreError with a fix if rounds cannot be saved there."""

    def sweep(self, key: str) -> None:
        """Remove from a project's folder what killed workers left of rounds."""

    def fetched_folder(self, key: str) -> Path:
        """The folder on this machine, with the files as they are; for a few large files that are replaced."""

    def keep_folder(self, key: str) -> None:
        """Keep the files of the folder on this machine as they are now."""


def remembered(adapter: TypeAdapter[T], place: str, content: bytes) -> T:
    """What a file with that content says: each process parses it once, since it may list a million tasks.

    Raises CorruptFile, and ValueError as `taken`. Nobody may change what it returns.
    """
    known = _remembered.get(place)
    if known is not None and known[0] == content:
        return cast("T", known[1])
    found = taken(adapter, unsealed(place, content))
    if sum(len(each) for each, _ in list(_remembered.values())) + len(content) > MOST_REMEMBERED:
        _remembered.clear()
    if len(content) <= MOST_REMEMBERED:
        _remembered[place] = content, found
    return found


@dataclass(frozen=True, slots=True)
class Kept:
    """A small file of the store: JSON with its hash, read and replaced as a whole."""

    storage: Storage
    key: str

    def __str__(self) -> str:
        return self.storage.place(self.key)

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    def read(self, *, unsealed_too: bool = False) -> dict[str, object] | None:
        """Its fields; None without the file. Raises CorruptFile."""
        content = self.storage.read(self.key)
        return None if content is None else unsealed(str(self), content, unsealed_too=unsealed_too)

    def read_as(self, adapter: TypeAdapter[T]) -> T | None:
        """What it says, as `remembered`; None without the file."""
        content = self.storage.read(self.key)
        return None if content is None else remembered(adapter, str(self), content)

    def write(self, fields: Mapping[str, object], *, before: Callable[[], None] = lambda: None) -> None:
        """Replace it; ``before`` as `write_sealed` has it. Raises Unwritable."""
        self.storage.write(self.key, fields, before=before)

    def delete(self) -> bool:
        """Remove it; whether there was one. Raises Unwritable."""
        return self.storage.delete(self.key)
