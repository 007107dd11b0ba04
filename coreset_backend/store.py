"""Rounds on disk: written whole or not at all, read back checked, pruned.

    MODEL_DIR/webhook-secret
    MODEL_DIR/projects/<id>/round-00003/round.json, *.npy, model.safetensors, neighbors.ann, published.json
    MODEL_DIR/projects/<id>/history.json         what pruned rounds had measured; and a copy
    MODEL_DIR/projects/<id>/held.json            why no round starts by itself, if so
    MODEL_DIR/projects/<id>/connection.json      how it stood in Label Studio before it was connected
    MODEL_DIR/projects/<id>/disconnected         there while it is not connected any more
    MODEL_DIR/projects/<id>/extra-params.json    what the lead set in Label Studio's form
    MODEL_DIR/gone/<id>-<time>                   projects that were deleted in Label Studio, for a week
    MODEL_DIR/projects/<id>/replay.json          strategies compared on the project's images
    MODEL_DIR/images/                            the image cache

``round.json`` holds the SHA-256 of every other file; a round becomes visible by one rename.
"""

import contextlib
import logging
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreset_backend.errors import CorruptRound, RoundNotFound
from coreset_backend.project import Labels
from coreset_backend.sealed import check_hash, flush, kept_secret, read_sealed, sha256, write_sealed

log = logging.getLogger(__name__)

DISCONNECTED = "disconnected"
NO_ROUND_VERSION = "pool-0-no-round-yet"
HISTORIES = ("history.json", "history-copy.json")
GONE_SECONDS = 7 * 86_400
STATES = ("labeled", "selected", "reserve", "pool", "skipped", "unreadable", "duplicate")


@dataclass(frozen=True, slots=True)
class Round:
    """The record of a round. ``batch`` and ``reserve`` are task ids in the order they are served.

    ``distances``: from each task of batch and reserve to its nearest center when it was picked.
    ``counts``: tasks by state; every task of the snapshot is in exactly one. ``training``: the fields of
    the fit's report, None on a cold start. ``failures``: ``{task_id, uri, reason}`` of unreadable images.
    ``timings``: seconds by phase. ``hashes``: SHA-256 of every file of the round. ``title``: the project's.
    ``attributes``: the settings in the label config. ``remarks``: why answers could not be trained on.
    ``evaluation``: the fields of :class:`coreset_backend.evaluation.Evaluation`, None without a hold-out.
    ``random_slice``: the task ids of the batch that chance drew. ``batch_figures``: what the model of the
    round before had said of its batch, None without a random slice in it. ``features``: the SHA-256 of
    the features learned on the pool that were at hand, if any were. ``network``: names what made the
    embeddings by its weights.
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
    title: str = ""
    evaluation: dict[str, Any] | None = None
    random_slice: tuple[int, ...] = ()
    batch_figures: dict[str, Any] | None = None
    attributes: dict[str, str] = field(default_factory=dict)
    features: str = ""
    network: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def pool_version(self) -> str:
        """What /predict and /setup answer under; never the batch's version, or a task would join it.

        It ends as the batch's does, so that no other model's version has the same name.
        """
        return f"pool-{self.model_version.removeprefix('coreset-')}"


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
        check_hash(path, self.record.hashes.get(path.name))
        try:
            array: NDArray[Any] = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise CorruptRound(self.path, f"{path.name} cannot be read ({error})") from error
        return array

    @property
    def publication(self) -> dict[str, Any] | None:
        """What Label Studio took of it and when; None as long as it has not been published."""
        path = self.path / "published.json"
        if not path.exists():
            return None
        try:
            return read_sealed(path, unsealed_too=True)
        except CorruptRound as error:  # then it is published again, which changes nothing
            log.error("taken for unpublished: %s", error)
            return None

    def timings(self, publication: Mapping[str, Any] | None) -> dict[str, float]:
        """Seconds by phase, with that of its ``publication``, which comes after the record was written."""
        spent = (publication or {}).get("seconds")
        return self.record.timings if spent is None else {**self.record.timings, "publish": spent}

    def mark_unpublished(self) -> None:
        """Have it published again."""
        (self.path / "published.json").unlink(missing_ok=True)
        flush(self.path)

    def verify(self) -> None:
        """Raises CorruptRound, naming the file, unless every file is as it was saved."""
        for name, expected in self.record.hashes.items():
            check_hash(self.path / name, expected)

    def mark_published(self, publication: Mapping[str, Any]) -> None:
        write_sealed(self.path / "published.json", publication)


class Draft:
    """A round being written, in a folder that no reader looks at."""

    def __init__(self, path: Path, project_id: int, number: int) -> None:
        self.path, self.project_id, self.number = path, project_id, number
        self.saved: StoredRound | None = None

    def save(self, record: Round, arrays: Mapping[str, NDArray[Any]]) -> StoredRound:
        """Write arrays and record, hash every file of the folder, and make the round visible."""
        for name, array in arrays.items():
            np.save(self.path / f"{name}.npy", array, allow_pickle=False)
        hashes = {path.name: sha256(path) for path in sorted(self.path.iterdir()) if path.is_file()}
        record = replace(record, hashes=hashes)
        write_sealed(self.path / "round.json", asdict(record))
        for path in self.path.iterdir():
            flush(path)
        final = self.path.with_name(_folder(self.number))
        self.path.rename(final)
        flush(final.parent)
        self.saved = StoredRound(record, final)
        return self.saved


class Store:
    """All projects' rounds below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def image_cache(self) -> Path:
        return self.root / "images"

    def pretraining(self, project_id: int) -> Path:
        return self._project(project_id) / "pretraining"

    def webhook_secret(self) -> str:
        """The secret kept in the store, made at the first call and readable by the owner only."""
        self.root.mkdir(parents=True, exist_ok=True)
        return kept_secret(self.root / "webhook-secret")

    def register(self, project_id: int) -> bool:
        """Remember the project; whether it was new, or had been disconnected."""
        try:
            self._project(project_id).mkdir(parents=True)
        except FileExistsError:
            if not self.is_disconnected(project_id):
                return False
            self.connection_path(project_id).unlink(missing_ok=True)
            (self._project(project_id) / DISCONNECTED).unlink(missing_ok=True)
        return True

    def extra_params(self, project_id: int) -> dict[str, Any]:
        """The settings that the project's lead typed into Label Studio's form; empty without any."""
        path = self._project(project_id) / "extra-params.json"
        if not path.exists():
            return {}
        try:
            return read_sealed(path, unsealed_too=True)
        except CorruptRound as error:  # Label Studio sends them again with its next /setup
            log.error("project %d goes by the common settings: %s", project_id, error)
            return {}

    def keep_extra_params(self, project_id: int, given: Mapping[str, Any]) -> None:
        """Remember them for a known project."""
        if given != self.extra_params(project_id):
            write_sealed(self._project(project_id) / "extra-params.json", given)

    def connection_path(self, project_id: int) -> Path:
        """Where it is kept how the project stood in Label Studio before it was connected."""
        return self._project(project_id) / "connection.json"

    def disconnect(self, project_id: int) -> None:
        """Have the project unknown until it is registered again; its rounds stay."""
        if self._project(project_id).exists():
            (self._project(project_id) / DISCONNECTED).touch()

    def is_disconnected(self, project_id: int) -> bool:
        return (self._project(project_id) / DISCONNECTED).exists()

    def replay_path(self, project_id: int) -> Path:
        """Where a replay of strategies on the project's images is kept."""
        return self._project(project_id) / "replay.json"

    def forget(self, project_id: int) -> None:
        """Put the project with all its rounds aside, into ``gone/<id>-<time>``, where a person finds them."""
        (self.root / "gone").mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self._project(project_id).rename(self.root / "gone" / f"{project_id}-{time.time():.0f}")

    def empty_gone(self, seconds: float = GONE_SECONDS) -> None:
        """Remove the projects that were put aside longer ago than that."""
        for path in (self.root / "gone").glob("*-*"):
            since = path.name.partition("-")[2]
            if since.isdecimal() and int(since) < time.time() - seconds:
                shutil.rmtree(path, ignore_errors=True)

    def projects(self) -> list[int]:
        """Ids of the known projects, ascending."""
        folder = self.root / "projects"
        known = sorted(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdecimal())
        return [project_id for project_id in known if not self.is_disconnected(project_id)]

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
        write_sealed(self._project(project_id) / "held.json", asdict(hold))

    def held(self, project_id: int) -> Hold | None:
        """Why no round starts by itself; None where they do."""
        path = self._project(project_id) / "held.json"
        if not path.exists():
            return None
        try:
            return Hold(**_known(Hold, read_sealed(path)))
        except CorruptRound as error:  # somebody wanted it held: a person is to say that it goes on
            return Hold(f"What held the project back cannot be read: {error.why}.", None, 0)

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

    def latest(self, project_id: int, *, verified: bool = False) -> StoredRound | None:
        """The first of ``newest_first`` that can be read; a corrupt one is passed over and said in the log.

        ``verified``: the first of which every file is as it was saved, which takes reading them all.
        """
        for number in self.newest_first(project_id):
            try:
                stored = self.open(project_id, number)
                if verified:
                    stored.verify()
                return stored
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
        """Remove all but the newest ``keep`` rounds; what they measured stays in the history.

        One that cannot be read counts for none, and stays until all that are kept are newer.
        """
        folder = self._project(project_id)
        readable = [
            number for number in self.newest_first(project_id) if self._is_readable(project_id, number)
        ]
        oldest = min(readable[:keep], default=0)
        dead = [*readable[keep:], *(n for n in self.numbers(project_id) if n < oldest and n not in readable)]
        if dead:
            history = [asdict(record) for record in self.history(project_id)]
            for name in HISTORIES:
                write_sealed(folder / name, {"rounds": history})
        for number in dead:
            shutil.rmtree(folder / _folder(number), ignore_errors=True)

    def _is_readable(self, project_id: int, number: int) -> bool:
        try:
            self.open(project_id, number)
        except CorruptRound:
            return False
        return True

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
    return _record(read_sealed(path / "round.json"))


def _record(saved: dict[str, Any]) -> Round:
    labels = saved["labels"]
    if labels:
        paths = tuple(tuple(path) for path in labels.get("paths", ()))
        labels = Labels(**{**_known(Labels, labels), "names": tuple(labels["names"]), "paths": paths})
    lists = {name: tuple(saved.get(name, ())) for name in (*_NO_LISTS, "random_slice", "remarks")}
    return Round(**{**_known(Round, saved), "labels": labels, **lists})


def _known(kind: type[Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the saved fields that the dataclass has: a newer release, before a way back, had more."""
    return {each.name: saved[each.name] for each in fields(kind) if each.name in saved}


def _read_history(folder: Path) -> list[Round]:
    """The records in ``history.json``; where that is damaged, those in its copy."""
    for name in HISTORIES:
        if (folder / name).exists():
            try:
                return [_record(saved) for saved in read_sealed(folder / name)["rounds"]]
            except CorruptRound as error:
                log.error("passed over: %s", error)
    return []
