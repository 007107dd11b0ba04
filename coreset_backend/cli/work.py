"""`coreset-backend work`: this process becomes a worker."""

import click

from coreset_backend.backend import open_backend
from coreset_backend.jobs import worker
from coreset_backend.settings import read_settings


@click.command()
def work() -> None:
    """Run a worker.

    It runs rounds one at a time, and polls Label Studio for changes whose webhook was lost.
    """
    worker.work(open_backend(read_settings(), patient=True))
