"""Rounds on disk: saved completely or not at all, checked when they are read, pruned.

    MODEL_DIR/webhook-secret
    MODEL_DIR/projects/<id>/round-00003/round.json, *.npy, model.safetensors, neighbors.ann, published.json
    MODEL_DIR/projects/<id>/history.json         records of pruned rounds; and a copy
    MODEL_DIR/projects/<id>/audition.json        the backbones compared on its labels, and which was chosen
    MODEL_DIR/projects/<id>/held.json            why no round starts automatically, if so
    MODEL_DIR/projects/<id>/backbone.json        the backbone that was chosen for it, where none is set
    MODEL_DIR/projects/<id>/tasks.json           its tasks as last read from Label Studio, without secrets
    MODEL_DIR/projects/<id>/refresh.json         when a person last asked that all is read anew
    MODEL_DIR/projects/<id>/connection.json      its settings in Label Studio before it was connected
    MODEL_DIR/projects/<id>/disconnected         exists while it is disconnected
    MODEL_DIR/projects/<id>/extra-params.json    its settings from Label Studio's form
    MODEL_DIR/gone/<id>-<time>                   projects that were deleted in Label Studio, for a week
    MODEL_DIR/projects/<id>/replay.json          strategies compared on the project's images
    MODEL_DIR/images/                            the image cache

``round.json`` contains the SHA-256 of every other file; a round becomes visible by one rename.
"""

import contextlib
import logging
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from coreset_backend.errors import CorruptFile, CorruptRound, RoundNotFound
from coreset_backend.files import remove_partial
from coreset_backend.project import KnownTasks
from coreset_backend.store.folder import Folder
from coreset_backend.store.record import (
    AUDITION,
    CHOICE,
    HOLD,
    KNOWN_TASKS,
    REFRESH,
    ROUND,
    Audition,
    Refresh,
    as_saved,
    taken,
)
from coreset_backend.store.record import BackboneChoice as BackboneChoice
from coreset_backend.store.record import Hold as Hold
from coreset_backend.store.record import Round as Round
from coreset_backend.store.saved_round import Draft, StoredRound
from coreset_backend.store.storage import A_ROUND, RECORD, Kept, Storage, remembered

log = logging.getLogger(__name__)
T = TypeVar("T")

DISCONNECTED = "disconnected"
CONNECTION_FILE = "connection.json"
TASKS = "tasks.json"
HISTORIES = ("history.json", "history-copy.json")
GONE_SECONDS = 7 * 86_400
A_PROJECT = re.compile(r"[1-9][0-9]{0,17}")
GONE = re.compile(r"[1-9][0-9]{0,17}-([0-9]{10,11})")
"""The exact names of the store's folders; anything else, such as a copy that a person made, is ignored."""


class Store:
    """All projects' rounds, in a folder or in another storage; ``root`` is its folder of this machine."""

    def __init__(self, place: Path | Storage) -> None:
        self._storage = Folder(place) if isinstance(place, Path) else place
        self.root = self._storage.local

    def as_of_now(self) -> AbstractContextManager[None]:
        """Around code that only reads, so that a bucket is asked as seldom as can be."""
        return self._storage.as_of_now()

    def probe(self) -> None:
        """Raises StoreError with a fix if rounds cannot be saved in a bucket."""
        self._storage.probe()

    @property
    def image_cache(self) -> Path:
        return self.root / "images"

    def pretraining(self, project_id: int) -> Path:
        """The folder on this machine with the pretraining on the project's pool, as it was last kept."""
        return self._storage.fetched_folder(self._pretraining(project_id))

    def keep_pretraining(self, project_id: int) -> None:
        """Keep what is in that folder now; raises StoreError."""
        self._storage.keep_folder(self._pretraining(project_id))

    def kept(self, project_id: int, name: str) -> Kept:
        """A small file of the project, such as ``replay.json``."""
        return Kept(self._storage, f"{self._project(project_id)}/{name}")

    def shards(self, project_id: int) -> Path:
        """The folder of the features that a round has computed and not saved yet."""
        return self.root / self._project(project_id) / "shards"

    def audition(self, project_id: int) -> Audition | None:
        """The last audition of the project; None where none was held, or its file is damaged."""
        kept = self.kept(project_id, "audition.json")
        try:
            return kept.read_as(AUDITION)
        except (CorruptFile, ValueError) as error:  # the next round goes without, and another is held
            log.error("project %d has no audition: %s: %s", project_id, kept.name, error)
            return None

    def keep_audition(self, project_id: int, held: Audition) -> None:
        """Remember how an audition ended; raises Unwritable."""
        self.kept(project_id, "audition.json").write(as_saved(AUDITION, held))

    def webhook_secret(self) -> str:
        """The webhook secret, generated at the first call and readable by its owner only."""
        return self._storage.secret("webhook-secret")

    def register(self, project_id: int) -> bool:
        """Register the project; returns whether it was new or disconnected. Raises Unwritable."""
        was_disconnected = self.is_disconnected(project_id)
        if was_disconnected:
            self.kept(project_id, CONNECTION_FILE).delete()
            self.kept(project_id, DISCONNECTED).delete()
        return self._storage.make_folder(self._project(project_id)) or was_disconnected

    def extra_params(self, project_id: int) -> dict[str, object]:
        """The project's settings from Label Studio's form; empty if there are none."""
        try:
            return self.kept(project_id, "extra-params.json").read(unsealed_too=True) or {}
        except CorruptFile as error:  # Label Studio sends them again with its next /setup
            log.error("project %d uses the settings of the environment: %s", project_id, error)
            return {}

    def keep_extra_params(self, project_id: int, given: Mapping[str, object]) -> None:
        """Save the settings from Label Studio's form for a known project; raises Unwritable."""
        if given != self.extra_params(project_id):
            self.kept(project_id, "extra-params.json").write(given)

    def backbone_choice(self, project_id: int) -> BackboneChoice | None:
        """The backbone that was chosen for the project; None before, or where the file is damaged."""
        try:
            return self.kept(project_id, "backbone.json").read_as(CHOICE)
        except (CorruptFile, ValueError) as error:
            log.error("project %d: its backbone is chosen anew: %s", project_id, error)
            return None

    def keep_backbone_choice(self, project_id: int, choice: BackboneChoice) -> None:
        """Keep the backbone that the project's rounds stand on from now on; raises Unwritable."""
        self.register(project_id)
        self.kept(project_id, "backbone.json").write(as_saved(CHOICE, choice))

    def known_tasks(self, project_id: int) -> KnownTasks | None:
        """The project's tasks as last read; None before, or where the file cannot be used."""
        try:
            saved = self.kept(project_id, TASKS).read()
            return None if saved is None else taken(KNOWN_TASKS, saved)
        except (CorruptFile, ValueError) as error:
            log.error("project %d: all its tasks are read: %s", project_id, error)
            return None

    def keep_known_tasks(self, project_id: int, known: KnownTasks) -> None:
        """Keep the project's tasks for the next reading; raises Unwritable."""
        self.register(project_id)
        self.kept(project_id, TASKS).write(as_saved(KNOWN_TASKS, known))

    def refresh(self, project_id: int) -> None:
        """Have every host read all tasks and check all images again; raises Unwritable."""
        at = max(time.time(), self.refreshed_at(project_id) + 1)  # the clock of another host may be ahead
        self.kept(project_id, "refresh.json").write(as_saved(REFRESH, Refresh(at)))

    def refreshed_at(self, project_id: int) -> float:
        """When that was last asked for, Unix time; 0 if never, or where the file is damaged."""
        try:
            asked = self.kept(project_id, "refresh.json").read_as(REFRESH)
        except (CorruptFile, ValueError) as error:
            log.error("project %d: refresh it again if you asked for it lately: %s", project_id, error)
            return 0.0
        return asked.at if asked else 0.0

    def disconnect(self, project_id: int) -> None:
        """Treat the project as unknown until it is registered again; its rounds are kept."""
        if self._storage.has_folder(project := self._project(project_id)):
            self._storage.mark(f"{project}/{DISCONNECTED}")

    def make_disconnected(self, project_id: int) -> None:
        """Make the project's folder, if there is none, as that of a project that is not connected yet."""
        if not self._storage.has_folder(self._project(project_id)):
            self.register(project_id)
            self.disconnect(project_id)

    def is_disconnected(self, project_id: int) -> bool:
        return self._storage.is_marked(f"{self._project(project_id)}/{DISCONNECTED}")

    def forget(self, project_id: int) -> None:
        """Move the project with all its rounds to ``gone/<id>-<time>``, from where a person can
        restore it.
        """
        self._storage.move_folder(self._project(project_id), f"gone/{project_id}-{time.time():.0f}")

    def empty_gone(self, seconds: float = GONE_SECONDS) -> None:
        """Remove the projects that were moved to ``gone/`` more than ``seconds`` ago."""
        for name in self._storage.folders("gone", GONE):
            since = GONE.fullmatch(name)
            if since and int(since[1]) < time.time() - seconds:
                self._storage.remove_folder(f"gone/{name}")

    def projects(self) -> list[int]:
        """Ids of the known projects, ascending."""
        known = sorted(int(name) for name in self._storage.folders("projects", A_PROJECT))
        return [project_id for project_id in known if not self.is_disconnected(project_id)]

    def numbers(self, project_id: int) -> list[int]:
        """Numbers of the project's rounds, ascending; raises StoreError if its folder cannot be read."""
        return sorted(map(_number, self._storage.rounds(self._project(project_id))))

    def newest_first(self, project_id: int) -> list[int]:
        """Numbers of the rounds, newest first; a round that was rolled back to comes before all."""
        numbers, held = self.numbers(project_id)[::-1], self.held(project_id)
        if held and held.number in numbers and held.newest == numbers[0]:
            numbers.remove(held.number)
            numbers.insert(0, held.number)
        return numbers

    def hold(
        self,
        project_id: int,
        reason: str,
        number: int | None = None,
        *,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Pause automatic rounds until ``release``; ``number``: roll back to it. ``before`` as `write_sealed`
        has it. The caller holds the lease; raises Unwritable.
        """
        hold = Hold(reason, number, max(self.numbers(project_id), default=0))
        self.kept(project_id, "held.json").write(as_saved(HOLD, hold), before=before)

    def held(self, project_id: int) -> Hold | None:
        """Why no round starts automatically; None if rounds do."""
        kept = self.kept(project_id, "held.json")
        try:
            return kept.read_as(HOLD)
        except CorruptFile as error:  # a person paused it, so a person has to start it again
            return Hold(f"Rounds are paused, but the reason cannot be read: {error.why}.", None, 0)
        except ValueError as error:
            return Hold(f"Rounds are paused, but the reason cannot be read: {kept.name}, {error}.", None, 0)

    def release(self, project_id: int) -> None:
        """Let rounds start automatically again; raises Unwritable."""
        self.kept(project_id, "held.json").delete()

    def open(self, project_id: int, number: int) -> StoredRound:
        """One round. Raises RoundNotFound or CorruptRound."""
        key = self._round(project_id, number)
        opened = self._storage.open_round(key) if A_ROUND.fullmatch(_folder(number)) else None
        if opened is None:
            known = ", ".join(map(str, self.numbers(project_id))) or "none"
            raise RoundNotFound(f"Project {project_id} has no round {str(number)[:20]}. Its rounds: {known}.")
        content, path = opened
        record = _record(content, project_id, number, self._storage.place(key))
        return StoredRound(record, path, self._storage, key)

    def readable(self, project_id: int) -> Iterator[StoredRound]:
        """The rounds whose record can be read, in the order of ``newest_first``; the log names the others."""
        for number in self.newest_first(project_id):
            try:
                yield self.open(project_id, number)
            except CorruptRound as error:
                log.error("ignored: %s", error)

    def latest(self, project_id: int, *, verified: bool = False) -> StoredRound | None:
        """The first round of ``readable``; with ``verified``, the first without a changed file (reads all
        files).
        """
        if not verified:
            return next(self.readable(project_id), None)
        return self.first_read(project_id, _verified)

    def first_read(self, project_id: int, read: Callable[[StoredRound], T]) -> T | None:
        """The result of ``read`` for the first of ``readable`` without CorruptRound; None if
        there is none.
        """
        for stored in self.readable(project_id):
            try:
                return read(stored)
            except CorruptRound as error:
                log.error("ignored: %s", error)
        return None

    @contextlib.contextmanager
    def draft(self, project_id: int) -> Iterator[Draft]:
        """A folder for the next round; it is removed unless ``save`` was called.

        Removes what a killed worker left, so the caller must hold the project's lease.
        """
        self.register(project_id)
        folder = self.root / self._project(project_id)
        folder.mkdir(parents=True, exist_ok=True)
        for torn in folder.glob(".draft-*"):
            shutil.rmtree(torn, ignore_errors=True)
        for place in (folder, self.root / self._pretraining(project_id)):
            remove_partial(place)
        number = max(map(_number, self._storage.taken_names(self._project(project_id))), default=0) + 1
        path = folder / f".draft-{number}-{secrets.token_hex(4)}"
        path.mkdir()
        try:
            yield Draft(path, project_id, number, self._storage, self._round(project_id, number))
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def prune(self, project_id: int, keep: int) -> None:
        """Remove all but the newest ``keep`` rounds; the history keeps their records.

        An unreadable round does not count, and is kept until all kept rounds are newer.
        """
        readable = [stored.record.number for stored in self.readable(project_id)]
        oldest = min(readable[:keep], default=0)
        dead = [*readable[keep:], *(n for n in self.numbers(project_id) if n < oldest and n not in readable)]
        if dead:
            history = [as_saved(ROUND, record) for record in self.history(project_id)]
            for name in HISTORIES:
                self.kept(project_id, name).write({"rounds": history})
        for number in dead:
            self._storage.remove_folder(self._round(project_id, number))
        self._storage.sweep(self._project(project_id))

    def history(self, project_id: int, opened: Iterable[StoredRound] | None = None) -> list[Round]:
        """The records of all rounds, pruned ones included, oldest first, without their lists of tasks.

        Records of pruned rounds come from ``history.json``. Unreadable records are ignored. ``opened``: the
        result of ``readable``, if the caller has it.
        """
        rounds = self.readable(project_id) if opened is None else opened
        records = {record.number: record for record in self._read_history(project_id)}
        records |= {stored.record.number: stored.record for stored in rounds}
        return [_without_lists(records[number]) for number in sorted(records)]

    def _read_history(self, project_id: int) -> list[Round]:
        """The records in ``history.json``, or in its copy if that is damaged."""
        for kept in (self.kept(project_id, name) for name in HISTORIES):
            try:
                saved = kept.read()
            except CorruptFile as error:
                log.error("ignored: %s", error)
            else:
                if saved is not None:
                    return list(_records(kept, saved.get("rounds")))
        return []

    def _project(self, project_id: int) -> str:
        return f"projects/{int(project_id)}"

    def _round(self, project_id: int, number: int) -> str:
        return f"{self._project(project_id)}/{_folder(number)}"

    def _pretraining(self, project_id: int) -> str:
        return f"{self._project(project_id)}/pretraining"


def _without_lists(record: Round) -> Round:
    return replace(record, batch=(), reserve=(), distances=(), holdout=(), failures=())


def _verified(stored: StoredRound) -> StoredRound:
    stored.verify()
    return stored


def _number(folder: str) -> int:
    return int(folder.removeprefix("round-"))


def _folder(number: int) -> str:
    return f"round-{number:05d}" if 0 < number < 10**9 else "round-?"


def _record(content: bytes, project_id: int, number: int, place: str) -> Round:
    try:
        record = remembered(ROUND, f"{place}/{RECORD}", content)
    except CorruptFile as error:
        raise CorruptRound(place, error.why) from error
    except ValueError as error:
        raise CorruptRound(place, f"{RECORD} is malformed ({error})") from None
    if (record.project_id, record.number) != (project_id, number):
        raise CorruptRound(place, f"it is round {record.number} of project {record.project_id}, copied here")
    return record


def _records(kept: Kept, saved: object) -> Iterator[Round]:
    if not isinstance(saved, list):
        log.error("ignored: %s contains no list of rounds", kept)
        return
    for place, each in enumerate(saved):
        try:
            yield taken(ROUND, each)
        except ValueError as error:
            log.error("ignored: entry %d of %s is malformed (%s)", place, kept, error)
