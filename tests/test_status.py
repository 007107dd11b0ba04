import json
from collections.abc import Callable

import pytest
from rq import Worker
from rq.serializers import JSONSerializer
from test_store import record

from coreset_backend.backend import Backend
from coreset_backend.progress import note_unseen
from coreset_backend.status import PHASES, project_status, status_lines, whole_round

TIMINGS = {"snapshot": 1.0, "images": 4.0, "fit": 10.0, "embed": 3.0, "publish": 2.0}


def running(backend: Backend, **progress: object) -> None:
    backend.redis.set("coreset:7:progress", json.dumps({"state": "running", **progress}))
    backend.redis.set("coreset:7:lease", "held")
    worker = Worker([backend.queue], connection=backend.redis, serializer=JSONSerializer)
    worker.register_birth()


def test_percent_and_time_left_come_from_the_last_round() -> None:
    half_fitted = whole_round({"phase": "fit", "done": 50, "total": 100}, TIMINGS)
    # 1 + 4 + 5 of 20 s, and the five seconds that are assumed for the four phases without a time
    assert half_fitted == {"percent": 40, "seconds_left": 15.0}


def test_before_a_first_round_percent_is_a_guess_and_no_time_is_promised() -> None:
    percents = [whole_round({"phase": phase}, None)["percent"] for phase in PHASES]
    assert percents == sorted(percents)
    assert percents[0] == 0
    assert whole_round({"phase": "publish", "done": 1, "total": 1}, None) == {
        "percent": 99,
        "seconds_left": None,
    }


def test_an_unknown_phase_is_a_beginning() -> None:
    assert whole_round({"phase": "dreaming"}, TIMINGS)["percent"] == 0


def test_status_of_a_running_round(make_backend: Callable[..., Backend]) -> None:
    backend = make_backend()
    with backend.store.draft(7) as draft:
        draft.save(record(draft.number, timings=TIMINGS), {})
    running(backend, phase="embed", done=30, total=60)
    note_unseen(backend, 7, [5, 6, 5])
    found = project_status(backend, 7)
    assert found["progress"]["phase"] == "embed"
    assert found["progress"]["unseen"] == 2
    assert found["progress"]["percent"] == pytest.approx(100 * 16.5 / 25, abs=1)
    text = "\n".join(status_lines(found))
    assert "66 %, embed (30 of 60), about 8 s left" in text
    assert "Round 1 of" in text
    assert "not published yet" in text


def test_a_round_whose_worker_died_is_said_to_wait(make_backend: Callable[..., Backend]) -> None:
    backend = make_backend()
    running(backend, phase="fit")
    backend.redis.delete("coreset:7:lease")
    assert project_status(backend, 7)["progress"]["state"] == "waiting"


def test_a_failure_is_shown_in_words(make_backend: Callable[..., Backend]) -> None:
    backend = make_backend()
    backend.redis.set("coreset:7:progress", json.dumps({"state": "failed", "error": "No image came."}))
    lines = status_lines(project_status(backend, 7))
    assert lines == ["Project 7: failed", "  Last error: No image came.", "  No round yet."]
