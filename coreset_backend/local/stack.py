"""`coreset-backend run`: Redis, worker and web as one process tree, and a Label Studio to try it on."""

import contextlib
import fcntl
import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import httpx

from coreset_backend.backend import Backend, open_backend
from coreset_backend.connection.connect import connect
from coreset_backend.errors import ConfigError, CoresetError, LabelStudioError
from coreset_backend.files import saving
from coreset_backend.local import demo_project
from coreset_backend.local import label_studio as demo
from coreset_backend.local.annotator import DEMO_FOLDER, Show, perform
from coreset_backend.local.demo_images import CLASSES, add_broken_files, make_images
from coreset_backend.local.processes import Child, Tree
from coreset_backend.local.redis_server import _unwatched, embedded_redis, wait_for_redis
from coreset_backend.local.studio_environment import golden_cache, install_label_studio
from coreset_backend.settings import Settings, absolute_paths, read_settings
from coreset_backend.web.server import PACKAGES, gunicorn_command, local_address

log = logging.getLogger(__name__)


Report = demo.Report
DEMO_IMAGES = 400
DEMO_TITLE = "Core-Set demo"
RUN_FILE = "run.json"


def run(
    settings: Settings,
    root: Path,
    report: Report,
    label_studio_command: str | None = None,
    show: Show | None = None,
) -> None:
    """Run everything until Ctrl-C or SIGTERM. Raises ConfigError when a part cannot be had.

    Without REDIS_URL a private Redis is started, without LABEL_STUDIO_URL a local Label Studio with a
    demo project, which ``show`` labels by itself.
    """
    if show and settings.label_studio_url:
        raise ConfigError(
            "The demo labels by itself, so it runs on a Label Studio of its own: unset LABEL_STUDIO_URL."
        )
    tree = Tree(threading.Event())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: tree.stopping.set())
    with contextlib.ExitStack() as stack:
        stack.enter_context(_alone_in(settings.model_dir))
        _require_free_port(settings)
        environment = dict(os.environ) | absolute_paths()
        stack.callback(tree.stop)
        if not settings.redis_url:
            redis, environment["REDIS_URL"] = embedded_redis(settings.model_dir, stack)
            tree.start(redis)
        server = None
        if not settings.label_studio_url:
            server = stack.enter_context(local_label_studio(settings, root, report, label_studio_command))
            tree.also_watch = partial(_require_label_studio, server)
            environment |= {"LABEL_STUDIO_URL": server.url, "LABEL_STUDIO_API_KEY": server.login.token}
        os.environ.update(environment)  # from here on this process reads what its children read
        backend = _opened(read_settings(), stack)
        _start_parts(tree, backend, environment)
        if not tree.stopping.is_set():
            _say_what_is_next(tree, backend, server, report, show, stack)
        while tree.runs():
            pass
        report("Stopping.")


def _opened(settings: Settings, stack: contextlib.ExitStack) -> Backend:
    """The backend, closed with the stack, and its addresses where other commands find them."""
    stack.enter_context(_announced(settings))
    backend = open_backend(settings)
    stack.callback(backend.close)
    return backend


def _start_parts(tree: Tree, backend: Backend, environment: Mapping[str, str]) -> None:
    """Start worker and web, and wait until the web answers; ConfigError at once when a process ends."""
    wait_for_redis(backend.redis, alive=tree.require_alive)
    tree.start(worker_child(environment), web_child(backend.settings, environment))
    wait_for_web(backend.settings, tree.stopping, alive=tree.require_alive)


def _say_what_is_next(
    tree: Tree,
    backend: Backend,
    server: demo.LabelStudioServer | None,
    report: Report,
    show: Show | None,
    stack: contextlib.ExitStack,
) -> None:
    """Say where everything is; of a Label Studio of our own make the demo, which ``show`` then labels."""
    settings = backend.settings
    report(f"The backend answers at {local_address(settings)}.")
    if server:
        drawn = make_demo_images(server)
        project_id = introduce(backend, server, report, tree)
        if show and project_id:
            told = (show, backend, server, project_id, drawn, report, tree.stopping)
            performance = threading.Thread(target=perform, args=told)
            stack.callback(performance.join)
            performance.start()
    else:
        report(f"Serving {settings.label_studio_url}. Next: {own_command()} connect --project N")
    report("Press Ctrl-C to stop.")


def _require_label_studio(server: demo.LabelStudioServer) -> None:
    """LabelStudioError when our own Label Studio has ended, without which nobody can label."""
    if server.process.poll() is not None:
        raise LabelStudioError(f"{demo.how_it_ended(server)} Start again; nothing is lost.")


def own_command() -> str:
    """How a reader can type this command where they are: its name where the PATH has it, else its path."""
    ours, on_path = Path(sys.executable).with_name("coreset-backend"), shutil.which("coreset-backend")
    if on_path and (not ours.exists() or Path(on_path).samefile(ours)):
        return ours.name
    if not ours.exists():
        return f"{sys.executable} -m coreset_backend"
    here = Path.cwd()
    return str(ours.relative_to(here) if ours.is_relative_to(here) else ours)


@contextlib.contextmanager
def _alone_in(model_dir: Path) -> Iterator[None]:
    """Hold the folder's lock; ConfigError when another run holds it: two would tear one Redis apart.

    What this process and its children write from here on, no other user of the machine can read.
    """
    os.umask(0o077)
    with saving(model_dir / ".run.lock"):
        model_dir.mkdir(parents=True, exist_ok=True)
        lock = (model_dir / ".run.lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"Another `coreset-backend run` uses {model_dir}. Stop it first, or set MODEL_DIR to another "
                "folder."
            ) from None
        yield


@contextlib.contextmanager
def _announced(settings: Settings) -> Iterator[None]:
    """Keep in the store's folder, for the owner's eyes only, how other commands reach what runs here."""
    path = settings.model_dir / RUN_FILE
    key = settings.label_studio_api_key
    found = {
        "pid": os.getpid(),
        "redis_url": settings.redis_url,
        "label_studio_url": settings.label_studio_url,
        "label_studio_api_key": key.get_secret_value() if key else None,
        "url": settings.url,
    }
    settings.model_dir.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(found, file)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def settings_of_run(model_dir: Path) -> dict[str, str]:
    """How to reach what a running `coreset-backend run` started below ``model_dir``; empty if none runs."""
    try:
        found = json.loads((model_dir / RUN_FILE).read_text())
        os.kill(found.pop("pid"), 0)
    except (OSError, ValueError):
        return {}
    return {name: value for name, value in found.items() if value}


# ---------------------------------------------------------------- Redis


# ---------------------------------------------------------------- worker and web


def worker_child(environment: Mapping[str, str]) -> Child:
    # Asked to end, it would wait minutes for a Redis that is ending too; killed, it loses nothing.
    # -P: no file of the folder where it is started is taken for a module.
    command = [sys.executable, "-P", "-m", "coreset_backend", "work"]
    return Child("worker", command, environment, when_orphaned=signal.SIGKILL)


def web_child(settings: Settings, environment: Mapping[str, str]) -> Child:
    return Child("web", gunicorn_command(settings), environment, folder=PACKAGES)


def _require_free_port(settings: Settings) -> None:
    """ConfigError when somebody listens there, who would answer in place of our web server."""
    port, address = settings.port, httpx.URL(local_address(settings))
    if not demo.is_free(port, address.host):
        raise ConfigError(f"Port {port} is in use by another program. Stop that, or set PORT to another one.")


def wait_for_web(
    settings: Settings,
    stopping: threading.Event,
    patience: float = 60.0,
    alive: Callable[[], None] = _unwatched,
) -> None:
    """Return when /health is 200 or the stop was asked for; ConfigError after ``patience`` seconds, or what
    ``alive`` raises.
    """
    deadline = time.monotonic() + patience
    while not stopping.wait(0.1):
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{local_address(settings)}/health", trust_env=False).status_code == 200:
                return
        alive()
        if time.monotonic() > deadline:
            raise ConfigError(
                f"The web server does not answer on port {settings.port}; its log above says why."
            )


# ---------------------------------------------------------------- Label Studio and the demo project


@contextlib.contextmanager
def local_label_studio(
    settings: Settings, root: Path, report: Report, command: str | None
) -> Iterator[demo.LabelStudioServer]:
    """A Label Studio of our own with the demo's images below its document root."""
    executable = demo.find_label_studio(root, command)
    if executable is None and command:
        raise ConfigError(f"There is no executable {command!r}. Check --label-studio-command.")
    executable = executable or install_label_studio(report)
    folder = settings.model_dir / "label-studio"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # its database holds tokens in clear, and an earlier release left it open
    golden = demo.golden_data_dir(executable, golden_cache(executable, folder), report)
    data = demo.migrated_copy(golden, folder / "data")
    files = folder / "files"
    files.mkdir(exist_ok=True)
    port = 8080 if demo.is_free(8080) else demo.free_port()
    with demo.start_label_studio(executable, data, files, port=port, report=report) as server:
        yield server


def make_demo_images(server: demo.LabelStudioServer) -> list[tuple[str, str]]:
    """Draw the demo's images where Label Studio serves them, broken files among them; (file name, class)."""
    folder = server.document_root / DEMO_FOLDER
    drawn = make_images(folder, DEMO_IMAGES)
    add_broken_files(folder)
    return drawn


def introduce(backend: Backend, server: demo.LabelStudioServer, report: Report, tree: Tree) -> int | None:
    """Make the demo project, connect it, wait for its first batch, and say where to label.

    The project's id; None where it could not be connected, or the stop was asked for.
    """
    folder = server.document_root / DEMO_FOLDER
    project_id = demo_project.create_demo_project(server.url, server.login.token, folder, DEMO_TITLE, CLASSES)
    settings = backend.settings
    try:
        for done in connect(
            backend.label_studio,
            backend.store,
            project_id,
            url=settings.url,
            secret=backend.webhook_secret,
            basic_auth=backend.basic_auth,
            override_version=settings.override_version,
        ):
            report(f"  {done}")
    except CoresetError as error:
        report(f"The demo project could not be connected: {error}")
        return None
    report("Choosing the first batch.")
    deadline = time.monotonic() + 300
    while tree.runs() and time.monotonic() < deadline:
        stored = backend.store.latest(project_id)
        if stored and stored.publication:
            radius = stored.record.radius_after
            strategy = stored.record.strategy
            report(f"{len(stored.record.batch)} tasks chosen by {strategy}, covering radius {radius:.3f}.")
            break
    if tree.stopping.is_set():
        return None
    report(
        f"\nOpen   {server.url}/projects/{project_id}/data\n"
        f"User   {server.login.email}\nPassword   {server.login.password}\n"
        "and press 'Label All Tasks'. "
        f"After {settings.batch_size} labels the next batch is chosen by itself.\n"
        f"What is chosen and why: {local_address(settings)}/projects/{project_id}\n"
    )
    return project_id
