"""`coreset-backend doctor`: each problem that prevents rounds, with its fix."""

import errno
import logging
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click
import httpx

from coreset_backend.backend import Backend, open_backend
from coreset_backend.cli.terminal import optional_project, running_settings, say
from coreset_backend.connection.connect import image_words, supported_release
from coreset_backend.connection.problems import problems as connection_problems
from coreset_backend.errors import CoresetError, CorruptRound, ProjectError
from coreset_backend.fleet.ray_process import describe_cluster
from coreset_backend.foreign_text import one_line
from coreset_backend.jobs.monitoring import workers_alive
from coreset_backend.jobs.states import RoundState
from coreset_backend.jobs.status import project_progress
from coreset_backend.label_studio.annotations import HIDDEN
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.label_studio.label_config import parse_label_config
from coreset_backend.label_studio.payloads import parse_task
from coreset_backend.settings.environment import secret_files

log = logging.getLogger(__name__)
LEAST_FREE_BYTES = 1_000_000_000
CONTAINER_SECRETS = Path("/run/secrets")
Check = Callable[[Backend], Iterator[str]]


class Note(str):
    """A line that informs without being a problem."""


@click.command()
@optional_project
def doctor(project_id: int | None) -> None:
    """Check everything and print a fix for each problem.

    It checks store, Redis, worker, web, Label Studio and each project. The exit status is 1 if there is a
    problem.
    """
    backend = open_backend(running_settings())
    all_sound = True
    for name, lines in examine(backend, [project_id] if project_id else backend.store.projects()):
        sound = all(isinstance(line, Note) for line in lines)
        say(f"{'ok     ' if sound else 'PROBLEM'}  {name}")
        for line in lines:
            say(f"         {one_line(line)}")
        all_sound = all_sound and sound
    sys.exit(0 if all_sound else 1)


def examine(backend: Backend, project_ids: list[int]) -> Iterator[tuple[str, list[str]]]:
    """(name, problems and notes) of each check in turn; a problem says its fix."""
    for name, check in CHECKS.items():
        yield name, _found(check, backend)
    for project_id in project_ids:
        yield f"Project {project_id}", _found(partial(_project, project_id=project_id), backend)


def _found(check: Check, backend: Backend) -> list[str]:
    found: list[str] = []
    try:
        for problem in check(backend):
            found.append(problem)
    except CoresetError as error:
        found.append(str(error))
    except Exception as error:
        log.exception("a check ended in an unexpected error")
        found.append(f"The check failed ({type(error).__name__}: {error}).")
    return found


def _store(backend: Backend) -> Iterator[str]:
    folder, place = backend.settings.local_dir, backend.settings.model_dir
    if isinstance(place, str):
        backend.store.probe()
        yield Note(f"Rounds are in {place}; this machine has its copies and the image cache in {folder}.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(4096))
            probe.flush()
        backend.store.webhook_secret()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        yield f"{folder} cannot be written ({error.strerror}). {_fix(error, folder)}"
        return
    if free < LEAST_FREE_BYTES:
        yield (
            f"Only {free / 1e9:.1f} GB are free below {folder}; the next round may not be saved. Make room, "
            "or lower CORESET_CACHE_GB and CORESET_KEEP_ROUNDS."
        )


def _fix(error: OSError, folder: Path) -> str:
    fixes = {
        errno.ENOSPC: "Make room.",
        errno.EDQUOT: "Make room, or raise the quota.",
        errno.EROFS: "Mount it writable.",
    }
    return fixes.get(error.errno or 0, f"Run: chown -R {os.getuid()} {folder}")


def _redis(backend: Backend) -> Iterator[str]:
    if not workers_alive(backend.queue):
        yield (
            f"No worker listens to the queue '{backend.settings.queue_name}', so no round will run. "
            "Start one with `coreset-backend work`, on the same REDIS_URL and RQ_QUEUE_NAME."
        )


def _web(backend: Backend) -> Iterator[str]:
    url = backend.settings.url
    try:
        answer = httpx.get(f"{url}/health", timeout=20, verify=backend.settings.verify_ssl, trust_env=False)
    except httpx.HTTPError as error:
        yield (
            f"No web process answers at {url} ({type(error).__name__}). Start `coreset-backend serve`, and "
            "set CORESET_URL to the address at which Label Studio reaches it (this machine may need another)."
        )
        return
    if answer.status_code != 200 or "Coreset" not in answer.text:
        yield f"{url}/health answered {answer.status_code}, not as this backend does. Check CORESET_URL."


def _label_studio(backend: Backend) -> Iterator[str]:
    proxy = backend.proxies.leading_to_label_studio()
    if proxy:
        yield Note(f"It is reached through the proxy {proxy}, as CORESET_LABEL_STUDIO_PROXY says.")
    backend.label_studio.whoami()
    supported_release(backend.label_studio)


def _proxies(backend: Backend) -> Iterator[str]:
    described = backend.proxies.description()
    if described:
        yield Note(described)


def _cluster(backend: Backend) -> Iterator[str]:
    if backend.settings.cluster:
        for line, is_problem in describe_cluster(backend.settings):
            yield line if is_problem else Note(line)


def _secrets(_: Backend) -> Iterator[str]:
    for name, path in secret_files().items():
        # A container has no other users, and Compose keeps the permissions of a file that it mounts.
        if not path.is_relative_to(CONTAINER_SECRETS) and _everybody_reads(path.resolve()):
            yield f"{name} names {path}, which every user of this machine can read. Run: chmod o-r {path}"


def _everybody_reads(path: Path) -> bool:
    return bool(path.stat().st_mode & stat.S_IROTH) and all(
        folder.stat().st_mode & stat.S_IXOTH for folder in path.parents
    )


def _project(backend: Backend, project_id: int) -> Iterator[str]:
    yield from _unusable(backend, project_id)
    newest = backend.store.latest(project_id)
    known = project_progress(backend, project_id, newest)
    if known.error:
        yield known.sentence
    is_resting = known.state in (RoundState.IDLE, RoundState.FAILED)
    batch_expected = is_resting and (newest is None or bool(newest.record.batch))
    yield from connection_problems(backend, project_id, batch_expected=batch_expected)
    yield from _first_image(backend, backend.label_studio, project_id)
    if newest:
        yield from (Note(each) if HIDDEN in each else each for each in newest.record.remarks)


def _unusable(backend: Backend, project_id: int) -> Iterator[str]:
    """Rounds and settings of the project in the store that cannot be used."""
    store = backend.store
    for number in store.numbers(project_id):
        try:
            store.open(project_id, number)
        except CorruptRound as error:
            yield str(error)
    kept = store.extra_params(project_id)
    if unused := sorted(set(kept) - set(backend.known_params(project_id))):
        yield (
            f"Settings saved from Label Studio's form are unknown to this release and ignored: "
            f"{', '.join(unused)[:100]!r}. Correct them under Settings > Model."
        )


def _first_image(backend: Backend, label_studio: LabelStudio, project_id: int) -> Iterator[str]:
    control = backend.settings_by_label_config(project_id, {}).control
    config = parse_label_config(label_studio.fetch_project(project_id).label_config, control)
    first = label_studio.fetch_first_task(project_id)
    if first is None:
        raise ProjectError("The project has no tasks yet. Import images into it.")
    yield from map(Note, config.notes)
    task = parse_task(first, config)
    if task.uri is None:
        yield from image_words(first, config)
        return
    mapped = backend.images.mapped(task.uri)
    if mapped:
        yield Note(f"Images with addresses at {mapped} are read from Label Studio at {label_studio.url}.")
    failure = backend.images.check(task.task_id, task.uri)
    if failure:
        yield f"The image of task {task.task_id} cannot be read: {failure}"


CHECKS: dict[str, Check] = {
    "Store": _store,
    "Redis and worker": _redis,
    "Web": _web,
    "Label Studio": _label_studio,
    "Proxies": _proxies,
    "Secret files": _secrets,
    "Cluster": _cluster,
}
