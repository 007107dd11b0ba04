"""Processes run the tests side by side: what is left out stays left out, and a failure is one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT, SUPPORT

pytestmark = pytest.mark.slow
RARE = "import pytest\n\n@pytest.mark.soak\ndef test_of_hours():\n    pass\n\ndef test_one():\n    pass\n"
FAILING = "def test_two():\n    assert False\n"


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(SUPPORT)])}
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
    return subprocess.run(
        [*command, "-p", "no:cacheprovider", *options, "."],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of tests beside our conftest.py."""
    shutil.copy(ROOT / "tests/conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = soak: rare\n")
    (tmp_path / "test_rare.py").write_text(RARE)
    (tmp_path / "test_failing.py").write_text(FAILING)
    return tmp_path


def test_what_is_rare_is_left_out_and_a_failure_ends_the_run_with_1(folder: Path) -> None:
    done = run(folder)
    assert done.returncode == 1, done.stdout
    assert "1 failed, 1 passed" in done.stdout.splitlines()[-1]


def test_what_is_rare_runs_where_it_is_named(folder: Path) -> None:
    done = run(folder, "-m", "soak")
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout.splitlines()[-1]
