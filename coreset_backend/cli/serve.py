"""`coreset-backend serve`: this process becomes gunicorn."""

import os

import click

from coreset_backend.settings import read_settings
from coreset_backend.settings.environment import absolute_paths
from coreset_backend.web.server import PACKAGES, gunicorn_command


@click.command()
def serve() -> None:
    """Run the web process.

    Gunicorn serves Label Studio's requests, the pages and the API on HOST and PORT.
    """
    command, environment = gunicorn_command(read_settings()), dict(os.environ) | absolute_paths()
    os.chdir(PACKAGES)
    os.execve(command[0], command, environment)
