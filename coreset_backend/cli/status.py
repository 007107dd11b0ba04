"""`coreset-backend status`: the state of each project, as lines for a terminal."""

import json
from dataclasses import asdict
from datetime import UTC, datetime

import click

from coreset_backend.backend import open_backend
from coreset_backend.cli.terminal import optional_project, running_settings, say
from coreset_backend.foreign_text import one_line
from coreset_backend.jobs.finishing import counts_line
from coreset_backend.jobs.progress import span
from coreset_backend.jobs.states import RoundState
from coreset_backend.jobs.status import (
    ProjectProgress,
    ProjectStatus,
    RoundStatus,
    UnreadableProject,
    all_statuses,
    project_status,
)
from coreset_backend.jobs.work_left import WorkLeft


@click.command()
@optional_project
@click.option("--json", "as_json", is_flag=True, help="Print JSON, in the form of the API.")
def status(project_id: int | None, as_json: bool) -> None:
    """Show round, progress and task counts of each project."""
    backend = open_backend(running_settings())
    found = all_statuses(backend) if project_id is None else [project_status(backend, project_id)]
    if as_json:
        say(json.dumps([asdict(each) for each in found], indent=2))
    elif not found:
        say("No project is connected. Run `coreset-backend connect --project N`.")
    else:
        say("\n".join(one_line(line) for each in found for line in status_lines(each)))


def status_lines(status: ProjectStatus | UnreadableProject) -> list[str]:
    """The lines of one project's status."""
    if isinstance(status, UnreadableProject):
        return [f"Project {status.project}: unknown", f"  {status.error}"]
    progress = status.progress
    pretraining = progress.pretraining.sentence if progress.pretraining else ""
    return [
        f"Project {status.project}: {_state_line(progress)}",
        f"  {progress.sentence}",
        *([f"  {pretraining}"] if pretraining and pretraining not in progress.sentence else []),
        *(f"  {sentence}" for sentence in progress.connection),
        *_failure_before(progress),
        *(_round_lines(status.round) if status.round else []),
        *([f"  {status.backbone_choice.sentence}"] if status.backbone_choice else []),
        *([f"  {status.advice.sentence}"] if status.advice else []),
        *_finish_lines(status),
        *(_work_lines(status.work) if status.work else []),
    ]


def _work_lines(work: WorkLeft) -> list[str]:
    sentences = [work.sentence, work.pace_sentence, *(each.sentence for each in work.goals)]
    return [f"  {sentence}" for sentence in sentences if sentence]


def _finish_lines(status: ProjectStatus) -> list[str]:
    """What the model and copies label, and who labels the tasks; nothing where neither does."""
    found = [("Labels by the model", status.finish), ("Labels of copies", status.copies)]
    lines = [f"  {words}, {each.state}: {each.sentence}" for words, each in found if each]
    return [*lines, f"  {counts_line(status.labels)}"] if lines else []


def _state_line(progress: ProjectProgress) -> str:
    if progress.state is not RoundState.RUNNING:
        return str(progress.state)
    left = progress.seconds_left
    return f"running, {progress.percent} %" + ("" if left is None else f", about {span(left)} left")


def _failure_before(progress: ProjectProgress) -> list[str]:
    """Why the previous attempt failed, while the next one runs or waits."""
    failure = progress.last_failure
    if not failure or progress.error or progress.state is RoundState.IDLE:
        return []
    moment = datetime.fromtimestamp(failure.at, UTC)
    return [f"  The previous attempt failed, {moment:%Y-%m-%d %H:%M:%S} UTC: {failure.error}"]


def _measured(newest: RoundStatus) -> str:
    """What the hold-out says of the model, as the end of a line."""
    accuracy, calibration = newest.accuracy, newest.calibration
    words = "" if accuracy is None else f"; {accuracy.value:.0%} accuracy on the hold-out"
    return words + ("" if calibration is None else f"; {calibration.words}")


def _round_lines(newest: RoundStatus) -> list[str]:
    counts = newest.counts
    shown = "published" if newest.published else "not published yet"
    return [
        f"  Round {newest.number} of {newest.taken_at[:19]}, {newest.strategy}, {shown}",
        f"  Model: {newest.backbone}{_measured(newest)}",
        f"  Tasks: {sum(counts.values())} = "
        + " + ".join(f"{n} {state}" for state, n in counts.items() if n),
        *([f"  {newest.label_errors.sentence}"] if newest.label_errors.sentence else []),
        *([f"  Read: {newest.reading.words}"] if newest.reading else []),
        *([f"  Computed: {newest.work.words}"] if newest.work else []),
        *([f"  {newest.imported.sentence}"] if newest.imported else []),
        *(f"  {remark}" for remark in newest.remarks),
    ]
