"""The documents on failures say what the code says, and their commands do what they promise."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT
from saved_rounds import save

from coreset_backend.local.label_studio import find_label_studio
from coreset_backend.reports import Publication
from coreset_backend.store.store import Store

DOCUMENT = (ROOT / "docs/troubleshooting.md").read_text()


def code_of(*folders: Path) -> str:
    """The sources below the folders, with literals that follow each other joined."""
    files = sorted(path for folder in folders for path in folder.rglob("*.py"))
    return re.sub(r"""["']\s*\n\s*f?["']""", "", "".join(path.read_text() for path in files))


def messages(*, of_label_studio: bool) -> list[str]:
    """What the document quotes as ours, or as Label Studio's."""
    sections = re.split(r"^## ", DOCUMENT, flags=re.MULTILINE)
    chosen = [each for each in sections if each.startswith("In Label Studio") == of_label_studio]
    return [found for each in chosen for found in re.findall(r"^\| `([^`]+)` \|", each, re.MULTILINE)]


CODE = code_of(ROOT / "coreset_backend")


@pytest.mark.parametrize("message", messages(of_label_studio=False))
def test_every_quoted_message_is_in_the_code(message: str) -> None:
    assert message in CODE


def test_every_quoted_message_of_label_studio_is_in_its_code() -> None:
    executable = find_label_studio(ROOT, os.environ.get("LABEL_STUDIO_COMMAND"))
    if executable is None:
        pytest.skip("label-studio is not installed; `make label-studio` installs it")
    (package,) = executable.resolve().parent.parent.glob("lib/python*/site-packages/label_studio")
    theirs = code_of(package / "ml", package / "core/utils", package / "projects")
    quoted = messages(of_label_studio=True)
    assert len(quoted) >= 4
    assert not [message for message in quoted if message not in theirs]


@pytest.mark.slow
def test_the_table_of_faults_is_what_the_tests_say() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "tests/support/fault_table.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("document", ["reliability", "deploy"])
@pytest.mark.parametrize(("status", "fails"), [(0, False), (1, False), (2, True)])
def test_a_backup_succeeds_where_files_came_or_went_meanwhile(
    tmp_path: Path, document: str, status: int, fails: bool
) -> None:
    """GNU tar then ends with 1, and with 2 where it could not make the copy."""
    [line] = re.findall(r"^.*tar -.*c.* \|\| .*$", (ROOT / f"docs/{document}.md").read_text(), re.MULTILINE)
    for name, script in (("tar", f"exit {status}"), ("docker", 'while [ "$1" != sh ]; do shift; done; "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert bool(subprocess.run(line, shell=True, cwd=tmp_path, env=path).returncode) == fails


def test_a_backup_made_by_the_documented_lines_restores_every_round(tmp_path: Path) -> None:
    lines = re.findall(r"tar -[cx]zf coreset\.tgz [^`\n]+", (ROOT / "docs/reliability.md").read_text())
    store = Store(tmp_path / "data")
    saved, secret = save(store), store.webhook_secret()
    saved.mark_published(Publication(sent=3))
    (store.root / "projects/7/.draft-2-half").mkdir()
    subprocess.run(lines[0], shell=True, check=True, cwd=tmp_path)
    store.root.rename(tmp_path / "lost")
    store.root.mkdir()
    subprocess.run(lines[1], shell=True, check=True, cwd=tmp_path)
    found = store.latest(7)
    assert found and found.record == saved.record and found.publication == Publication(sent=3)
    found.verify()
    assert np.array_equal(found.array("task_ids"), [1, 2, 3])
    assert store.webhook_secret() == secret
    assert not list((store.root / "projects/7").glob(".draft-*"))
