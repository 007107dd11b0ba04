"""Rounds on disk: written whole or not at all, read back checked, pruned.

    MODEL_DIR/webhook-secret
    MODEL_DIR/projects/<id>/round-00003/round.json, *.npy, model.safetensors, neighbors.ann, published.json
    MODEL_DIR/projects/<id>/history.json         what rounds that are pruned had measured
    MODEL_DIR/projects/<id>/held.json            why no round starts by itself, if so
    MODEL_DIR/projects/<id>/extra-params.json    what the lead set in Label Studio's form
    MODEL_DIR/images/                            the image cache

``round.json`` holds the SHA-256 of every other file; a round becomes visible by one rename.
"""

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreset_backend.errors import CorruptRound, RoundNotFound
from coreset_backend.project import Labels

log = logging.getLogger(__name__)

FORMAT = 1
STATES = ("labeled", "selected", "reserve", "pool", "skipped", "unreadable", "duplicate")


@dataclass(frozen=True, slots=True)
class Round:
    """The record of a round. ``batch`` and ``reserve`` are task ids in the order they are served.

    ``distances``: from each task of batch and reserve to its nearest center when it was picked.
    ``counts``: tasks by state; every task of the snapshot is in exactly one. ``training``: the fields of
    the fit's report, None on a cold start. ``failures``: ``{task_id, uri, reason}`` of unreadable images.
    ``timings``: seconds by phase. ``hashes``: SHA-256 of every file of the round. ``title``: the project's.
    ``attributes``: the settings in the label config.
    ``evaluation``: the fields of :class:`coreset_backend.evaluation.Evaluation`, None without a hold-out.
    ``random_slice``: the task ids of the batch that chance drew. ``batch_figures``: what the model of the
    round before had said of its batch, None without a random slice in it.
    """

    project_id: int
    number: int
    model_version: str
    fingerprint: str
    taken_at: str
    strategy: str
    backbone: str
    seed: int
    labels: Labels | None
    batch: tuple[int, ...]
    reserve: tuple[int, ...]
    distances: tuple[float, ...]
    radius_before: float | None
    radius_after: float | None
    training: dict[str, Any] | None
    holdout: tuple[int, ...]
    counts: dict[str, int]
    failures: tuple[dict[str, Any], ...]
    timings: dict[str, float]
    hashes: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT
    title: str = ""
    evaluation: dict[str, Any] | None = None
    random_slice: tuple[int, ...] = ()
    batch_figures: dict[str, Any] | None = None
    attributes: dict[str, str] = field(default_factory=dict)

    @property
    def pool_version(self) -> str:
        """What /predict and /setup answer under; never the batch's version, or a task would join it."""
        return f"pool-{self.number}"


@dataclass(frozen=True, slots=True)
class Hold:
    """Why no round of the project starts by itself, in words, until a person starts one.

    ``number`` is the round that was rolled back to, which stands for the newest until there is one after
    ``newest``; None where nothing was rolled back.
    """

    reason: str
    number: int | None
    newest: int


@dataclass(frozen=True, slots=True)
class StoredRound:
    """A round in the store, at ``path``."""

    record: Round
    path: Path

    def has(self, name: str) -> bool:
        """Whether the round was saved with that array; older rounds lack some."""
        return f"{name}.npy" in self.record.hashes

    def array(self, name: str) -> NDArray[Any]:
        """The array saved as ``name``, checked against its hash; raises CorruptRound."""
        path = self.path / f"{name}.npy"
        _check(path, self.record.hashes.get(path.name))
        try:
            array: NDArray[Any] = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise CorruptRound(self.path, f"{path.name} cannot be read ({error})") from error
        return array

    @property
    def publication(self) -> dict[str, Any] | None:
        """What Label Studio took of it and when; None as long as it has not been published."""
        try:
            publication: dict[str, Any] = json.loads((self.path / "published.json").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return publication

    def mark_unpublished(self) -> None:
        """Have it published again."""
        (self.path / "published.json").unlink(missing_ok=True)
        _flush(self.path)

    def verify(self) -> None:
        """Raises CorruptRound, naming the file, unless every file is as it was saved."""
        for name, expected in self.record.hashes.items():
            _check(self.path / name, expected)

    def mark_published(self, publication: Mapping[str, Any]) -> None:
        _write_atomically(self.path / "published.json", json.dumps(publication).encode())


class Draft:
    """A round being written, in a folder that no reader looks at."""

    def __init__(self, path: Path, project_id: int, number: int) -> None:
        self.path, self.project_id, self.number = path, project_id, number
        self.saved: StoredRound | None = None

    def save(self, record: Round, arrays: Mapping[str, NDArray[Any]]) -> StoredRound:
        """Write arrays and record, hash every file of the folder, and make the round visible."""
        for name, array in arrays.items():
            np.save(self.path / f"{name}.npy", array, allow_pickle=False)
        hashes = {path.name: _sha256(path) for path in sorted(self.path.iterdir()) if path.is_file()}
        record = replace(record, hashes=hashes)
        body = json.dumps(asdict(record)).encode()
        _write_atomically(self.path / "round.json", _sealed(body))
        for path in self.path.iterdir():
            _flush(path)
        final = self.path.with_name(_folder(self.number))
        self.path.rename(final)
        _flush(final.parent)
        self.saved = StoredRound(record, final)
        return self.saved


class Store:
    """All projects' rounds below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def image_cache(self) -> Path:
        return self.root / "images"

    def webhook_secret(self) -> str:
        """The secret kept in the store, made at the first call and readable by the owner only."""
        path = self.root / "webhook-secret"
        self.root.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            made = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_urlsafe(32))
            # A link refuses to replace what another process made meanwhile.
            with contextlib.suppress(FileExistsError):
                os.link(made, path)
            made.unlink()
        return path.read_text()

    def register(self, project_id: int) -> bool:
        """Remember the project; whether it was new."""
        try:
            self._project(project_id).mkdir(parents=True)
        except FileExistsError:
            return False
        return True

    def extra_params(self, project_id: int) -> dict[str, Any]:
        """The settings that the project's lead typed into Label Studio's form; empty without any."""
        try:
            found: dict[str, Any] = json.loads((self._project(project_id) / "extra-params.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return found

    def keep_extra_params(self, project_id: int, given: Mapping[str, Any]) -> None:
        """Remember them for a known project."""
        if given != self.extra_params(project_id):
            body = json.dumps(dict(given)).encode()
            _write_atomically(self._project(project_id) / "extra-params.json", body)

    def forget(self, project_id: int) -> None:
        """Remove the project and all its rounds."""
        shutil.rmtree(self._project(project_id), ignore_errors=True)

    def projects(self) -> list[int]:
        """Ids of the known projects, ascending."""
        folder = self.root / "projects"
        return sorted(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdecimal())

    def numbers(self, project_id: int) -> list[int]:
        """Numbers of the project's rounds, ascending."""
        found = self._project(project_id).glob("round-*")
        return sorted(int(path.name.removeprefix("round-")) for path in found)

    def newest_first(self, project_id: int) -> list[int]:
        """Numbers of the rounds, newest first; but one that was rolled back to comes before all."""
        numbers, held = self.numbers(project_id)[::-1], self.held(project_id)
        if held and held.number in numbers and held.newest == numbers[0]:
            numbers.remove(held.number)
            numbers.insert(0, held.number)
        return numbers

    def hold(self, project_id: int, reason: str, number: int | None = None) -> None:
        """Let no round start by itself until ``release``; ``number``: roll back to it. Hold the lock."""
        hold = Hold(reason, number, max(self.numbers(project_id), default=0))
        body = json.dumps({"format": FORMAT, **asdict(hold)}).encode()
        _write_atomically(self._project(project_id) / "held.json", _sealed(body))
        _flush(self._project(project_id))

    def held(self, project_id: int) -> Hold | None:
        """Why no round starts by itself; None where they do."""
        folder = self._project(project_id)
        if not (folder / "held.json").exists():
            return None
        try:
            fields = _read_sealed(folder, "held.json")
        except CorruptRound as error:
            log.error("passed over: %s", error)
            return None
        return Hold(fields["reason"], fields["number"], fields["newest"])

    def release(self, project_id: int) -> None:
        """Let rounds start by themselves again."""
        (self._project(project_id) / "held.json").unlink(missing_ok=True)

    def open(self, project_id: int, number: int) -> StoredRound:
        """One round. Raises RoundNotFound or CorruptRound."""
        path = self._project(project_id) / _folder(number)
        if not path.is_dir():
            raise RoundNotFound(
                f"Project {project_id} has no round {number}; it has {self.numbers(project_id)}."
            )
        return StoredRound(_read_record(path), path)

    def latest(self, project_id: int) -> StoredRound | None:
        """The first of ``newest_first`` that is whole; a corrupt one is passed over and said in the log."""
        for number in self.newest_first(project_id):
            try:
                return self.open(project_id, number)
            except CorruptRound as error:
                log.error("passed over: %s", error)
        return None

    @contextlib.contextmanager
    def draft(self, project_id: int) -> Iterator[Draft]:
        """A folder for the next round; it vanishes unless ``save`` was called.

        Folders that a killed worker left are removed, so hold the project's lock.
        """
        self.register(project_id)
        folder = self._project(project_id)
        for torn in folder.glob(".draft-*"):
            shutil.rmtree(torn, ignore_errors=True)
        number = max(self.numbers(project_id), default=0) + 1
        path = folder / f".draft-{number}-{secrets.token_hex(4)}"
        path.mkdir()
        try:
            yield Draft(path, project_id, number)
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def prune(self, project_id: int, keep: int) -> None:
        """Remove all but the newest ``keep`` rounds; what they measured stays in the history."""
        numbers = self.newest_first(project_id)[::-1]
        if numbers[:-keep]:
            history = [asdict(record) for record in self.history(project_id)]
            body = json.dumps({"format": FORMAT, "rounds": history}).encode()
            _write_atomically(self._project(project_id) / "history.json", _sealed(body))
        for number in numbers[:-keep]:
            shutil.rmtree(self._project(project_id) / _folder(number), ignore_errors=True)

    def history(self, project_id: int) -> list[Round]:
        """The records of all rounds there ever were, oldest first, without their lists by task.

        Those of pruned rounds come from ``history.json``. A record that cannot be read is passed over.
        """
        records = {record.number: record for record in _read_history(self._project(project_id))}
        for number in self.numbers(project_id):
            try:
                records[number] = self.open(project_id, number).record
            except CorruptRound as error:
                log.error("passed over: %s", error)
        return [replace(records[number], **_NO_LISTS) for number in sorted(records)]

    def _project(self, project_id: int) -> Path:
        return self.root / "projects" / str(int(project_id))


_NO_LISTS: dict[str, Any] = {"batch": (), "reserve": (), "distances": (), "holdout": (), "failures": ()}


def _folder(number: int) -> str:
    return f"round-{number:05d}"


def _read_record(path: Path) -> Round:
    return _record(_read_sealed(path, "round.json"))


def _read_history(path: Path) -> list[Round]:
    if not (path / "history.json").exists():
        return []
    try:
        return [_record(fields) for fields in _read_sealed(path, "history.json")["rounds"]]
    except CorruptRound as error:
        log.error("passed over: %s", error)
        return []


def _read_sealed(path: Path, name: str) -> dict[str, Any]:
    try:
        seal, _, body = (path / name).read_bytes().partition(b"\n")
    except OSError as error:
        raise CorruptRound(path, f"{name} cannot be read ({error.strerror})") from error
    if seal != hashlib.sha256(body).hexdigest().encode():
        raise CorruptRound(path, f"{name} does not match its hash")
    fields: dict[str, Any] = json.loads(body)
    if fields.get("format") != FORMAT:
        raise CorruptRound(path, f"its format is {fields.get('format')}, this version reads {FORMAT}")
    return fields


def _record(fields: dict[str, Any]) -> Round:
    labels = fields["labels"]
    return Round(
        **{
            **fields,
            "labels": Labels(**{**labels, "names": tuple(labels["names"])}) if labels else None,
            **{name: tuple(fields.get(name, ())) for name in (*_NO_LISTS, "random_slice")},
        }
    )


def _sealed(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _check(path: Path, expected: str | None) -> None:
    try:
        found = _sha256(path)
    except OSError as error:
        raise CorruptRound(path.parent, f"{path.name} cannot be read ({error.strerror})") from error
    if found != expected:
        raise CorruptRound(path.parent, f"{path.name} does not match its hash")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_atomically(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    partial.write_bytes(content)
    _flush(partial)
    partial.replace(path)


def _flush(path: Path) -> None:
    """Have the file or folder on the disk, not only in the machine's memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
