"""`coreset-backend demo`: everything on this machine, with an annotator that labels the demo project."""

import os
from functools import partial
from pathlib import Path

import click

from coreset_backend.cli.terminal import label_studio_option, say
from coreset_backend.local import stack
from coreset_backend.local.annotator import SETTINGS, Show, perform
from coreset_backend.settings import read_settings


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="Batches to label.")
@click.option("--pause", default=0.3, show_default=True, help="Seconds before each answer.")
@click.option(
    "--seeds", type=click.IntRange(1), default=3, show_default=True, help="Repetitions of the comparison."
)
@label_studio_option
def demo(label_studio_command: str | None, rounds: int, pause: float, seeds: int) -> None:
    """Run everything, with an annotator that labels the demo project.

    At the end a plot compares core-set with random selection.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    labels_itself = partial(perform, Show(rounds, pause, seeds))
    stack.run(read_settings(), Path.cwd(), say, label_studio_command, labels_itself)
