"""A PostgreSQL of the tests' own, reached by a socket in its folder and by nothing else."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from waiting import wait_until

NOBODY_ELSE = "postgres"  # it refuses to run as root
ENDS_WITH_US = ("setpriv", "--pdeathsig", "TERM")  # that user may not run our Python


def find_postgres() -> Path | None:
    """The folder of its programs; Debian keeps them off the PATH."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    return next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


@contextlib.contextmanager
def running_postgres(programs: Path) -> Iterator[dict[str, str]]:
    """What Label Studio must find in its environment to use an empty database of this server."""
    user = NOBODY_ELSE if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path must be short
    if user:
        shutil.chown(folder, user)
    data = folder / "data"
    try:
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "label_studio", "-A", "trust", "-E", "UTF8"],
            check=True,
            capture_output=True,
            user=user,
        )
        command = [str(programs / "postgres"), "-D", str(data), "-k", str(folder)]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [*ENDS_WITH_US, *command, "-c", "listen_addresses=", "-c", "fsync=off"],
                stdout=log,
                stderr=log,
                user=user,
            )
        try:
            ready = [str(programs / "pg_isready"), "-h", str(folder), "-q"]
            wait_until(lambda: subprocess.run(ready).returncode == 0, f"PostgreSQL; {folder}/log says why")
            yield {
                "DJANGO_DB": "default",
                "POSTGRE_NAME": "postgres",
                "POSTGRE_USER": "label_studio",
                "POSTGRE_PASSWORD": "",
                "POSTGRE_HOST": str(folder),
                "POSTGRE_PORT": "5432",
            }
        finally:
            server.terminate()
            server.wait(30)
    finally:
        shutil.rmtree(folder)
