"""Rounds on disk: saved completely or not at all, checked when they are read, pruned.

    MODEL_DIR/webhook-secret
    MODEL_DIR/projects/<id>/round-00003/round.json, *.npy, model.safetensors, neighbors.ann, published.json
    MODEL_DIR/projects/<id>/history.json         records of pruned rounds; and a copy
    MODEL_DIR/projects/<id>/audition.json        the backbones compared on its labels, and which was chosen
    MODEL_DIR/projects/<id>/held.json            why no round starts automatically, if so
    MODEL_DIR/projects/<id>/backbone.json        the backbone that was chosen for it, where none is set
    MODEL_DIR/projects/<id>/tasks.json           its tasks as last read from Label Studio, without secrets
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
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from coreset_backend.errors import CorruptFile, CorruptRound, RoundNotFound, StoreError
from coreset_backend.files import is_there, read_sealed, remove_partial, saving, write_sealed
from coreset_backend.project import KnownTasks
from coreset_backend.store.record import AUDITION, CHOICE, HOLD, KNOWN_TASKS, ROUND, Audition, as_saved, taken
from coreset_backend.store.record import BackboneChoice as BackboneChoice
from coreset_backend.store.record import Hold as Hold
from coreset_backend.store.record import Round as Round
from coreset_backend.store.saved_round import Draft, StoredRound, _folder
from coreset_backend.store.secret import kept_secret

log = logging.getLogger(__name__)
T = TypeVar("T")

DISCONNECTED = "disconnected"
TASKS = "tasks.json"
HISTORIES = ("history.json", "history-copy.json")
GONE_SECONDS = 7 * 86_400
A_PROJECT = re.compile(r"[1-9][0-9]{0,17}")
A_ROUND = re.compile(r"round-((?=[0-9]*[1-9])[0-9]{5}|[1-9][0-9]{5,8})")
GONE = re.compile(r"[1-9][0-9]{0,17}-([0-9]{10,11})")
"""The exact names of the store's folders; anything else, such as a copy that a person made, is ignored."""


class Store:
    """All projects' rounds below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def image_cache(self) -> Path:
        return self.root / "images"

    def pretraining(self, project_id: int) -> Path:
        return self._project(project_id) / "pretraining"

    def audition(self, project_id: int) -> Audition | None:
        """The last audition of the project; None where none was held, or its file is damaged."""
        path = self._project(project_id) / "audition.json"
        if not is_there(path):
            return None
        try:
            return taken(AUDITION, read_sealed(path))
        except (CorruptFile, ValueError) as error:  # the next round goes without, and another is held
            log.error("project %d has no audition: %s: %s", project_id, path.name, error)
            return None

    def keep_audition(self, project_id: int, held: Audition) -> None:
        """Remember how an audition ended; raises Unwritable."""
        write_sealed(self._project(project_id) / "audition.json", as_saved(AUDITION, held))

    def webhook_secret(self) -> str:
        """The webhook secret, generated at the first call and readable by its owner only."""
        with saving(path := self.root / "webhook-secret"):
            self.root.mkdir(parents=True, exist_ok=True)
        return kept_secret(path)

    def register(self, project_id: int) -> bool:
        """Register the project; returns whether it was new or disconnected. Raises Unwritable."""
        folder, is_new = self._project(project_id), self.is_disconnected(project_id)
        with saving(folder):
            if is_new:
                self.connection_path(project_id).unlink(missing_ok=True)
                (folder / DISCONNECTED).unlink(missing_ok=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            is_new = is_new or not folder.is_dir()
            folder.mkdir(exist_ok=True)
        return is_new

    def extra_params(self, project_id: int) -> dict[str, object]:
        """The project's settings from Label Studio's form; empty if there are none."""
        path = self._project(project_id) / "extra-params.json"
        if not is_there(path):
            return {}
        try:
            return read_sealed(path, unsealed_too=True)
        except CorruptFile as error:  # Label Studio sends them again with its next /setup
            log.error("project %d uses the settings of the environment: %s", project_id, error)
            return {}

    def keep_extra_params(self, project_id: int, given: Mapping[str, object]) -> None:
        """Save the settings from Label Studio's form for a known project; raises Unwritable."""
        if given != self.extra_params(project_id):
            write_sealed(self._project(project_id) / "extra-params.json", given)

    def backbone_choice(self, project_id: int) -> BackboneChoice | None:
        """The backbone that was chosen for the project; None before, or where the file is damaged."""
        path = self._project(project_id) / "backbone.json"
        if not is_there(path):
            return None
        try:
            return taken(CHOICE, read_sealed(path))
        except (CorruptFile, ValueError) as error:
            log.error("project %d: its backbone is chosen anew: %s", project_id, error)
            return None

    def keep_backbone_choice(self, project_id: int, choice: BackboneChoice) -> None:
        """Keep the backbone that the project's rounds stand on from now on; raises Unwritable."""
        self.register(project_id)
        write_sealed(self._project(project_id) / "backbone.json", as_saved(CHOICE, choice))

    def known_tasks(self, project_id: int) -> KnownTasks | None:
        """The project's tasks as last read; None before, or where the file cannot be used."""
        path = self._project(project_id) / TASKS
        if not is_there(path):
            return None
        try:
            return taken(KNOWN_TASKS, read_sealed(path))
        except (CorruptFile, ValueError) as error:
            log.error("project %d: all its tasks are read: %s", project_id, error)
            return None

    def keep_known_tasks(self, project_id: int, known: KnownTasks) -> None:
        """Keep the project's tasks for the next reading; raises Unwritable."""
        self.register(project_id)
        write_sealed(self._project(project_id) / TASKS, as_saved(KNOWN_TASKS, known))

    def forget_known_tasks(self, project_id: int) -> None:
        """Have all tasks read again; raises Unwritable."""
        with saving(path := self._project(project_id) / TASKS):
            path.unlink(missing_ok=True)

    def connection_path(self, project_id: int) -> Path:
        """The file with the project's settings in Label Studio before it was connected."""
        return self._project(project_id) / "connection.json"

    def disconnect(self, project_id: int) -> None:
        """Treat the project as unknown until it is registered again; its rounds are kept."""
        if self._project(project_id).exists():
            with saving(path := self._project(project_id) / DISCONNECTED):
                path.touch()

    def is_disconnected(self, project_id: int) -> bool:
        try:
            return (self._project(project_id) / DISCONNECTED).exists()
        except OSError:  # the folder cannot be read, so nothing says that it is disconnected
            return False

    def replay_path(self, project_id: int) -> Path:
        """The file with a replay of strategies on the project's images."""
        return self._project(project_id) / "replay.json"

    def forget(self, project_id: int) -> None:
        """Move the project with all its rounds to ``gone/<id>-<time>``, from where a person can
        restore it.
        """
        aside = self.root / "gone" / f"{project_id}-{time.time():.0f}"
        with saving(aside), contextlib.suppress(FileNotFoundError):
            aside.parent.mkdir(exist_ok=True)
            self._project(project_id).rename(aside)

    def empty_gone(self, seconds: float = GONE_SECONDS) -> None:
        """Remove the projects that were moved to ``gone/`` more than ``seconds`` ago."""
        for name in _folders(self.root / "gone", GONE):
            since = GONE.fullmatch(name)
            if since and int(since[1]) < time.time() - seconds:
                shutil.rmtree(self.root / "gone" / name, ignore_errors=True)

    def projects(self) -> list[int]:
        """Ids of the known projects, ascending."""
        known = sorted(int(name) for name in _folders(self.root / "projects", A_PROJECT))
        return [project_id for project_id in known if not self.is_disconnected(project_id)]

    def numbers(self, project_id: int) -> list[int]:
        """Numbers of the project's rounds, ascending; raises StoreError if its folder cannot be read."""
        return sorted(map(_number, _folders(self._project(project_id), A_ROUND)))

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
        write_sealed(self._project(project_id) / "held.json", as_saved(HOLD, hold), before=before)

    def held(self, project_id: int) -> Hold | None:
        """Why no round starts automatically; None if rounds do."""
        path = self._project(project_id) / "held.json"
        if not is_there(path):
            return None
        try:
            return taken(HOLD, read_sealed(path))
        except CorruptFile as error:  # a person paused it, so a person has to start it again
            return Hold(f"Rounds are paused, but the reason cannot be read: {error.why}.", None, 0)
        except ValueError as error:
            return Hold(f"Rounds are paused, but the reason cannot be read: {path.name}, {error}.", None, 0)

    def release(self, project_id: int) -> None:
        """Let rounds start automatically again; raises Unwritable."""
        with saving(path := self._project(project_id) / "held.json"):
            path.unlink(missing_ok=True)

    def open(self, project_id: int, number: int) -> StoredRound:
        """One round. Raises RoundNotFound or CorruptRound."""
        path = self._project(project_id) / _folder(number)
        if not A_ROUND.fullmatch(path.name) or not _is_folder(path):
            known = ", ".join(map(str, self.numbers(project_id))) or "none"
            raise RoundNotFound(f"Project {project_id} has no round {str(number)[:20]}. Its rounds: {known}.")
        return StoredRound(_read_record(path, project_id, number), path)

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
        folder = self._project(project_id)
        for torn in folder.glob(".draft-*"):
            shutil.rmtree(torn, ignore_errors=True)
        for place in (folder, self.pretraining(project_id)):
            remove_partial(place)
        # A file of that name also prevents a round from using it.
        taken_names = (path.name for path in folder.glob("round-*") if A_ROUND.fullmatch(path.name))
        number = max(map(_number, taken_names), default=0) + 1
        path = folder / f".draft-{number}-{secrets.token_hex(4)}"
        path.mkdir()
        try:
            yield Draft(path, project_id, number)
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def prune(self, project_id: int, keep: int) -> None:
        """Remove all but the newest ``keep`` rounds; the history keeps their records.

        An unreadable round does not count, and is kept until all kept rounds are newer.
        """
        folder = self._project(project_id)
        readable = [stored.record.number for stored in self.readable(project_id)]
        oldest = min(readable[:keep], default=0)
        dead = [*readable[keep:], *(n for n in self.numbers(project_id) if n < oldest and n not in readable)]
        if dead:
            history = [as_saved(ROUND, record) for record in self.history(project_id)]
            for name in HISTORIES:
                write_sealed(folder / name, {"rounds": history})
        for number in dead:
            shutil.rmtree(folder / _folder(number), ignore_errors=True)

    def history(self, project_id: int, opened: Iterable[StoredRound] | None = None) -> list[Round]:
        """The records of all rounds, pruned ones included, oldest first, without their lists of tasks.

        Records of pruned rounds come from ``history.json``. Unreadable records are ignored. ``opened``: the
        result of ``readable``, if the caller has it.
        """
        rounds = self.readable(project_id) if opened is None else opened
        records = {record.number: record for record in _read_history(self._project(project_id))}
        records |= {stored.record.number: stored.record for stored in rounds}
        return [_without_lists(records[number]) for number in sorted(records)]

    def _project(self, project_id: int) -> Path:
        return self.root / "projects" / str(int(project_id))


def _without_lists(record: Round) -> Round:
    return replace(record, batch=(), reserve=(), distances=(), holdout=(), failures=())


def _verified(stored: StoredRound) -> StoredRound:
    stored.verify()
    return stored


def _number(folder: str) -> int:
    return int(folder.removeprefix("round-"))


def _folders(folder: Path, pattern: re.Pattern[str]) -> list[str]:
    """Names of the folders in ``folder`` that match the whole pattern; raises StoreError."""
    try:
        paths = list(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(
            f"The folder {folder} cannot be read ({error.strerror}). Repair it or its permissions."
        ) from error
    return [path.name for path in paths if pattern.fullmatch(path.name) and _is_folder(path)]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # nothing in it can be read either
        return False


def _read_record(path: Path, project_id: int, number: int) -> Round:
    try:
        record = taken(ROUND, read_sealed(path / "round.json"))
    except CorruptFile as error:
        raise CorruptRound(path, error.why) from error
    except ValueError as error:
        raise CorruptRound(path, f"round.json is malformed ({error})") from None
    if (record.project_id, record.number) != (project_id, number):
        raise CorruptRound(path, f"it is round {record.number} of project {record.project_id}, copied here")
    return record


def _read_history(folder: Path) -> list[Round]:
    """The records in ``history.json``, or in its copy if that is damaged."""
    for name in HISTORIES:
        if is_there(folder / name):
            try:
                saved = read_sealed(folder / name).get("rounds")
            except CorruptFile as error:
                log.error("ignored: %s", error)
            else:
                return list(_records(folder / name, saved))
    return []


def _records(path: Path, saved: object) -> Iterator[Round]:
    if not isinstance(saved, list):
        log.error("ignored: %s contains no list of rounds", path)
        return
    for place, each in enumerate(saved):
        try:
            yield taken(ROUND, each)
        except ValueError as error:
            log.error("ignored: entry %d of %s is malformed (%s)", place, path, error)
