"""What the commands share: printing, the settings of a running `run`, common options."""

from pathlib import Path

import click

from coreset_backend.foreign_text import one_line
from coreset_backend.local.run_file import settings_of_run
from coreset_backend.redaction import redacted
from coreset_backend.settings import Settings, read_settings

project_option = click.option(
    "--project", "project_id", type=click.IntRange(1), required=True, help="Number of the project."
)
optional_project = click.option(
    "--project", "project_id", type=click.IntRange(1), help="Number of one project; default: all."
)
label_studio_option = click.option("--label-studio-command", help="Path of the label-studio executable.")
file_option = click.Path(exists=True, dir_okay=False, path_type=Path)


def say(text: str) -> None:
    """Print lines, without secrets and without escape sequences that would reach the terminal."""
    for line in redacted(text).split("\n"):
        click.echo(one_line(line, most=10 * len(text)))


def running_settings() -> Settings:
    """The settings; values that are not set come from a `coreset-backend run` in this folder."""
    settings = read_settings()
    given = {
        name: value
        for name, value in settings_of_run(settings.local_dir).items()
        if name not in settings.model_fields_set
    }
    return read_settings(**given)
