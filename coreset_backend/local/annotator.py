"""`coreset-backend demo`: an annotator that labels the demo project, to show the queue, the curve and the
advice.

It knows the class of every image and calls the same endpoints as a browser. At the end it replays core-set
and random selection on the demo's images and plots both.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from coreset_backend.backend import Backend
from coreset_backend.errors import CoresetError
from coreset_backend.evaluation.comparison import keep_replay
from coreset_backend.evaluation.history import project_history
from coreset_backend.local import demo_project
from coreset_backend.local import label_studio as demo
from coreset_backend.local.demo_images import CLASSES, DEMO_FOLDER, make_even_images
from coreset_backend.model import ChosenBackbone, choose_backbone
from coreset_backend.simulation.cells import Cell
from coreset_backend.simulation.images import LabeledImages, read_files
from coreset_backend.simulation.replay import simulate
from coreset_backend.simulation.report import recommendation, write_results
from coreset_backend.store.saved_round import StoredRound

SETTINGS = {"CORESET_BATCH_SIZE": "24", "CORESET_RANDOM_SLICE": "0.25", "CORESET_DEBOUNCE_SECONDS": "1"}
"""The demo's defaults: small batches, so that it shows several rounds."""
TEST_FOLDER = "demo-tests"
TESTED = 30  # test images of each class: a rare class counts as much as a common one
ROUND_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Show:
    """Length of the demo: batches to label, seconds before each answer, repetitions of the replay."""

    rounds: int
    pause: float
    seeds: int


def perform(
    show: Show,
    backend: Backend,
    server: demo.LabelStudioServer,
    project_id: int,
    drawn: Sequence[tuple[str, str]],
    report: demo.Report,
    stopping: threading.Event,
) -> None:
    """Label round after round, then compare. ``drawn``: (file name, class) of the demo's images.

    Returns early when ``stopping`` is set; an error is reported and ends it.
    """
    try:
        label_rounds(show, backend, server, project_id, dict(drawn), report, stopping)
        folder = backend.settings.local_dir / "comparison"
        report(f"\nCore-set and random on the same {len(drawn)} images, {show.seeds} times each:")
        for line in compare(show, backend, project_id, server.document_root, drawn, folder):
            report(line)
            if stopping.is_set():
                return
    except (CoresetError, httpx.HTTPError) as error:
        report(f"The demo stopped early: {error}")


# ---------------------------------------------------------------- the annotator


def label_rounds(
    show: Show,
    backend: Backend,
    server: demo.LabelStudioServer,
    project_id: int,
    truth: Mapping[str, str],
    report: demo.Report,
    stopping: threading.Event,
) -> None:
    """Label ``show.rounds`` batches in the order that Label Studio serves, and report each round."""
    stored = _next_round(backend, project_id, 0, stopping)
    with demo_project.open_session(server.url, server.login.token) as session:
        for _ in range(show.rounds):
            if stored is None or not stored.record.batch:
                return
            report(round_sentence(backend, stored))
            for _ in stored.record.batch:
                if stopping.wait(show.pause) or not annotate_next(session, project_id, truth):
                    break
            stored = _next_round(backend, project_id, stored.record.number, stopping)
    if stored:
        report(round_sentence(backend, stored))


def annotate_next(session: httpx.Client, project_id: int, truth: Mapping[str, str]) -> int | None:
    """Label the task that Label Studio serves next; its id, or None where it serves none.

    A task whose image has no known class is skipped.
    """
    served = session.post(
        "/api/dm/actions/", params={"id": "next_task", "project": project_id}, json={"project": project_id}
    )
    if served.status_code == 404:
        return None
    task = served.raise_for_status().json()
    kind = truth.get(task["data"]["image"].rsplit("/", 1)[-1])
    choice = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [kind]}}
    answer = {"result": [choice] if kind else [], "was_cancelled": kind is None, "lead_time": 1.0}
    session.post(f"/api/tasks/{task['id']}/annotations/", json=answer).raise_for_status()
    return int(task["id"])


def _next_round(
    backend: Backend, project_id: int, number: int, stopping: threading.Event
) -> StoredRound | None:
    """The newest round once there is a published one after ``number``; None after ROUND_SECONDS or a stop."""
    for _ in range(int(ROUND_SECONDS / 0.5)):
        stored = backend.store.latest(project_id)
        if stored and stored.record.number > number and stored.publication:
            return stored
        if stopping.wait(0.5):
            break
    return None


def round_sentence(backend: Backend, stored: StoredRound) -> str:
    """One line about the round: labels, accuracy, advice."""
    history = project_history(backend.store, stored.record.project_id)
    newest, advice = history.rounds[-1], history.advice
    accuracy = newest.accuracy
    measured = (
        f", {accuracy.value:.0%} of {accuracy.n} hold-out images predicted correctly" if accuracy else ""
    )
    return f"Round {newest.number}: {newest.labels} labels{measured}. {advice.sentence if advice else ''}"


# ---------------------------------------------------------------- core-set against random


def compare(
    show: Show,
    backend: Backend,
    project_id: int,
    root: Path,
    drawn: Sequence[tuple[str, str]],
    out: Path,
) -> Iterator[str]:
    """Replay the settings' strategy and random selection on the images ``drawn`` below ``root``.

    Yields lines to print; the curves go to the folder ``out`` and to the project's page.
    """
    settings = backend.settings.model_copy(update={"random_slice": 0.0})
    backbone = choose_backbone(settings.backbone, settings.weights, download=settings.download == "auto")
    tests = make_even_images(root / TEST_FOLDER, TESTED)
    pool, test = (
        _read_drawn(root / folder, files, backbone, settings.image_size, out)
        for folder, files in ((DEMO_FOLDER, drawn), (TEST_FOLDER, tests))
    )
    cells: list[Cell] = []
    for done in simulate(
        settings,
        backbone,
        pool,
        test,
        strategies=(settings.strategy, "random"),
        batches=[settings.batch_size],
        rounds=show.rounds,
        seeds=show.seeds,
        folder=out,
    ):
        if isinstance(done, str):
            yield f"  {done}"
        else:
            cells.append(done)
    lines = write_results(cells, out)
    advice = recommendation(lines, None)
    keep_replay(backend.store, project_id, lines, advice)
    yield advice
    yield f"The plot is in {out / 'curves.svg'} and on the project's page."


def _read_drawn(
    folder: Path, drawn: Sequence[tuple[str, str]], chosen: ChosenBackbone, size: int | None, out: Path
) -> LabeledImages:
    files = [(folder / name, kind) for name, kind in drawn]
    return read_files(files, CLASSES, chosen.backbone.resize(size), out / f"{folder.name}.npy")
