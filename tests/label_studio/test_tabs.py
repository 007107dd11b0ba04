"""The tabs of the Data Manager, on the fake Label Studio; e2e/test_project_page.py asks the real one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_label_studio import FakeLabelStudio
from saved_rounds import record

from coreset_backend.connection.publication import show_findings
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.label_studio.filters import one_of
from coreset_backend.label_studio.tabs import (
    BATCH,
    DUPLICATES,
    LISTED,
    SUSPECTS,
    UNREADABLE,
    make_batch_tab,
)
from coreset_backend.reports import ImageFailure
from coreset_backend.store.saved_round import StoredRound
from coreset_backend.store.store import Store


@pytest.fixture
def client(studio: FakeLabelStudio) -> Any:
    opened = LabelStudio(studio.url, studio.token)
    yield opened
    opened.close()


def saved(folder: Path, unreadable: range = range(0), grouped: bool = False) -> StoredRound:
    failures = tuple(ImageFailure(each, "/x.jpg", "torn") for each in unreadable)
    arrays = {
        "task_ids": np.array([1, 2, 3]),
        "embedded_task_ids": np.array([1, 2, 3]),
        "label_codes": np.array([0, -1, 1], dtype=np.int16),
        "duplicate_groups": np.array([0, -1, 0] if grouped else [-1] * 3, dtype=np.int32),
        "suspects": np.array([3]),
        "suspect_codes": np.array([0], dtype=np.int16),
        "suspect_shares": np.array([0.9], dtype=np.float32),
    }
    with Store(folder).draft(7) as draft:
        return draft.save(record(draft.number, failures=failures), arrays)


def shown(studio: FakeLabelStudio) -> dict[str, Any]:
    return {tab["data"]["title"]: tab["data"].get("filters") for tab in studio.views.values()}


def test_tabs_follow_the_rounds_and_empty_ones_are_not_made(
    client: LabelStudio, studio: FakeLabelStudio, tmp_path: Path
) -> None:
    assert make_batch_tab(client, 7)
    assert not make_batch_tab(client, 7)
    show_findings(client, saved(tmp_path, unreadable=range(50, 52)))
    assert list(shown(studio)) == [BATCH, SUSPECTS, UNREADABLE]
    assert shown(studio)[UNREADABLE] == one_of([50, 51])
    assert shown(studio)[SUSPECTS] == one_of([3])
    show_findings(client, saved(tmp_path, grouped=True))
    assert shown(studio)[DUPLICATES] == one_of([1, 3])
    assert [item["value"] for item in shown(studio)[UNREADABLE]["items"]] == [-1]
    assert len(shown(studio)) == 4


def test_what_somebody_set_in_a_tab_stays_and_long_lists_are_cut(
    client: LabelStudio, studio: FakeLabelStudio, tmp_path: Path
) -> None:
    show_findings(client, saved(tmp_path, unreadable=range(50, 52)))
    tab = next(tab for tab in studio.views.values() if tab["data"]["title"] == UNREADABLE)
    tab["data"]["ordering"] = ["-tasks:created_at"]
    show_findings(client, saved(tmp_path, unreadable=range(50, 500)))
    tab = studio.views[tab["id"]]
    assert tab["data"]["ordering"] == ["-tasks:created_at"]
    assert [item["value"] for item in tab["data"]["filters"]["items"]] == list(range(50, 50 + LISTED))
