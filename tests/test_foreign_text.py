"""What others wrote (titles, addresses, answers of servers) forges no line, no order and no formula."""

import json
import logging
import subprocess
import unicodedata
from pathlib import Path

import pytest
from backend_run import backend_command, run_environment
from worker_site import Site

from coreset_backend.errors import CoresetError, ImageError, Rejected
from coreset_backend.foreign_text import LONGEST, fit_cell, one_line
from coreset_backend.logs import LogFormatter
from coreset_backend.web.app import create_app
from coreset_backend.web.pages import TABS

RECORD = "2026-11-29 20:00:00,000 INFO coreset_backend.jobs.tasks: project 1 is deleted"
FORGERIES = {
    "a line": f"x\n{RECORD}",
    "a line of an old Mac": f"x\r{RECORD}",
    "a line of IBM": f"x\x85{RECORD}",
    "a line of Unicode": f"x\u2028{RECORD}",
    "a paragraph": f"x\u2029{RECORD}",
    "a form feed": f"x\x0c{RECORD}",
    "a clear screen": "\x1b[2J\x1b[Hgone",
    "a link": "\x1b]8;;http://evil.example\x07click\x1b]8;;\x07",
    "a title of the window": "\x9d0;evil\x9c",
    "an order in eight bits": "\x9b2Jgone",
    "a backspace": "evil\x08\x08\x08\x08good",
    "a NUL": "good\x00evil",
    "an order of reading": "\u202egnp.exe",
    "isolates": "\u2066x\u2069 \u2067y",
    "a mark that hides": "go\u200bod\ufeff\u2060",
    "tags": "x\U000e0041\U000e007f",
    "half a character": "x\ud83d",
    "a long one": "x" * 100_000,
}


ENDS_OR_ORDERS = {"Cc", "Zl", "Zp", "Cs"}
REORDERS = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}


def forges(text: str) -> list[str]:
    """Characters of ``text`` that end a line or that a terminal or a browser obeys."""
    return [
        char
        for char in text
        if unicodedata.category(char) in ENDS_OR_ORDERS or unicodedata.bidirectional(char) in REORDERS
    ]


@pytest.mark.parametrize("what", FORGERIES)
def test_one_line_is_one_line(what: str) -> None:
    text = FORGERIES[what]
    for line in (one_line(text), str(CoresetError(text)), str(Rejected(500, text)), str(ImageError(text))):
        assert not forges(line)
        assert len(line) <= LONGEST
        assert line.encode()


@pytest.mark.parametrize("text", ["Übung №1: 猫 or 犬?", "می‌خواهم", "👩‍👩‍👧 family", r"C:\new\table", "a  b"])
def test_what_people_write_stays_as_it_is(text: str) -> None:
    assert one_line(text) == text


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("what", FORGERIES)
def test_a_log_record_is_one_line_and_its_traceback_cannot_pass_as_another(what: str, as_json: bool) -> None:
    forged = FORGERIES[what]
    try:
        raise ValueError(forged)
    except ValueError as error:
        told = (type(error), error, error.__traceback__)
    record = logging.LogRecord("coreset_backend.x", logging.WARNING, "f", 1, "said: %s", (forged,), told)
    text = LogFormatter(as_json).format(record)
    if as_json:
        assert not forges(text)
        text = json.loads(text)["message"]
    first, *traceback = text.split("\n")
    assert "said: " in first and len(first) < 5000
    assert all(line.startswith("  | ") and len(line) < 5000 and not forges(line) for line in traceback)


@pytest.mark.slow
def test_nothing_of_a_hostile_project_forges_anything(site: Site, tmp_path: Path) -> None:
    project_id = site.new_project(images=80, labeled=4)
    site.studio.projects[project_id]["title"] = FORGERIES["a line"] + FORGERIES["a link"]
    for forged in FORGERIES.values():
        if forged.isascii() or "\ud83d" not in forged:  # the fake cannot send what is no UTF-8
            site.studio.add_task(project_id, {"image": f"/data/upload/{forged}.jpg"})
            site.studio.add_task(project_id, {"image": f"http://127.0.0.1:1/{forged}.jpg"})
    site.start_worker(LOG_LEVEL="DEBUG")
    site.wait_for_round(project_id, 1)
    client = create_app(site.backend).test_client()
    shown = [
        client.get(path).text
        for path in ("/projects", *(f"/projects/{project_id}?tab={tab}" for tab in TABS))
    ]
    for page in shown:
        assert r"x\n2026-11-29" in page
        assert not [char for char in forges(page) if char != "\n"]
    status = client.get(f"/api/projects/{project_id}/status").json
    assert status and len(status["round"]["unreadable"]) > 20
    for failure in status["round"]["unreadable"]:
        assert not forges(failure["uri"] + failure["reason"])
    redis = {"REDIS_URL": f"redis://127.0.0.1:{site.redis_wire.port}"}
    environment = run_environment(tmp_path, 1, **redis)
    environment["MODEL_DIR"] = str(site.backend.settings.model_dir)
    typed = subprocess.run(
        backend_command("status"), env=environment, capture_output=True, check=True, timeout=240
    )
    for text in (typed.stdout.decode(), site.log.read_text()):
        assert not [char for char in forges(text) if char != "\n"]
        assert RECORD not in text.splitlines()


# ---------------------------------------------------------------- spreadsheets

FORMULAS = {
    "=1+1": "'=1+1",
    "+1": "'+1",
    "-1+cmd|' /C calc'!A0": "'-1+cmd|' /C calc'!A0",
    "@SUM(A1)": "'@SUM(A1)",
    "\t=1": "'\t'=1",
    "\r=1": "'\r'=1",
    "  =1": "'  =1",
    "\u00a0\ufeff=1": "'\u00a0\ufeff=1",
    "\uff1d1+1": "'\uff1d1+1",
    "cat;=1+1": "cat;'=1+1",
    "cat\t@x": "cat\t'@x",
    "cat\n-x": "cat\n'-x",
    "cat, -x": "cat,' -x",
}


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_begins_a_formula(text: str) -> None:
    assert fit_cell(text) == FORMULAS[text]


@pytest.mark.parametrize("text", ["cat", "", "a-b", "1 + 1 = 2", "x@example.com", "https://h/a?task=1", "'"])
def test_other_cells_stay_as_they_are(text: str) -> None:
    assert fit_cell(text) == text
