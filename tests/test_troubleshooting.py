"""The documents on failures say what the code says, and their commands do what they promise."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_store import save

from coreset_backend.store import Store

ROOT = Path(__file__).parent.parent
SOURCES = "".join(path.read_text() for path in sorted((ROOT / "coreset_backend").rglob("*.py")))
CODE = re.sub(r'"\s*\n\s*f?"', "", SOURCES)
MESSAGES = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("message", MESSAGES)
def test_every_quoted_message_is_in_the_code(message: str) -> None:
    assert message in CODE


def test_the_table_of_faults_is_what_the_tests_say() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "tests/fault_table.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr


def test_a_backup_made_by_the_documented_lines_restores_every_round(tmp_path: Path) -> None:
    lines = re.findall(r"tar -[cx]zf coreset\.tgz [^`\n]+", (ROOT / "docs/reliability.md").read_text())
    store = Store(tmp_path / "data")
    saved, secret = save(store), store.webhook_secret()
    saved.mark_published({"sent": 3})
    (store.root / "projects/7/.draft-2-half").mkdir()
    subprocess.run(lines[0], shell=True, check=True, cwd=tmp_path)
    store.root.rename(tmp_path / "lost")
    store.root.mkdir()
    subprocess.run(lines[1], shell=True, check=True, cwd=tmp_path)
    found = store.latest(7)
    assert found and found.record == saved.record and found.publication == {"sent": 3}
    found.verify()
    assert np.array_equal(found.array("task_ids"), [1, 2, 3])
    assert store.webhook_secret() == secret
    assert not list((store.root / "projects/7").glob(".draft-*"))
