"""The story and the contract on several releases of Label Studio, on SQLite and PostgreSQL: `make matrix`.

Each release is installed in an environment of its own, from the registry that pip uses, and kept. An hour or
more; needs the programs of PostgreSQL, and util-linux. Ends with a table, and with 1 if anything failed.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from paths import ROOT

from coreset_backend.local.label_studio import label_studio_version

RELEASES = ("1.12.1", "1.16.0", "1.20.0", "newest")
DATABASES = ("sqlite", "postgresql")
TESTS = tuple(f"tests/e2e/test_{name}.py" for name in ("story", "publish", "disconnect"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--releases", default=",".join(RELEASES), help="Comma-separated.")
    parser.add_argument("--databases", default=",".join(DATABASES), help="Comma-separated.")
    parser.add_argument("--folder", type=Path, default=ROOT / ".label-studio/releases")
    given = parser.parse_args()
    rows = []
    for release in given.releases.split(","):
        executable = installed(release, given.folder.absolute() / release)
        for database in given.databases.split(","):
            started = time.monotonic()
            passed = run(executable, database)
            seconds = time.monotonic() - started
            row = f"{label_studio_version(executable):<14}{database:<12}{'passed' if passed else 'FAILED'}"
            rows.append(f"{row}  {seconds:4.0f} s")
            say(rows[-1])
    say("\n" + "\n".join(rows))
    return int(any("FAILED" in row for row in rows))


def installed(release: str, environment: Path) -> Path:
    """The executable of that release; "newest" is looked for anew each time."""
    executable = environment / "bin/label-studio"
    if release == "newest" or not executable.exists():
        say(f"Installing Label Studio {release}.")
        wanted = "label-studio" if release == "newest" else f"label-studio=={release}"
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        # Releases before 1.15 import pkg_resources, which setuptools 81 no longer has.
        pip = [environment / "bin/pip", "install", "--quiet", "--upgrade", "setuptools<81", wanted]
        subprocess.run(pip, check=True)
    return executable


def run(executable: Path, database: str) -> bool:
    """Whether the tests pass on that Label Studio."""
    environment = os.environ | {
        "LABEL_STUDIO_COMMAND": str(executable),
        "LABEL_STUDIO_DATABASE": database,
        "LABEL_STUDIO_GOLDEN": str(executable.parent.parent.parent / "golden"),
    }
    tested = subprocess.run([sys.executable, "-m", "pytest", "-q", *TESTS], cwd=ROOT, env=environment)
    return tested.returncode == 0


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
