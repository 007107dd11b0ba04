"""`coreset-backend start`, `cancel`, `refresh`, `publish` and `rollback`: requests of a person."""

import click

from coreset_backend.backend import open_backend
from coreset_backend.cli.terminal import project_option, running_settings, say
from coreset_backend.jobs.queue import request_round
from coreset_backend.jobs.requests import (
    cancel_round,
    publish_again,
    refresh_images,
    require_connected,
    roll_back,
)


@click.command()
@project_option
def start(project_id: int) -> None:
    """Start a round now.

    It starts even if no round is due.
    """
    backend = open_backend(running_settings())
    require_connected(backend.store, project_id)
    backend.store.register(project_id)
    queued = request_round(backend, project_id, "started by hand", force=True)
    say("A round is queued." if queued else "A round is already waiting.")


@click.command()
@project_option
def cancel(project_id: int) -> None:
    """Cancel the running and the waiting round.

    No round starts automatically until `start`.
    """
    stopped = cancel_round(open_backend(running_settings()), project_id)
    say("Cancelled. Annotators keep the current batch." if stopped else "No round is running or waiting.")


@click.command()
@project_option
def refresh(project_id: int) -> None:
    """Check for replaced image files and read them again.

    It starts a round that checks for each image whether the file at its address has changed.
    """
    queued = refresh_images(open_backend(running_settings()), project_id)
    say("A round that checks all images is queued." if queued else "No image has been read yet.")


@click.command()
@project_option
def publish(project_id: int) -> None:
    """Publish the current batch again.

    Use it after Label Studio was restored from a backup.
    """
    queued = publish_again(open_backend(running_settings()), project_id)
    say("It will be published in a moment." if queued else "A job of the project is already waiting.")


@click.command()
@project_option
@click.option("--round", "number", type=click.IntRange(1), required=True, help="Number of the round.")
def rollback(project_id: int, number: int) -> None:
    """Go back to the batch and the predictions of an earlier round.

    Later rounds are kept. No round starts automatically until `start`.
    """
    roll_back(open_backend(running_settings()), project_id, number)
    say(f"Rolled back to round {number}; its batch will be published in a moment.")
