"""A bucket as the place of the store's files, for several hosts; each keeps copies of what it reads.

The keys are those of a folder, so that any tool can copy a folder into a bucket, and back. A round is there
from the moment its ``round.json`` is, which is created last; of two hosts that save the same round, the one
that creates ``round-00003.claim`` does it. Copies are found by the content of ``round.json``, and each file
is checked against the hash in it, so that a copy cannot be of another round.
"""

import contextlib
import hashlib
import logging
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path

from coreset_backend.errors import CorruptRound, StorageError, StoreError
from coreset_backend.files import TORN_SECONDS, check_hash, saving, sealed
from coreset_backend.store.objects import Listed, NoObject, Objects
from coreset_backend.store.secret import A_SECRET, DAMAGED, made_secret
from coreset_backend.store.storage import A_ROUND, RECORD

log = logging.getLogger(__name__)
CLAIM = ".claim"
FOLDER = ".folder"
"""An empty object that makes a folder known which holds nothing else."""
TAG = ".tag-"
"""How the name begins of a file beside another one, which says of which object that is."""


class Bucket:
    """The files of a bucket, as `Storage` says; ``local`` is a folder of this machine for the copies.

    A half round is swept that was begun ``abandoned_after`` before the newest was saved.
    """

    def __init__(
        self,
        address: str,
        local: Path,
        *,
        patient: bool = False,
        abandoned_after: timedelta = timedelta(days=1),
    ) -> None:
        self.local, self._abandoned_after = local, abandoned_after
        self.objects = Objects(address, patient=patient)
        self.place, self.as_of_now = self.objects.place, self.objects.as_of_now

    def read(self, key: str) -> bytes | None:
        return self.objects.get(key)

    def write(
        self, key: str, fields: Mapping[str, object], *, before: Callable[[], None] = lambda: None
    ) -> None:
        before()
        self.objects.put(key, sealed(fields))

    def delete(self, key: str) -> bool:
        there = self.objects.get(key) is not None
        self.objects.delete([key])
        return there

    def mark(self, key: str) -> None:
        self.objects.put(key, b"")

    def is_marked(self, key: str) -> bool:
        return self.objects.get(key) is not None

    def secret(self, key: str) -> str:
        content = self.objects.get(key)
        if content is None:
            self.objects.create(key, made_secret())
            content = self.objects.get(key) or b""
        if not A_SECRET.fullmatch(content):
            log.error(DAMAGED, key)
            self.objects.put(key, content := made_secret())
        return content.decode()

    def has_folder(self, key: str) -> bool:
        return bool(self.objects.below(key))

    def make_folder(self, key: str) -> bool:
        is_new = not self.has_folder(key)
        if is_new:
            self.objects.put(f"{key}/{FOLDER}", b"")
        return is_new

    def folders(self, key: str, pattern: re.Pattern[str]) -> list[str]:
        return [name for name in self.objects.folders(key) if pattern.fullmatch(name)]

    def move_folder(self, key: str, to: str) -> None:
        found = [each.key for each in self.objects.below(key)]
        for each in found:
            self.objects.copy(each, to + each.removeprefix(key))
        self.objects.delete(_records_first(found))
        shutil.rmtree(self.local / key, ignore_errors=True)

    def remove_folder(self, key: str) -> None:
        try:
            self.objects.delete(_records_first([each.key for each in self.objects.below(key)]))
            self.objects.delete([f"{key}{CLAIM}"])
        except StorageError as error:  # it is removed later
            log.warning("%s", error)

    def rounds(self, key: str) -> list[str]:
        return _with_record(self.objects.below(key))

    def taken_names(self, key: str) -> list[str]:
        return list(_round_names(self.objects.below(key)))

    def open_round(self, key: str) -> tuple[bytes, Path] | None:
        content = self.objects.get(f"{key}/{RECORD}")
        return None if content is None else (content, self._copy(key, content))

    def file_of_round(self, key: str, folder: Path, name: str, expected: str | None) -> Path:
        path = folder / name
        try:
            check_hash(path, expected)
        except CorruptRound:
            self._fetch(f"{key}/{name}", path)
            try:
                check_hash(path, expected)
            except CorruptRound as error:
                raise CorruptRound(self.place(key), error.why) from error
        return path

    def publish(self, draft: Path, key: str) -> Path:
        self.probe()
        content, claim = (draft / RECORD).read_bytes(), secrets.token_hex(16).encode()
        self._require_free(key, self.objects.create(f"{key}{CLAIM}", claim))
        self._require_free(key, self.objects.get(f"{key}/{RECORD}") is None)
        for path in sorted(set(draft.iterdir()) - {draft / RECORD}):
            self.objects.put(f"{key}/{path.name}", path)
        self._require_free(key, self.objects.get(f"{key}{CLAIM}") == claim)
        self._require_free(key, self.objects.create(f"{key}/{RECORD}", content))
        final = self._copy(key, content)
        with contextlib.suppress(OSError):  # then its files are fetched
            draft.rename(final)
        self._discard_copies(key.rpartition("/")[0])
        return final

    def _require_free(self, key: str, is_free: bool) -> None:
        if not is_free:
            raise StoreError(
                f"{self.place(key)} was saved by another host meanwhile. Nothing of this round was kept; it "
                "is retried automatically."
            )

    def probe(self) -> None:
        key = f"probe-{secrets.token_hex(8)}"
        try:
            if not self.objects.create(key, b"first") or self.objects.create(key, b"second"):
                raise StoreError(
                    f"{self.objects.address} ignores the condition If-None-Match, so two hosts could "
                    "overwrite each other's round. Use an S3 that honours conditional writes, as those of "
                    "AWS and MinIO do."
                )
        finally:
            with contextlib.suppress(StorageError):
                self.objects.delete([key])

    def sweep(self, key: str) -> None:
        """Only the clock of the object store counts. The claim goes first: who still uploads then stops."""
        try:
            found = self.objects.below(key)
            whole = _with_record(found)
            newest = max((each.changed for each in found if each.key.endswith(f"/{RECORD}")), default=None)
            for name, objects in _round_names(found).items():
                latest = max(each.changed for each in objects)
                if newest and name not in whole and latest < newest - self._abandoned_after:
                    self.objects.delete([f"{key}/{name}{CLAIM}", *(each.key for each in objects)])
        except StorageError as error:  # it is swept later
            log.warning("%s", error)

    def fetched_folder(self, key: str) -> Path:
        folder = self.local / key
        found = {each.key.rpartition("/")[2]: each for each in self.objects.below(key)}
        for name, each in found.items():
            if not (folder / name).is_file() or _noted(folder / name)[:1] != [each.tag]:
                self._fetch(each.key, folder / name)
                _note_tag(folder / name, each.tag)
        for tag in folder.glob(f"{TAG}*"):
            if tag.name.removeprefix(TAG) not in found:
                (folder / tag.name.removeprefix(TAG)).unlink(missing_ok=True)
                tag.unlink()
        return folder

    def keep_folder(self, key: str) -> None:
        folder = self.local / key
        for path in folder.glob("[!.]*"):
            if _noted(path)[1:] != [str(path.stat().st_mtime_ns)]:
                _note_tag(path, self.objects.put(f"{key}/{path.name}", path))

    def _fetch(self, key: str, path: Path) -> None:
        is_new = not path.parent.is_dir()
        with saving(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.objects.download(key, path)
        except NoObject:
            raise CorruptRound(self.place(key.rpartition("/")[0]), f"{path.name} is missing") from None
        if is_new:
            self._discard_copies("/".join(key.split("/")[:2]))

    def _copy(self, key: str, record: bytes) -> Path:
        """The folder of this machine for the copies of the round that has this record."""
        return self.local / f"{key}-{hashlib.sha256(record).hexdigest()[:16]}"

    def _discard_copies(self, project: str) -> None:
        """Remove the copies of rounds and projects that are gone; what is young may just be read."""
        with contextlib.suppress(StorageError, OSError):  # it is tried again
            there = {f"{project}/{name}" for name in self.rounds(project)}
            there |= {f"projects/{name}" for name in self.objects.folders("projects")}
            copies = {path: f"{project}/{path.name.rpartition('-')[0]}" for path in self._copies(project)}
            copies |= {path: f"projects/{path.name}" for path in (self.local / "projects").iterdir()}
            for path, key in copies.items():
                if key not in there and path.stat().st_mtime < time.time() - TORN_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)

    def _copies(self, project: str) -> Iterable[Path]:
        return (self.local / project).glob("round-*-*")


def _round_names(objects: Iterable[Listed]) -> dict[str, list[Listed]]:
    """The objects of each round in a project's folder, its claim included."""
    found: dict[str, list[Listed]] = {}
    for each in objects:
        name = each.key.split("/")[2].removesuffix(CLAIM)
        if A_ROUND.fullmatch(name):
            found.setdefault(name, []).append(each)
    return found


def _with_record(objects: Iterable[Listed]) -> list[str]:
    found = _round_names(objects)
    return [name for name, each in found.items() if any(o.key.endswith(f"/{name}/{RECORD}") for o in each)]


def _records_first(keys: Iterable[str]) -> list[str]:
    """Without its record a round is gone, whatever else of it is left."""
    return sorted(keys, key=lambda key: not key.endswith(f"/{RECORD}"))


def _noted(path: Path) -> list[str]:
    """What `_note_tag` noted of the file: its tag, and when it was changed."""
    try:
        return path.with_name(f"{TAG}{path.name}").read_text().split()
    except OSError:
        return []


def _note_tag(path: Path, tag: str) -> None:
    """Remember which object the file is, as long as it is not changed."""
    with saving(note := path.with_name(f"{TAG}{path.name}")):
        note.write_text(f"{tag} {path.stat().st_mtime_ns}")
