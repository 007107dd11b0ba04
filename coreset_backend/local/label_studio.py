"""Starts a local Label Studio for `make run` and `make demo`.

Label Studio is installed in its own environment and runs as a child process. Migrating its database takes
seconds to minutes, so one migrated ("golden") data directory is kept and copied.
"""

import contextlib
import fcntl
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx

from coreset_backend.errors import ConfigError, LabelStudioError, Unreachable
from coreset_backend.local.demo_project import open_session
from coreset_backend.local.studio_environment import label_studio_version, own_environment

LOCALHOST = "127.0.0.1"
DATABASE = "label_studio.sqlite3"
LOG = "label-studio.log"
EMAIL = "annotator@example.com"
# Below the kernel's ephemeral ports, so that none is taken while Label Studio is still starting.
PORTS = range(20_000, 32_000)
# Both are needed: with only the first, Label Studio silently sends no webhooks.
PRIVATE_ADDRESSES = {
    "LABEL_STUDIO_ML_BLOCK_LOCAL_IP": "false",
    "LABEL_STUDIO_SSRF_PROTECTION_ENABLED": "false",
}

Report = Callable[[str], None]

# Runs in the child before Label Studio does: when this process dies, even by SIGKILL, Linux ends the
# child too. A preexec_fn would do the same but is unsafe in a process with threads.
_TIED_TO_PARENT = """
import ctypes, os, sys
parent, number, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        sys.exit("the parent died before the start")
os.execv(command[0], command)
"""


def _silent(_message: str) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True)
class Login:
    """The first user of a scratch Label Studio; the token is a legacy API token."""

    email: str
    password: str = field(repr=False)
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class LabelStudioServer:
    """A running Label Studio; leave the ``with`` block or call ``stop`` to end it."""

    url: str
    login: Login
    data_dir: Path
    document_root: Path
    process: subprocess.Popen[bytes]

    def stop(self, patience: float = 10.0) -> None:
        """End the whole process group, by force after ``patience`` seconds."""
        _signal_group(self.process, signal.SIGTERM)
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            _signal_group(self.process, signal.SIGKILL)
            self.process.wait()

    def __enter__(self) -> "LabelStudioServer":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()


def find_label_studio(root: Path, command: str | None = None) -> Path | None:
    """The label-studio executable: ``command``, else the environment under ``root``, else the one beside this
    environment, else the PATH's.
    """
    environments = (root / ".label-studio", own_environment())
    ours = [str(environment / "bin/label-studio") for environment in environments]
    candidates = [command] if command else [*ours, "label-studio"]
    found = (shutil.which(candidate) for candidate in candidates)
    return next((Path(path).absolute() for path in found if path), None)


def start_label_studio(
    executable: Path,
    data_dir: Path,
    document_root: Path,
    *,
    port: int | None = None,
    hostname: str | None = None,
    reaches_private_addresses: bool = True,
    database: Mapping[str, str] | None = None,
    report: Report = _silent,
    patience: float = 600.0,
) -> LabelStudioServer:
    """Start Label Studio on ``data_dir`` and wait until it answers; without ``port`` a free one is taken.

    It serves local files below ``document_root``. ``hostname`` is what it writes in front of the image
    addresses that it stores: leave it out, or images are lost when the port changes. ``database``: variables
    that name another than the SQLite in ``data_dir``. Without
    ``reaches_private_addresses`` it refuses backends on this machine, as it does by default. On Linux the
    child ends with the *thread* that started it, so start it from one that stays.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    if not is_free(port):  # Label Studio would silently take the next one
        raise ConfigError(f"Port {port} is in use, so Label Studio cannot start there. Use another port.")
    login = _login(data_dir)
    environment = _environment(data_dir) | _service_environment(document_root, login, hostname)
    environment |= database or {}
    if reaches_private_addresses:
        environment |= PRIVATE_ADDRESSES
    command = [str(executable), "start", "--no-browser", "--internal-host", LOCALHOST, "--port", str(port)]
    process = _spawn(command, environment, data_dir)
    server = LabelStudioServer(f"http://{LOCALHOST}:{port}", login, data_dir, document_root, process)
    try:
        _await_ready(server, patience, report)
    except BaseException:  # also Ctrl-C: whatever ends the waiting must not leave the child behind
        server.stop()
        raise
    return server


def free_port() -> int:
    """A port of this machine that is free now, and that nobody else who looks for one gets within a minute.

    The system keeps the port of a connection that was closed here from all but servers, which listen there.
    """
    while True:
        port = random.choice(PORTS)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind((LOCALHOST, port))
            # After bind, which with it would take the port that another search has just found.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.listen()
            with socket.create_connection((LOCALHOST, port)):
                listener.accept()[0].close()
            return port


def is_free(port: int, host: str = LOCALHOST) -> bool:
    """Whether the port is free at this machine's address ``host``."""
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return True
    return False


def _login(data_dir: Path) -> Login:
    """The login of this data directory, made at its first start and readable by the owner only."""
    path = data_dir / "login.json"
    if not path.exists():
        made = Login(EMAIL, secrets.token_urlsafe(9), secrets.token_hex(20))
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(asdict(made), file)
    return Login(**json.loads(path.read_text()))


def _environment(data_dir: Path) -> dict[str, str]:
    """The whole environment of a Label Studio, which reads also PORT, HOST, PASSWORD, proxies and the like.

    Nothing is inherited, so that none of the caller's variables changes what it does.
    """
    return {
        "PATH": os.defpath,
        "HOME": str(data_dir),
        "LANG": "C.UTF-8",
        "LABEL_STUDIO_BASE_DATA_DIR": str(data_dir.absolute()),
        "LABEL_STUDIO_COLLECT_ANALYTICS": "false",
        "LABEL_STUDIO_LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }


def _service_environment(document_root: Path, login: Login, hostname: str | None) -> dict[str, str]:
    """What a serving Label Studio needs on top: the user and local files."""
    return {
        "LABEL_STUDIO_USERNAME": login.email,
        "LABEL_STUDIO_PASSWORD": login.password,
        "LABEL_STUDIO_USER_TOKEN": login.token,
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(document_root.absolute()),
    } | ({"LABEL_STUDIO_HOST": hostname} if hostname else {})


def tied_to_parent(command: Sequence[str], number: signal.Signals = signal.SIGTERM) -> list[str]:
    """``command``, to be sent the signal ``number`` by the kernel when this process dies."""
    return [sys.executable, "-I", "-c", _TIED_TO_PARENT, str(os.getpid()), str(number.value), *command]


def _spawn(command: Sequence[str], environment: dict[str, str], data_dir: Path) -> subprocess.Popen[bytes]:
    """Start ``command`` in a session of its own; it holds the lock of the data directory while it lives."""
    with (data_dir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"Another Label Studio runs on {data_dir}. Stop it first.") from None
        with (data_dir / LOG).open("wb") as log:
            return subprocess.Popen(
                tied_to_parent(command),
                env=environment,
                cwd=data_dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[lock.fileno()],
            )


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal the process and all it started, unless it is gone."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def _await_ready(server: LabelStudioServer, patience: float, report: Report) -> None:
    """Return when Label Studio answers with the login of its data directory."""
    migrated = (server.data_dir / DATABASE).exists()
    report(
        "Starting Label Studio" + ("." if migrated else ", which creates its database: up to two minutes.")
    )
    begun = time.monotonic()
    next_report = begun + 20
    with open_session(server.url, server.login.token) as session:
        while not _is_ready(session, server.data_dir):
            now = time.monotonic()
            if server.process.poll() is not None or now > begun + patience:
                raise Unreachable(how_it_ended(server, now - begun))
            if now > next_report:
                report(f"Label Studio is still starting ({now - begun:.0f} s).")
                next_report += 20
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.process.wait(0.25)
    report(f"Label Studio answers at {server.url} after {time.monotonic() - begun:.0f} s.")


def _is_ready(session: httpx.Client, data_dir: Path) -> bool:
    """Whether /health is 200; then the login must hold too, or this is somebody else's Label Studio."""
    try:
        if session.get("/health").status_code != 200:
            return False
        answer = session.get("/api/current-user/whoami")
    except httpx.TransportError:
        return False
    if answer.status_code == 401:
        raise LabelStudioError(
            f"The Label Studio at {session.base_url} does not accept the login of {data_dir}. Remove that "
            "directory to start over, or restore its login.json."
        )
    return answer.status_code == 200


def how_it_ended(server: LabelStudioServer, seconds: float | None = None) -> str:
    """Why Label Studio does not answer, with the end of its log; ``seconds``: how long we waited."""
    code = server.process.poll()
    what = "gave no answer" if code is None else f"ended with exit status {code}"
    when = "" if seconds is None else f" within {seconds:.0f} s"
    log = server.data_dir / LOG
    last = " | ".join(log.read_text(errors="replace").splitlines()[-8:])
    return f"Label Studio {what}{when}. The end of {log}: {last}"


def golden_data_dir(executable: Path, cache: Path, report: Report = _silent) -> Path:
    """The migrated data directory of this Label Studio version below ``cache``, made if it is not there.

    It holds no user and no secret key, so every copy gets its own. It appears whole or not at all.
    """
    golden = cache / f"label-studio-{label_studio_version(executable)}"
    if golden.is_dir():
        return golden
    with _exclusive(cache):
        if not golden.is_dir():  # another process may have made it while we waited
            report("Migrating a database for Label Studio, once: up to two minutes.")
            partial = golden.with_name(f"{golden.name}.partial")
            _migrate(executable, partial)
            partial.rename(golden)
    return golden


def migrated_copy(golden: Path, target: Path) -> Path:
    """``target`` as a data directory that starts in seconds; one that is there already is left as it is."""
    if not (target / DATABASE).exists():
        target.mkdir(parents=True, exist_ok=True)
        shutil.copytree(golden, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(DATABASE))
        partial = target / f"{DATABASE}.partial"
        shutil.copyfile(golden / DATABASE, partial)
        partial.rename(target / DATABASE)  # last: whoever sees the database sees a whole copy
    return target


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: one process at a time migrates."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _migrate(executable: Path, data_dir: Path) -> None:
    """Fill ``data_dir`` with a migrated database: asking for the version does that and nothing more."""
    shutil.rmtree(data_dir, ignore_errors=True)  # what a killed migration left
    data_dir.mkdir()
    asked = subprocess.run(
        tied_to_parent([str(executable), "version"]),
        env=_environment(data_dir),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if asked.returncode or not (data_dir / DATABASE).exists():
        raise LabelStudioError(
            "Label Studio could not create its database:", lines=asked.stdout.splitlines()[-15:]
        )
    (data_dir / ".env").unlink(missing_ok=True)  # the secret key
