"""`coreset-backend connect` and `disconnect`."""

import click

from coreset_backend.backend import open_backend
from coreset_backend.cli.terminal import project_option, running_settings, say
from coreset_backend.connection.connect import connect as connection_steps
from coreset_backend.foreign_text import one_line
from coreset_backend.jobs.queue import request_round
from coreset_backend.jobs.requests import disconnect_project


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
def disconnect(project_id: int) -> None:
    """Undo in Label Studio what `connect` and the rounds changed.

    Labels and saved rounds are kept.
    """
    for done in disconnect_project(open_backend(running_settings()), project_id):
        say(one_line(done))
    say(f"Project {project_id} is disconnected. `coreset-backend connect` resumes it with its saved rounds.")
