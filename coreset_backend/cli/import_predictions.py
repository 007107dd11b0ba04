"""`coreset-backend import-predictions`: predictions from elsewhere that choose batches."""

from pathlib import Path

import click

from coreset_backend.backend import open_backend
from coreset_backend.cli.terminal import file_option, project_option, running_settings, say
from coreset_backend.jobs.importing import import_file, import_version, import_words, remove_import


@click.command()
@project_option
@click.option(
    "--csv", "path", type=file_option, help="A file of predictions; docs/import-predictions.md has its form."
)
@click.option("--model-version", help="A version of predictions that the project already has.")
@click.option("--remove", is_flag=True, help="Remove what was imported.")
def import_predictions(project_id: int, path: Path | None, model_version: str | None, remove: bool) -> None:
    """Choose batches by the uncertainty of predictions from elsewhere.

    They are used until our own model answers the hold-out better; nothing is trained on them, and annotators
    do not see them. Without an option it says what is imported.
    """
    if sum(map(bool, (path, model_version, remove))) > 1:
        raise click.UsageError("--csv, --model-version and --remove exclude each other.")
    backend = open_backend(running_settings())
    if remove:
        removed = remove_import(backend, project_id)
        say("The imported predictions are removed." if removed else "There is nothing to remove.")
        return
    if path:
        import_file(backend, project_id, path)
    elif model_version:
        import_version(backend, project_id, model_version)
    say(import_words(backend, project_id))
