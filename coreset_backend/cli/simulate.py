"""`coreset-backend simulate`: rounds replayed on labelled images."""

from functools import partial
from pathlib import Path

import click

from coreset_backend.backend import open_backend
from coreset_backend.cli.terminal import running_settings, say
from coreset_backend.settings import read_settings
from coreset_backend.simulation.images import read_folder, read_project
from coreset_backend.simulation.replay import run_simulation


@click.command()
@click.option(
    "--images", "folder", type=click.Path(path_type=Path), help="Folder with one subfolder per class."
)
@click.option(
    "--project", "project_id", type=click.IntRange(1), help="Use the labelled tasks of this project instead."
)
@click.option(
    "--test",
    "test_folder",
    type=click.Path(path_type=Path),
    help="Folder of test images; default: a fifth of each class.",
)
@click.option(
    "--strategy",
    "strategies",
    default="uncertainty_herding,random",
    show_default=True,
    help="Strategies to compare, comma-separated.",
)
@click.option("--batch", "batches", default="50", show_default=True, help="Batch sizes, comma-separated.")
@click.option(
    "--rounds", type=click.IntRange(1), default=5, show_default=True, help="Batches to label in each run."
)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Repetitions.")
@click.option("--target", type=click.FloatRange(0, 1), help="Accuracy to reach, such as 0.9.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="simulation",
    show_default=True,
    help="Folder for the results; the same command resumes there.",
)
def simulate(
    folder: Path | None,
    project_id: int | None,
    test_folder: Path | None,
    strategies: str,
    batches: str,
    rounds: int,
    seeds: int,
    target: float | None,
    out: Path,
) -> None:
    """Compare strategies and batch sizes on labelled images.

    It replays rounds and shows how many labels each strategy needs.
    """
    settings = running_settings() if project_id else read_settings()
    if project_id and not folder:
        read = partial(read_project, open_backend(settings), project_id)
    elif folder and not project_id:
        read = partial(read_folder, folder, decoded=out / "pool.npy")
    else:
        raise click.UsageError("Give either --images or --project.")
    for line in run_simulation(
        settings,
        read,
        test_folder=test_folder,
        strategies=strategies.split(","),
        batches=batches.split(","),
        rounds=rounds,
        seeds=seeds,
        target=target,
        out=out,
    ):
        say(line)
