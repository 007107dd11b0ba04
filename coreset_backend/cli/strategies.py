"""`coreset-backend strategies`: what each strategy selects and when to use it."""

import textwrap

import click

from coreset_backend.selection import NEED_PROBABILITIES
from coreset_backend.selection.descriptions import DESCRIPTIONS
from coreset_backend.settings import read_settings


@click.command()
def strategies() -> None:
    """List the strategies, what each selects and when to use it."""
    chosen = read_settings().strategy
    for name, description in DESCRIPTIONS.items():
        mark = " (set now)" if name == chosen else ""
        click.echo(f"{name}{mark}")
        asks = ["Asks the model, so the first batch is selected by max_herding."] * (
            name in NEED_PROBABILITIES
        )
        for line in (description.selects, description.use, *asks):
            click.echo(textwrap.fill(line, 96, initial_indent="  ", subsequent_indent="  "))
    click.echo("\nSet CORESET_STRATEGY to a name, or to a function of your own as package.module:function.")
    if chosen not in DESCRIPTIONS:
        click.echo(f"It is {chosen} now.")
