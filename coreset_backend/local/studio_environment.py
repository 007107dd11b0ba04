"""Label Studio in an environment of its own beside this one, since it pins old releases of Redis and RQ.

A checkout has it from `make label-studio`; a `pip install 'coreset-backend[demo]'` from the first `run`.
"""

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from coreset_backend.errors import ConfigError

LABEL_STUDIO_VERSION = "1.23.2"
NOT_INSTALLED = (
    "Label Studio is not installed here. Set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY to use a running one; "
    "or, to try everything on this machine, run `pip install 'coreset-backend[demo]'` (in a checkout "
    "`make label-studio`) and start again; or give its executable with --label-studio-command."
)


def own_environment() -> Path:
    """The folder of Label Studio's environment, below that of this one and removed with it."""
    return Path(sys.prefix) / "label-studio"


def golden_cache(executable: Path, otherwise: Path) -> Path:
    """Where a migrated data directory is kept for this executable: in its environment, if that is ours."""
    environment = executable.parent.parent
    ours = environment.name == ".label-studio" or environment == own_environment()
    return (environment if ours else otherwise) / "golden"


def label_studio_version(executable: Path) -> str:
    """The installed version, read from the package's metadata: asking Label Studio itself takes 10 s."""
    prefix = executable.resolve().parent.parent
    for info in prefix.glob("lib/python*/*-packages/label_studio-*.dist-info"):
        return info.name.removeprefix("label_studio-").removesuffix(".dist-info")
    raise ConfigError(f"No Label Studio is installed beside {executable}: expected it under {prefix}/lib.")


def install_label_studio(report: Callable[[str], None]) -> Path:
    """The label-studio executable, just installed; ConfigError where that cannot be."""
    if find_spec("virtualenv") is None:
        raise ConfigError(NOT_INSTALLED)
    folder = own_environment()
    report(f"Installing Label Studio {LABEL_STUDIO_VERSION} into {folder}, once: some minutes and 1 GB.")
    _run([sys.executable, "-m", "virtualenv", "--quiet", str(folder)])
    wanted = f"label-studio=={LABEL_STUDIO_VERSION}"
    _run([str(folder / "bin/python"), "-m", "pip", "install", "--quiet", wanted])
    return folder / "bin/label-studio"


def _run(command: list[str]) -> None:
    ran = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if ran.returncode:
        raise ConfigError(
            f"Label Studio could not be installed. The end of pip's output:\n{ran.stdout[-1500:].strip()}\n"
            "Correct that and start again, or set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY to use a running "
            "Label Studio."
        )
