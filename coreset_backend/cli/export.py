"""`coreset-backend export`: a project's labelled images and its model, as a folder to take home."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from coreset_backend.backend import open_backend
from coreset_backend.cli.terminal import project_option, running_settings, say
from coreset_backend.export.run import Exported, export_project

MOST_NAMED = 5
WORDS = {
    "person": "labelled by people",
    "copy": "labelled as near-duplicates",
    "model": "labelled by the model",
    "unread": "answered with what is no class",
}


@click.command()
@project_option
@click.option(
    "--to", "place", type=click.Path(path_type=Path), required=True, help="Folder to write; made if missing."
)
@click.option("--no-images", is_flag=True, help="Write the labels without the image files.")
@click.option("--no-model", is_flag=True, help="Write the dataset alone.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def export(project_id: int, place: Path, no_images: bool, no_model: bool, as_json: bool) -> None:
    """Write the dataset and the model of a project to a folder.

    The folder appears whole at the end. An export that was stopped goes on with the images that it has. It
    replaces an earlier export of the same project, and no other files.
    """
    backend = open_backend(running_settings())
    try:
        done = export_project(
            backend,
            project_id,
            place,
            with_images=not no_images,
            with_model=not no_model,
            progress=_show_progress,
        )
    finally:
        backend.close()
        click.echo(err=True)
    say(json.dumps(asdict(done), indent=2) if as_json else "\n".join(exported_lines(done)))


def _show_progress(phase: str, done: int, total: int) -> None:
    click.echo(f"\r{phase} {f'{done:,} of {total:,}' if total else ''}\033[K", err=True, nl=False)


def exported_lines(done: Exported) -> list[str]:
    """What was written, as lines for a terminal."""
    counts = ", ".join(f"{count:,} {WORDS.get(name, name)}" for name, count in done.tasks.items())
    lines = [f"{done.folder}: {counts}; {done.images:,} image files."]
    if done.model_version:
        lines.append(f"Model {done.model_version}.")
    if done.onnx_difference is not None:
        lines.append(f"model.onnx gives torch's probabilities within {done.onnx_difference:.1g}.")
    lines += done.remarks
    for failure in done.unreadable[:MOST_NAMED]:
        lines.append(f"Task {failure.task_id} has no image file: {failure.reason}")
    if (more := len(done.unreadable) - MOST_NAMED) > 0:
        lines.append(f"{more:,} more have none; labels.csv has the reasons.")
    return lines
