"""The wheel in an environment that holds what it requires and nothing else, used from an empty folder."""

import contextlib
import os
import re
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from backend_run import running_backend
from fake_label_studio import TOKEN, FakeLabelStudio
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from paths import ROOT
from waiting import wait_until

from coreset_backend.local import label_studio as demo
from coreset_backend.local.demo_images import make_images
from coreset_backend.local.studio_environment import LABEL_STUDIO_VERSION

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make dist` builds, without fetching setuptools anew."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    names = ("coreset_backend", "pyproject.toml", "requirements.in", "README.md", "LICENSE", "MANIFEST.in")
    source.mkdir()
    for name in names:  # elsewhere, so that nothing is left in the checkout
        (source / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "build", "--quiet", "--no-isolation", "--wheel"]
    subprocess.run([*command, "--outdir", str(folder), str(source)], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def required(wheel: Path) -> dict[str, Distribution]:
    """Name -> the installed distribution, for all that the wheel requires, however indirectly."""
    metadata = next(name for name in ZipFile(wheel).namelist() if name.endswith(".dist-info/METADATA"))
    text = ZipFile(wheel).read(metadata).decode()
    left = [Requirement(line) for line in re.findall(r"^Requires-Dist: (.*)$", text, re.MULTILINE)]
    found: dict[str, Distribution] = {}
    while left:
        wanted = left.pop()
        extras = wanted.extras or {""}
        if wanted.marker and not any(wanted.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        installed = distribution(wanted.name)
        assert wanted.specifier.contains(installed.version, prereleases=True), (
            f"{wanted}: {installed.version}"
        )
        name = canonicalize_name(wanted.name)
        if name not in found:
            found[name] = installed
            left += [Requirement(line) for line in installed.requires or ()]
    return found


def test_all_that_the_wheel_requires_fits_together_and_the_sdk_is_not_among_it(wheel: Path) -> None:
    names = set(required(wheel))
    assert {"torch", "flask", "rq"} <= names
    assert not names & {"label-studio-ml", "label-studio", "pytest"}


def test_the_wheel_holds_the_package_whole_and_nothing_else(wheel: Path) -> None:
    held = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = ROOT / "coreset_backend"
    files = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert held == {str(path.relative_to(ROOT)) for path in files}


def test_label_studio_is_of_the_release_that_is_tested_with() -> None:
    assert f"LABEL_STUDIO_VERSION := {LABEL_STUDIO_VERSION}\n" in (ROOT / "Makefile").read_text()


def test_every_python_that_the_metadata_names_is_supported() -> None:
    named = [word for line in PROJECT["classifiers"] for word in re.findall(r":: (3\.\d+)$", line)]
    assert named == ["3.11", "3.12", "3.13"]
    assert PROJECT["requires-python"] == f">={named[0]}"
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in named


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment with the wheel; what it requires is linked, not copied."""
    environment = tmp_path_factory.mktemp("clean") / "v"
    venv.create(environment, with_pip=False)
    (packages,) = environment.glob("lib/python*/site-packages")
    for each in required(wheel).values():
        for top in {Path(file).parts[0] for file in each.files or () if Path(file).parts[0] != ".."}:
            with contextlib.suppress(FileExistsError):
                (packages / top).symlink_to(each.locate_file(top))
    python = str(environment / "bin/python")
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([*command, str(wheel)], check=True, capture_output=True, env=alone)
    return environment / "bin"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty folder but for files with the names of modules, as people have them."""
    for name in ("flask.py", "redis.py", "logging.py"):
        (tmp_path / name).write_text(f"raise SystemExit('{name} was taken for a module')")
    yield tmp_path


def typed(installed: Path, folder: Path, *arguments: str, **settings: str) -> str:
    """What the command prints, run in the folder; it must succeed."""
    command = [str(installed / "coreset-backend"), *arguments]
    ran = subprocess.run(
        command, cwd=folder, env=environment(folder, **settings), capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def environment(folder: Path, **settings: str) -> dict[str, str]:
    small = {"CORESET_BACKBONE": "small_cnn", "CORESET_IMAGE_SIZE": "16", "OMP_NUM_THREADS": "1"}
    return {"PATH": os.environ["PATH"], "HOME": str(folder), **small, **settings}


@pytest.mark.slow
def test_the_wheel_serves_works_and_connects(installed: Path, folder: Path, studio: FakeLabelStudio) -> None:
    project_id = studio.create_project(images=12)
    given = {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": TOKEN, "CORESET_BATCH_SIZE": "4"}
    given |= {"PORT": str(demo.free_port()), "CORESET_DEBOUNCE_SECONDS": "0"}
    run, log = [str(installed / "coreset-backend"), "run"], folder / "run.log"
    with running_backend(environment(folder, **given), log, program=run, cwd=folder):
        advice = re.search(r"Next: (\S+) connect --project N", log.read_text())
        assert advice and Path(advice[1]) == installed / "coreset-backend"
        assert "The first batch" in typed(installed, folder, "connect", "--project", str(project_id))
        wait_until(lambda: studio.versions(project_id), f"a round; {log} may say why", 240)
        assert f"Project {project_id}" in typed(installed, folder, "status")
    assert (folder / "data/webhook-secret").exists()


@pytest.mark.slow
def test_the_wheel_selects_and_simulates(installed: Path, folder: Path) -> None:
    np.save(folder / "embeddings.npy", np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32))
    chosen = typed(installed, folder, "select", "--embeddings", "embeddings.npy", "--batch", "5")
    assert len(chosen.splitlines()) == 6
    for name, kind in make_images(folder / "flat", 60, seed=3, size=32):
        (folder / "images" / kind).mkdir(parents=True, exist_ok=True)
        (folder / "flat" / name).rename(folder / "images" / kind / name)
    short = ("--strategy", "k_center", "--batch", "8", "--rounds", "1", "--seeds", "1")
    assert "k_center" in typed(installed, folder, "simulate", "--images", "images", *short)
    assert (folder / "simulation").is_dir()


def test_what_is_missing_is_said_with_what_to_install(installed: Path, folder: Path) -> None:
    run = subprocess.run(
        [str(installed / "coreset-backend"), "run"],
        cwd=folder,
        env=environment(folder, PATH=os.defpath, PORT=str(demo.free_port())),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert "Label Studio is not installed here" in run.stderr
    assert "pip install 'coreset-backend[demo]'" in run.stderr
    sdk = subprocess.run(
        [str(installed / "python"), "-c", "import coreset_backend.web.sdk_model"],
        capture_output=True,
        text=True,
    )
    assert "pip install --no-deps label-studio-ml" in sdk.stderr


def test_a_shell_completes_commands(installed: Path, folder: Path) -> None:
    script = typed(installed, folder, _CORESET_BACKEND_COMPLETE="bash_source")
    assert "complete -o nosort -F" in script
    words = {"COMP_WORDS": "coreset-backend sim", "COMP_CWORD": "1"}
    assert typed(installed, folder, _CORESET_BACKEND_COMPLETE="bash_complete", **words) == "plain,simulate\n"
