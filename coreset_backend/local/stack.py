"""`coreset-backend run`: Redis, worker and web as one process tree, and a Label Studio to try it on."""

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import httpx

from coreset_backend.backend import Backend, open_backend
from coreset_backend.connection.connect import connect
from coreset_backend.errors import ConfigError, CoresetError, LabelStudioError
from coreset_backend.files import saving
from coreset_backend.local import demo_project
from coreset_backend.local import label_studio as demo
from coreset_backend.local.demo_images import CLASSES, DEMO_FOLDER, add_broken_files, make_images
from coreset_backend.local.processes import Child, Tree
from coreset_backend.local.redis_server import _unwatched, embedded_redis, wait_for_redis
from coreset_backend.local.run_file import announced
from coreset_backend.local.studio_environment import golden_cache, install_label_studio
from coreset_backend.settings import Settings, read_settings
from coreset_backend.settings.environment import absolute_paths, environment_names
from coreset_backend.web.server import PACKAGES, gunicorn_command, local_address

Report = demo.Report
Perform = Callable[
    [Backend, demo.LabelStudioServer, int, Sequence[tuple[str, str]], Report, threading.Event], None
]
"""Called with the demo's project id and (file name, class) of its images, in a thread of its own."""
DEMO_IMAGES = 400
DEMO_TITLE = "Core-Set demo"
FIRST_BATCH_SECONDS = 300.0


def run(
    settings: Settings,
    root: Path,
    report: Report,
    label_studio_command: str | None = None,
    perform: Perform | None = None,
) -> None:
    """Run everything until Ctrl-C or SIGTERM. Raises ConfigError if a part is missing or does not start.

    Without REDIS_URL it starts a private Redis; without LABEL_STUDIO_URL a local Label Studio with a demo
    project, which ``perform`` then labels.
    """
    _require_own_label_studio(settings, perform)
    tree = Tree(threading.Event())
    _stop_on_signals(tree.stopping)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_alone_in(settings.local_dir))
        _require_free_port(settings)
        stack.callback(tree.stop)
        started = _start_redis(tree, settings, stack)
        server = _start_label_studio(tree, settings, root, report, label_studio_command, stack)
        if server:
            started |= {"label_studio_url": server.url, "label_studio_api_key": server.login.token}
        backend = _open(read_settings(**started), stack)
        _start_worker_and_web(tree, backend, child_environment(started))
        if not tree.stopping.is_set():
            _introduce_and_perform(tree, backend, server, report, perform, stack)
        while tree.runs():
            pass
        report("Stopping.")


def _require_own_label_studio(settings: Settings, perform: Perform | None) -> None:
    if perform and settings.label_studio_url:
        raise ConfigError(
            "The demo labels tasks, so it uses a Label Studio of its own: unset LABEL_STUDIO_URL."
        )


def _stop_on_signals(stopping: threading.Event) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())


def _start_redis(tree: Tree, settings: Settings, stack: contextlib.ExitStack) -> dict[str, str]:
    """Start a private Redis unless the settings name one; the setting that names the private one."""
    if settings.redis_url:
        return {}
    redis, url = embedded_redis(settings.local_dir, stack)
    tree.start(redis)
    return {"redis_url": url}


def _start_label_studio(
    tree: Tree,
    settings: Settings,
    root: Path,
    report: Report,
    command: str | None,
    stack: contextlib.ExitStack,
) -> demo.LabelStudioServer | None:
    """Start a local Label Studio unless the settings name one; the run ends when it ends."""
    if settings.label_studio_url:
        return None
    server = stack.enter_context(local_label_studio(settings, root, report, command))
    tree.also_watch = partial(_require_label_studio, server)
    return server


def child_environment(started: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with absolute paths and the settings ``started``, for its children."""
    names = environment_names()
    superseded = {f"{name}_FILE" for field in started for name in names[field]}
    inherited = {name: value for name, value in os.environ.items() if name not in superseded}
    paths = {name: path for name, path in absolute_paths().items() if name not in superseded}
    return inherited | paths | {names[field][0]: value for field, value in started.items()}


def _open(settings: Settings, stack: contextlib.ExitStack) -> Backend:
    """The backend, announced to other commands; the stack closes it."""
    stack.enter_context(announced(settings))
    backend = open_backend(settings)
    stack.callback(backend.close)
    return backend


def _start_worker_and_web(tree: Tree, backend: Backend, environment: Mapping[str, str]) -> None:
    """Start both and wait until the web answers; ConfigError at once if a process ends."""
    wait_for_redis(backend.redis, alive=tree.require_alive)
    tree.start(worker_child(environment), web_child(backend.settings, environment))
    wait_for_web(backend.settings, tree.stopping, alive=tree.require_alive)


def _introduce_and_perform(
    tree: Tree,
    backend: Backend,
    server: demo.LabelStudioServer | None,
    report: Report,
    perform: Perform | None,
    stack: contextlib.ExitStack,
) -> None:
    """Report the addresses; in a local Label Studio make the demo project and let ``perform`` label it."""
    settings = backend.settings
    report(f"The backend answers at {local_address(settings)}.")
    if server:
        drawn = make_demo_images(server)
        project_id = introduce(backend, server, report, tree)
        if perform and project_id:
            arguments = (backend, server, project_id, drawn, report, tree.stopping)
            performance = threading.Thread(target=perform, args=arguments)
            stack.callback(performance.join)
            performance.start()
    else:
        report(f"Serving {settings.label_studio_url}. Next: {own_command()} connect --project N")
    report("Press Ctrl-C to stop.")


def _require_label_studio(server: demo.LabelStudioServer) -> None:
    """LabelStudioError if the local Label Studio has ended."""
    if server.process.poll() is not None:
        raise LabelStudioError(f"{demo.how_it_ended(server)} Start again; nothing is lost.")


def own_command() -> str:
    """What to type for this command in the current folder: its name if the PATH has it, else its path."""
    ours, on_path = Path(sys.executable).with_name("coreset-backend"), shutil.which("coreset-backend")
    if on_path and (not ours.exists() or Path(on_path).samefile(ours)):
        return ours.name
    if not ours.exists():
        return f"{sys.executable} -m coreset_backend"
    here = Path.cwd()
    return str(ours.relative_to(here) if ours.is_relative_to(here) else ours)


@contextlib.contextmanager
def _alone_in(model_dir: Path) -> Iterator[None]:
    """Hold the folder's lock; ConfigError if another run holds it: two would corrupt one Redis.

    From here on, files of this process and its children are readable by their owner only.
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


# ---------------------------------------------------------------- worker and web


def worker_child(environment: Mapping[str, str]) -> Child:
    # Asked to end, it would wait minutes for a Redis that is ending too; killed, it loses nothing.
    # -P: no file of the folder where it is started is taken for a module.
    command = [sys.executable, "-P", "-m", "coreset_backend", "work"]
    return Child("worker", command, environment, when_orphaned=signal.SIGKILL)


def web_child(settings: Settings, environment: Mapping[str, str]) -> Child:
    return Child("web", gunicorn_command(settings), environment, folder=PACKAGES)


def _require_free_port(settings: Settings) -> None:
    """ConfigError if another program listens there: it would answer in place of our web server."""
    port, address = settings.port, httpx.URL(local_address(settings))
    if not demo.is_free(port, address.host):
        raise ConfigError(
            f"Port {port} is in use by another program. Stop that program, or set PORT to another port."
        )


def wait_for_web(
    settings: Settings,
    stopping: threading.Event,
    patience: float = 180.0,
    alive: Callable[[], None] = _unwatched,
) -> None:
    """Return when /health answers 200 or ``stopping`` is set.

    Raises ConfigError after ``patience`` seconds, and whatever ``alive`` raises.
    """
    deadline = time.monotonic() + patience
    with httpx.Client(base_url=local_address(settings), trust_env=False) as web:
        while not stopping.wait(0.1):
            with contextlib.suppress(httpx.HTTPError):
                if web.get("/health").status_code == 200:
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
    folder = settings.local_dir / "label-studio"
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
    """Draw the demo's images, and some broken files, where Label Studio serves them; (file name, class)."""
    folder = server.document_root / DEMO_FOLDER
    drawn = make_images(folder, DEMO_IMAGES)
    add_broken_files(folder)
    return drawn


def introduce(backend: Backend, server: demo.LabelStudioServer, report: Report, tree: Tree) -> int | None:
    """Make the demo project, connect it, wait for its first batch, and report where to label.

    Returns the project's id; None if it could not be connected or a stop was requested.
    """
    folder = server.document_root / DEMO_FOLDER
    project_id = demo_project.create_demo_project(server.url, server.login.token, folder, DEMO_TITLE, CLASSES)
    try:
        _connect(backend, project_id, report)
    except CoresetError as error:
        report(f"The demo project could not be connected: {error}")
        return None
    report("Selecting the first batch.")
    _await_first_batch(backend, project_id, report, tree)
    if tree.stopping.is_set():
        return None
    report(
        f"\nOpen   {server.url}/projects/{project_id}/data\n"
        f"User   {server.login.email}\nPassword   {server.login.password}\n"
        "and press 'Label All Tasks'. "
        f"After {backend.settings.batch_size} labels the next batch is selected automatically.\n"
        f"The batch with the reason for each pick: {local_address(backend.settings)}/projects/{project_id}\n"
    )
    return project_id


def _connect(backend: Backend, project_id: int, report: Report) -> None:
    for done in connect(backend, project_id):
        report(f"  {done}")


def _await_first_batch(backend: Backend, project_id: int, report: Report, tree: Tree) -> None:
    """Return once a batch is published, after FIRST_BATCH_SECONDS, or when a stop was requested."""
    deadline = time.monotonic() + FIRST_BATCH_SECONDS
    while tree.runs() and time.monotonic() < deadline:
        stored = backend.store.latest(project_id)
        if stored and stored.publication:
            size, record = len(stored.record.batch), stored.record
            report(
                f"{record.strategy} selected {size} tasks; the covering radius is {record.radius_after:.3f}."
            )
            return
