"""The command line: run · serve · work · connect · doctor · start."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from coreset_backend import __version__
from coreset_backend.backend import Backend, open_backend
from coreset_backend.errors import CoresetError
from coreset_backend.settings import read_settings


class Commands(click.Group):
    """A group whose commands end in a message and exit status 2 on anything we raise on purpose."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except CoresetError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(2)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Core-Set active learning beside Label Studio. Settings come from the environment."""
    logging.basicConfig(
        level=os.environ.get("LOG_LEVEL", "INFO"), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)


@main.command()
@click.option("--label-studio-command", help="The label-studio executable for the demo.")
def run(label_studio_command: str | None) -> None:
    """Everything on this machine: Redis, worker, web, and a Label Studio with a demo unless one is named."""
    from coreset_backend import local

    local.run(read_settings(), Path.cwd(), click.echo, label_studio_command)


@main.command()
def serve() -> None:
    """The web process, by gunicorn."""
    from coreset_backend.local import gunicorn_command

    command = gunicorn_command(read_settings())
    os.execv(command[0], command)


@main.command()
def work() -> None:
    """A worker: runs rounds one at a time, and polls for what webhooks missed."""
    from coreset_backend import jobs

    jobs.work(open_backend(read_settings(), patient=True))


project_option = click.option(
    "--project", "project_id", type=click.IntRange(1), required=True, help="Its number."
)


@main.command()
@project_option
def connect(project_id: int) -> None:
    """Connect a Label Studio project: backend, webhook secret, sampling and tab; then its first round."""
    from coreset_backend.connect import connect as steps
    from coreset_backend.jobs import request_round

    backend = open_backend(read_settings())
    for done in steps(
        backend.label_studio,
        project_id,
        url=backend.settings.url,
        secret=backend.webhook_secret,
        basic_auth=backend.basic_auth,
    ):
        click.echo(done)
    backend.store.register(project_id)
    request_round(backend, project_id, "connected")
    click.echo("The first batch is being chosen; then press 'Label All Tasks' in Label Studio.")


@main.command()
@project_option
def start(project_id: int) -> None:
    """Start a round now, due or not."""
    from coreset_backend.jobs import request_round

    backend = open_backend(read_settings())
    backend.store.register(project_id)
    queued = request_round(backend, project_id, "started by hand", force=True)
    click.echo("A round is queued." if queued else "A round is waiting already.")


@main.command()
@click.option("--project", "project_id", type=click.IntRange(1), help="Check this project's connection too.")
def doctor(project_id: int | None) -> None:
    """Check settings, Redis, worker, Label Studio and a project; says the fix for each problem."""
    backend = open_backend(read_settings())
    checks: list[tuple[str, Callable[[], list[str]]]] = [
        ("Store", lambda: _store_problems(backend)),
        ("Redis and worker", lambda: _worker_problems(backend)),
        ("Label Studio", lambda: _label_studio_problems(backend)),
    ]
    if project_id:
        checks.append((f"Project {project_id}", lambda: _project_problems(backend, project_id)))
    failed = sum(_report_check(name, check) for name, check in checks)
    sys.exit(1 if failed else 0)


def _report_check(name: str, check: Callable[[], list[str]]) -> bool:
    """Print the outcome of one check; whether it found a problem."""
    try:
        found = check()
    except CoresetError as error:
        found = [str(error)]
    click.echo(f"{'PROBLEM' if found else 'ok     '}  {name}")
    for problem in found:
        click.echo(f"         {problem}")
    return bool(found)


def _store_problems(backend: Backend) -> list[str]:
    folder = backend.settings.model_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        backend.store.webhook_secret()
    except OSError as error:
        return [
            f"{folder} cannot be written ({error.strerror}). Run: chown -R {os.getuid()} {folder.absolute()}"
        ]
    return []


def _label_studio_problems(backend: Backend) -> list[str]:
    backend.label_studio.whoami()
    return []


def _worker_problems(backend: Backend) -> list[str]:
    from coreset_backend.jobs import workers_alive

    return [] if workers_alive(backend) else ["No worker listens. Start one with `coreset-backend work`."]


def _project_problems(backend: Backend, project_id: int) -> list[str]:
    from coreset_backend.connect import problems

    return list(problems(backend.label_studio, project_id, url=backend.settings.url))
