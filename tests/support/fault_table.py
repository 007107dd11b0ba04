"""The table of docs/reliability.md: which fault is tested in which phase, read from the marks of the tests.

python tests/support/fault_table.py     writes it into the document
"""

import contextlib
import io
import re
import sys

import pytest
from paths import ROOT

from coreset_backend.jobs.states import Phase

DOCUMENT = ROOT / "docs/reliability.md"
BEGIN, END = "<!-- faults -->", "<!-- /faults -->"
COLUMNS = ("between", *Phase)


class Faults:
    """A plugin of pytest that notes (fault, phase) -> how the test is run, and does nothing else."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, str]] = {}

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        for mark in item.iter_markers("fault"):
            what, phase = mark.args
            assert phase in COLUMNS, f"{item.nodeid} names no phase: {phase}"
            rare = next((name for name in ("soak", "docker") if item.get_closest_marker(name)), None)
            sign = {None: "●", "soak": "○", "docker": "◇"}[rare]
            cells = self.found.setdefault(what, {})
            cells[phase] = min(sign, cells.get(phase, sign), key="●○◇".index)


def collected() -> dict[str, dict[str, str]]:
    """Fault -> phase -> sign, of all tests with the mark."""
    files = [
        str(path)
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if re.search(r"mark\.fault\(|\bfaults\(", path.read_text())
    ]
    faults = Faults()
    with contextlib.redirect_stdout(io.StringIO()):
        status = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *files], plugins=[faults])
    assert status == 0, f"collecting {files} ended with {status}"
    return faults.found


def table() -> str:
    rows = [["fault", *COLUMNS], ["---", *("---" for _ in COLUMNS)]]
    rows += [[what, *(cells.get(phase, "") for phase in COLUMNS)] for what, cells in collected().items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def with_table(document: str) -> str:
    """The document with the table of today between its two marks."""
    before, _, rest = document.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    written = DOCUMENT.read_text()
    made = with_table(written)
    if "--check" in sys.argv and made != written:
        sys.exit(f"{DOCUMENT} is not what the tests say: run `python tests/support/fault_table.py`.")
    DOCUMENT.write_text(made)
