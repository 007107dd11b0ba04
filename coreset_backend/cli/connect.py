"""`coreset-backend connect` and `disconnect`."""

import sys

import click

from coreset_backend.backend import open_backend
from coreset_backend.cli.terminal import project_option, running_settings, say
from coreset_backend.connection.connect import connect as connection_steps
from coreset_backend.foreign_text import one_line
from coreset_backend.jobs.queue import request_round
from coreset_backend.jobs.requests import disconnect_project, labels_to_remove

DRY_RUN = (
    "Webhook, backend, tabs and the predictions of this backend would be deleted, and the previous task "
    "sampling and version shown again. Nothing was changed."
)


@click.command()
@project_option
def connect(project_id: int) -> None:
    """Connect a Label Studio project and start its first round.

    It adds the backend, sets the webhook's secret and the task sampling, and creates a tab. If you run it
    again, it does only what is missing.
    """
    backend = open_backend(running_settings())
    for done in connection_steps(backend, project_id):
        say(one_line(done))
    backend.store.register(project_id)
    request_round(backend, project_id, "connected")
    say("The first batch is being selected. When it is ready, press 'Label All Tasks' in Label Studio.")


@click.command()
@project_option
@click.option("--keep-labels", is_flag=True, help="Keep the labels that a finish has written.")
@click.option("--dry-run", is_flag=True, help="Show which labels would be removed; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask before such labels are removed.")
def disconnect(project_id: int, keep_labels: bool, dry_run: bool, yes: bool) -> None:
    """Undo in Label Studio what `connect`, the rounds and a finish changed.

    Labels by people and saved rounds are kept. In a terminal it asks before it removes labels of a finish.
    """
    backend = open_backend(running_settings())
    labels = [] if keep_labels else labels_to_remove(backend.store, project_id)
    for line in labels:
        say(line)
    if dry_run:
        say(DRY_RUN)
        return
    if labels and not yes and sys.stdin.isatty():
        click.confirm("Remove them and disconnect? --keep-labels keeps them.", abort=True)
    for done in disconnect_project(backend, project_id, keep_labels=keep_labels):
        say(one_line(done))
    say(f"Project {project_id} is disconnected. `coreset-backend connect` resumes it with its saved rounds.")
