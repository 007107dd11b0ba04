"""`coreset-backend`: the table of commands; the module of each is imported when it runs."""

import contextlib
import gc
import os
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module

import click

from coreset_backend import __version__
from coreset_backend.errors import CoresetError
from coreset_backend.logs import configure_logging
from coreset_backend.redaction import redacted
from coreset_backend.settings import read_settings

COMMANDS = {
    "run": ("run", "Run everything on this machine, with a demo project."),
    "demo": ("demo", "Run everything, with an annotator that labels the demo project."),
    "serve": ("serve", "Run the web process."),
    "work": ("work", "Run a worker."),
    "connect": ("connect", "Connect a Label Studio project and start its first round."),
    "disconnect": ("connect", "Undo in Label Studio what `connect`, the rounds and a finish changed."),
    "start": ("rounds", "Start a round now."),
    "cancel": ("rounds", "Cancel the running and the waiting round."),
    "refresh": ("rounds", "Check for replaced image files and read them again."),
    "publish": ("rounds", "Publish the current batch again."),
    "rollback": ("rounds", "Go back to the batch and the predictions of an earlier round."),
    "finish": ("finish", "Label the rest of the pool by the model, with a bound on wrong labels."),
    "export": ("export", "Write the dataset and the model of a project to a folder."),
    "import-predictions": (
        "import_predictions",
        "Choose batches by the uncertainty of predictions from elsewhere.",
    ),
    "status": ("status", "Show round, progress and task counts of each project."),
    "doctor": ("doctor", "Check everything and print a fix for each problem."),
    "select": ("select", "Select rows of a file or a folder of embeddings, without Label Studio."),
    "backbones": (
        "backbones",
        "List backbones with licence, size and speed on this machine, and which of them `auto` takes.",
    ),
    "strategies": ("strategies", "List the strategies, what each selects and when to use it."),
    "simulate": ("simulate", "Compare strategies and batch sizes on labelled images."),
}
"""Name -> (module in this room, first sentence of its help)."""


class Commands(click.Group):
    """A group that prints errors raised on purpose as one message, and ends with exit status 2."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except click.ClickException as error:
            error.message = redacted(error.message)  # type: ignore[misc]  # it may quote what was typed
            raise
        except CoresetError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(2)

    def list_commands(self, context: click.Context) -> list[str]:
        """The commands in the order of the table."""
        return list(self.commands)


class LazyCommand(click.Command):
    """A command known by its summary; its module, and with it torch, is imported when the command runs."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: object
    ) -> click.Context:
        with _no_search_for_garbage():
            module = import_module(f"coreset_backend.cli.{COMMANDS[str(self.name)][0]}")
        command: click.Command = getattr(module, str(self.name).replace("-", "_"))
        return command.make_context(info_name, args, parent, **extra)


@contextlib.contextmanager
def _no_search_for_garbage() -> Iterator[None]:
    """What torch makes when it is imported stays: to search it again and again takes a fifth of the time."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _lazy_commands() -> Mapping[str, click.Command]:
    return {name: LazyCommand(name, help=summary) for name, (_module, summary) in COMMANDS.items()}


@click.group(
    cls=Commands, commands=_lazy_commands(), context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__)
def main() -> None:
    """Core-Set active learning for Label Studio. Settings come from the environment."""
    # OpenMP reads this when torch is loaded. On a busy machine, threads that wait actively for each other
    # make a fit three times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    configure_logging(read_settings())
