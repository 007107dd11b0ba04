import json
from collections.abc import Callable

import pytest
from rq import Worker
from rq.serializers import JSONSerializer
from saved_rounds import record

from coreset_backend.backend import Backend
from coreset_backend.cli.status import status_lines
from coreset_backend.jobs.monitoring import alive_key
from coreset_backend.jobs.progress import WrittenProgress, note_unseen
from coreset_backend.jobs.states import Phase
from coreset_backend.jobs.status import WholeRound, project_status, whole_round

TIMINGS = {"snapshot": 1.0, "images": 4.0, "train": 10.0, "embed": 3.0, "publish": 2.0}


def running(backend: Backend, **progress: object) -> None:
    backend.redis.set("coreset:7:progress", json.dumps({"state": "running", **progress}))
    backend.redis.set("coreset:7:lease", "held")
    worker = Worker([backend.queue], connection=backend.redis, serializer=JSONSerializer)
    worker.register_birth()
    backend.redis.set(alive_key(worker.name), "1", ex=3600)


def test_percent_and_time_left_come_from_the_last_round() -> None:
    half_fitted = whole_round(WrittenProgress(phase="train", done=50, total=100), TIMINGS)
    # 1 + 4 + 5 of 20 s, and the six seconds that are assumed for the five phases without a time
    assert half_fitted == WholeRound(38, 16.0)


def test_before_a_first_round_percent_is_a_guess_and_no_time_is_promised() -> None:
    percents = [whole_round(WrittenProgress(phase=phase), None).percent for phase in Phase]
    assert percents == sorted(percents)
    assert percents[0] == 0
    assert whole_round(WrittenProgress(phase="publish", done=1, total=1), None) == WholeRound(99, None)


def test_an_unknown_phase_is_a_beginning() -> None:
    assert whole_round(WrittenProgress(phase="dreaming"), TIMINGS).percent == 0


def test_status_of_a_running_round(make_backend: Callable[..., Backend]) -> None:
    backend = make_backend()
    with backend.store.draft(7) as draft:
        draft.save(record(draft.number, timings=TIMINGS), {})
    running(backend, phase="embed", done=30, total=60)
    note_unseen(backend.redis, 7, [5, 6, 5])
    found = project_status(backend, 7)
    assert found.progress.phase == "embed"
    assert found.progress.unseen == 2
    assert found.progress.percent == pytest.approx(100 * 16.5 / 26, abs=1)
    text = "\n".join(status_lines(found))
    assert "Project 7: running, 63 %, about 10 s left" in text
    assert "  Embedding: 30 of 60." in text
    assert "Round 1 of" in text
    assert "not published yet" in text


def test_a_round_whose_worker_died_is_said_to_wait(make_backend: Callable[..., Backend]) -> None:
    backend = make_backend()
    running(backend, phase="train")
    backend.redis.delete("coreset:7:lease")
    assert project_status(backend, 7).progress.state == "waiting"


def test_a_failure_is_shown_in_words_with_what_comes_next(make_backend: Callable[..., Backend]) -> None:
    backend = make_backend()

    def lines(**progress: object) -> list[str]:
        backend.redis.set("coreset:7:progress", json.dumps(progress))
        return status_lines(project_status(backend, 7))

    failure = {"error": "No image came.", "at": 1767225600.0}
    told = {"error": failure["error"], "last_failure": failure}
    words = "  The last round failed: No image came. It is not retried automatically: start a round."
    assert lines(state="failed", **told)[:2] == ["Project 7: failed", words]
    again = lines(state="waiting", error=None, last_failure=failure)
    assert again[2] == "  The previous attempt failed, 2026-01-01 00:00:00 UTC: No image came."
    assert len(lines(state="idle", error=None, last_failure=failure)) == 2


def test_a_download_of_weights_is_shown_in_megabytes_and_only_while_it_lasts(
    make_backend: Callable[..., Backend],
) -> None:
    backend = make_backend()
    running(backend, phase="weights", done=12_400_000, total=88_000_000)
    progress = project_status(backend, 7).progress
    assert progress.sentence == "Downloading weights: 12 of 88 MB."
    assert [step.phase for step in progress.steps if step.status == "current"] == ["weights"]
    running(backend, phase="images")
    assert "weights" not in [step.phase for step in project_status(backend, 7).progress.steps]


@pytest.mark.parametrize(
    ("done", "machines", "words"),
    [
        (0, 1, "Embedded 0 of 40,000 images: the machines load the network."),
        (64, 1, "Embedded 64 of 40,000 images on 1 machine."),
        (12_000, 3, "Embedded 12,000 of 40,000 images on 3 machines."),
        (12_000, 0, "Embedded 12,000 of 40,000 images. The round waits for a free machine of the cluster."),
    ],
)
def test_what_a_cluster_does_is_said(backend: Backend, done: int, machines: int, words: str) -> None:
    running(backend, phase="cluster", done=done, total=40_000, machines=machines)
    assert project_status(backend, 7).progress.sentence == words
