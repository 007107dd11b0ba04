"""The command line: one function for each command, whose body lives in a module of its own."""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from coreset_backend import __version__
from coreset_backend.backend import open_backend
from coreset_backend.errors import CoresetError
from coreset_backend.foreign_text import one_line
from coreset_backend.logs import configure_logging
from coreset_backend.redaction import redacted
from coreset_backend.settings import Settings, absolute_paths, read_settings


class Commands(click.Group):
    """A group whose commands end in a message and exit status 2 on anything we raise on purpose."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except click.ClickException as error:
            error.message = redacted(error.message)  # type: ignore[misc]  # it may quote what was typed
            raise
        except CoresetError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(2)


def say(text: str) -> None:
    """Print what was found out elsewhere, without the secrets and the orders to the terminal in it."""
    for line in redacted(text).split("\n"):
        click.echo(one_line(line, most=10 * len(text)))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Core-Set active learning beside Label Studio. Settings come from the environment."""
    # Read when torch is loaded. On a machine that others use too, threads that spin while they wait for each
    # other make a fit three times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    configure_logging(read_settings())


def running_settings() -> Settings:
    """The settings; what they leave open comes from the `coreset-backend run` of this folder, if it runs."""
    from coreset_backend.local.stack import settings_of_run

    settings = read_settings()
    given = {
        name: value
        for name, value in settings_of_run(settings.model_dir).items()
        if name not in settings.model_fields_set
    }
    return read_settings(**given)


@main.command()
@click.option("--label-studio-command", help="The label-studio executable for the demo.")
def run(label_studio_command: str | None) -> None:
    """Everything on this machine: Redis, worker, web, and a Label Studio with a demo unless one is named."""
    from coreset_backend.local import stack as local

    local.run(read_settings(), Path.cwd(), say, label_studio_command)


@main.command()
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="Batches to label.")
@click.option("--pause", default=0.3, show_default=True, help="Seconds before each answer.")
@click.option(
    "--seeds", type=click.IntRange(1), default=3, show_default=True, help="Repetitions of the replay."
)
@click.option("--label-studio-command", help="The label-studio executable.")
def demo(label_studio_command: str | None, **given: Any) -> None:
    """As `run`, with an annotator who labels by itself; ends with core-set against random in one plot."""
    from coreset_backend.local import annotator as show
    from coreset_backend.local import stack as local

    for name, value in show.SETTINGS.items():
        os.environ.setdefault(name, value)
    local.run(read_settings(), Path.cwd(), say, label_studio_command, show.Show(**given))


@main.command()
def serve() -> None:
    """The web process, by gunicorn."""
    from coreset_backend.web.server import PACKAGES, gunicorn_command

    command, environment = gunicorn_command(read_settings()), dict(os.environ) | absolute_paths()
    os.chdir(PACKAGES)
    os.execve(command[0], command, environment)


@main.command()
def work() -> None:
    """A worker: runs rounds one at a time, and polls for what webhooks missed."""
    from coreset_backend.jobs import worker

    worker.work(open_backend(read_settings(), patient=True))


project_option = click.option(
    "--project", "project_id", type=click.IntRange(1), required=True, help="Its number."
)


@main.command()
@project_option
def connect(project_id: int) -> None:
    """Connect a Label Studio project: backend, webhook secret, sampling and tab; then its first round."""
    from coreset_backend.connection.connect import connect as steps
    from coreset_backend.jobs.queue import request_round

    backend = open_backend(running_settings())
    for done in steps(
        backend.label_studio,
        backend.store,
        project_id,
        url=backend.settings.url,
        secret=backend.webhook_secret,
        basic_auth=backend.basic_auth,
        override_version=backend.settings.override_version,
        control=backend.settings_for(project_id, {}).control,
    ):
        say(one_line(done))
    backend.store.register(project_id)
    request_round(backend, project_id, "connected")
    say("The first batch is being chosen; then press 'Label All Tasks' in Label Studio.")


@main.command()
@project_option
def disconnect(project_id: int) -> None:
    """Undo all that `connect` and the rounds did in a Label Studio project; labels and rounds are kept."""
    from coreset_backend.jobs.requests import disconnect_project

    for done in disconnect_project(open_backend(running_settings()), project_id):
        say(one_line(done))
    say(f"Project {project_id} is disconnected. `coreset-backend connect` goes on where it was.")


@main.command()
@project_option
def start(project_id: int) -> None:
    """Start a round now, due or not."""
    from coreset_backend.jobs.queue import request_round
    from coreset_backend.jobs.requests import require_connected

    backend = open_backend(running_settings())
    require_connected(backend, project_id)
    backend.store.register(project_id)
    queued = request_round(backend, project_id, "started by hand", force=True)
    say("A round is queued." if queued else "A round is waiting already.")


@main.command()
@project_option
def cancel(project_id: int) -> None:
    """Cancel the running and the waiting round; none starts by itself until `start`."""
    from coreset_backend.jobs.requests import cancel_round

    stopped = cancel_round(open_backend(running_settings()), project_id)
    say("Cancelled. Annotators keep their batch." if stopped else "No round runs or waits.")


@main.command()
@project_option
def refresh(project_id: int) -> None:
    """Ask for every image whether its file was replaced under its address; a round reads those that were."""
    from coreset_backend.jobs.requests import refresh_images

    count = refresh_images(open_backend(running_settings()), project_id)
    say(f"A round is queued that asks about {count} images." if count else "No image was read yet.")


@main.command()
@project_option
def publish(project_id: int) -> None:
    """Publish the current batch again, as after Label Studio was restored from a backup."""
    from coreset_backend.jobs.requests import publish_again

    queued = publish_again(open_backend(running_settings()), project_id)
    say("It is published in a moment." if queued else "A job of the project waits already.")


@main.command()
@project_option
@click.option("--round", "number", type=click.IntRange(1), required=True, help="The round to go back to.")
def rollback(project_id: int, number: int) -> None:
    """Serve the batch and the answers of an earlier round; none starts by itself until `start`."""
    from coreset_backend.jobs.requests import roll_back

    roll_back(open_backend(running_settings()), project_id, number)
    say(f"Rolled back to round {number}; it is published in a moment.")


@main.command()
@click.option("--project", "project_id", type=click.IntRange(1), help="Only this one.")
@click.option("--json", "as_json", is_flag=True, help="As the API answers it.")
def status(project_id: int | None, as_json: bool) -> None:
    """How far each project's round is, what its last one chose, and the counts of its tasks."""
    from coreset_backend.cli.status import status_lines
    from coreset_backend.jobs.status import all_statuses, project_status

    backend = open_backend(running_settings())
    found = all_statuses(backend) if project_id is None else [project_status(backend, project_id)]
    if as_json:
        say(json.dumps(found, indent=2))
    elif not found:
        say("No project is connected. Run `coreset-backend connect --project N`.")
    else:
        say("\n".join(one_line(line) for each in found for line in status_lines(each)))


file_option = click.Path(exists=True, dir_okay=False, path_type=Path)


@main.command()
@click.option("--embeddings", type=file_option, required=True, help="float[n, d] as .npy.")
@click.option("--labeled", type=file_option, help="Text, one row number a line; the first row is 0.")
@click.option("--probabilities", type=file_option, help="float[n, classes] as .npy, for uncertainty.")
@click.option("--batch", type=click.IntRange(1), required=True, help="Rows to choose.")
@click.option("--strategy", default="k_center", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--group-duplicates", is_flag=True, help="Of near-duplicate rows at most one is chosen.")
@click.option(
    "--outlier-share", type=click.FloatRange(0, 1), default=1.0, help="At most this share: outliers."
)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of CSV.")
def select(as_json: bool, **given: Any) -> None:
    """Choose rows of a file of embeddings, without Label Studio; progress on standard error."""
    from coreset_backend.cli import select as select_files

    selection = select_files.select_from_files(
        **given,
        progress=lambda phase, done, total: click.echo(
            f"\r{phase} {done} of {total}" if total else f"\r{phase} ...", err=True, nl=False
        ),
    )
    click.echo(err=True)
    click.echo(select_files.as_json(selection) if as_json else select_files.as_csv(selection))
    if not as_json:
        before, after = selection.radius_before, selection.radius_after
        click.echo(f"covering radius {before:.6g} before, {after:.6g} after", err=True)
        if selection.status:
            least = selection.lower_bound or 0.0
            click.echo(f"{selection.status}; no choice of as many rows gets below {least:.6g}", err=True)


@main.command()
@click.option("--project", "project_id", type=click.IntRange(1), help="Only this one of the projects.")
def doctor(project_id: int | None) -> None:
    """Check store, Redis, worker, web, Label Studio and every project; says the fix for each problem."""
    from coreset_backend.cli.doctor import Note, examine

    backend = open_backend(running_settings())
    sound = True
    for name, lines in examine(backend, [project_id] if project_id else backend.store.projects()):
        is_sound = all(isinstance(line, Note) for line in lines)
        say(f"{'ok     ' if is_sound else 'PROBLEM'}  {name}")
        for line in lines:
            say(f"         {one_line(line)}")
        sound = sound and is_sound
    sys.exit(0 if sound else 1)


@main.command()
@click.option("--images", "folder", type=click.Path(path_type=Path), help="A subfolder a class.")
@click.option("--project", "project_id", type=click.IntRange(1), help="Or the labelled tasks of a project.")
@click.option("--test", "test_folder", type=click.Path(path_type=Path), help="Else a fifth of them.")
@click.option(
    "--strategy", "strategies", default="uncertainty_herding,random", show_default=True, help="By commas."
)
@click.option("--batch", "batches", default="50", show_default=True, help="Tasks in a batch, by commas.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Repetitions.")
@click.option("--target", type=click.FloatRange(0, 1), help="An accuracy, as in 0.9.")
@click.option("--out", type=click.Path(path_type=Path), default="simulation", show_default=True)
def simulate(
    folder: Path | None, project_id: int | None, strategies: str, batches: str, **given: Any
) -> None:
    """Replay rounds on labelled images: which strategy, which batch size, how many labels. Resumable."""
    from coreset_backend.simulation.images import read_folder, read_project
    from coreset_backend.simulation.replay import run_simulation

    settings = running_settings() if project_id else read_settings()
    if project_id and not folder:
        read = partial(read_project, open_backend(settings), project_id)
    elif folder and not project_id:
        read = partial(read_folder, folder, decoded=given["out"] / "pool.npy")
    else:
        raise click.UsageError("Name either --images or --project.")
    for line in run_simulation(
        settings, read, strategies=strategies.split(","), batches=batches.split(","), **given
    ):
        say(line)
