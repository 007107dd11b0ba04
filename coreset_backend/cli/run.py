"""`coreset-backend run`: everything on this machine."""

from pathlib import Path

import click

from coreset_backend.cli.terminal import label_studio_option, say
from coreset_backend.local import stack
from coreset_backend.settings import read_settings


@click.command()
@label_studio_option
def run(label_studio_command: str | None) -> None:
    """Run everything on this machine, with a demo project.

    It starts Redis, worker, web and Label Studio, and stops them on Ctrl-C. If LABEL_STUDIO_URL or REDIS_URL
    is set, it uses that one instead. It creates the demo project only in a Label Studio that it started.
    """
    stack.run(read_settings(), Path.cwd(), say, label_studio_command)
