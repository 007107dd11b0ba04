"""`coreset-backend finish`: labels by the model for the rest of the pool, with a bound on wrong ones."""

import json
from dataclasses import asdict

import click

from coreset_backend.backend import Backend, open_backend
from coreset_backend.cli.terminal import project_option, running_settings, say
from coreset_backend.finish.session import Kind, Rest
from coreset_backend.finish.work import Wish
from coreset_backend.jobs.finishing import (
    FinishStatus,
    accept_finish,
    counts_line,
    finish_status,
    look_at_finish,
    plan_acceptance,
    plan_finish,
    start_finish,
    undo_finish,
)


@click.command()
@project_option
@click.option("--accuracy", type=float, help="Share of the finished images with a right label; 0.95.")
@click.option("--confidence", type=float, default=0.95, show_default=True, help="Of that promise.")
@click.option("--audits", type=int, default=300, show_default=True, help="Most answers that people check.")
@click.option("--per-class", is_flag=True, help="Promise it of each class; each needs audits of its own.")
@click.option("--copies", is_flag=True, help="Of near-duplicates: they take the label of their original.")
@click.option("--dry-run", is_flag=True, help="Show what would be done; change nothing.")
@click.option("--accept", is_flag=True, help="Write the labels that have a bound by now.")
@click.option("--annotations", is_flag=True, help="With --accept or --copies: write annotations too.")
@click.option(
    "--rest",
    type=click.Choice([str(each) for each in Rest]),
    default=str(Rest.HARDEST_FIRST),
    show_default=True,
    help="With --accept: the order in which people get the images that are left.",
)
@click.option("--undo", is_flag=True, help="Remove all that the finish wrote, or end its audit.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, in the form of the API.")
def finish(
    project_id: int,
    accuracy: float | None,
    confidence: float,
    audits: int,
    per_class: bool,
    copies: bool,
    dry_run: bool,
    accept: bool,
    annotations: bool,
    rest: str,
    undo: bool,
    as_json: bool,
) -> None:
    """Label the rest of the pool by the model, with a bound on wrong labels.

    The first call begins an audit: answers of the model that people check, first in the queue. Later calls
    show what can be promised so far; --accept writes it, --undo removes it.

    With --copies, near-duplicates take the label of the image that people labelled, as soon as an audit of
    them shows that enough are right. --undo --copies removes these labels.
    """
    _require_fitting(accept, undo, copies=copies, per_class=per_class, annotations=annotations, rest=rest)
    backend, kind = open_backend(running_settings()), Kind.COPIES if copies else Kind.MODEL
    if undo:
        show = finish_status if dry_run else undo_finish
        found = show(backend, project_id, kind)
    elif accept and dry_run:
        found = plan_acceptance(backend, project_id)
    elif accept:
        found = accept_finish(backend, project_id, annotations=annotations, rest=Rest(rest))
    else:
        wish = Wish(kind, 0.95 if accuracy is None else accuracy, confidence, audits, per_class, annotations)
        found = _begin_or_look(backend, project_id, wish, dry_run)
    say(json.dumps(asdict(found), indent=2) if as_json else "\n".join(finish_lines(found)))


def _require_fitting(
    accept: bool, undo: bool, *, copies: bool, per_class: bool, annotations: bool, rest: str
) -> None:
    """Raises UsageError for options that exclude each other."""
    if accept and undo:
        raise click.UsageError("--accept and --undo exclude each other.")
    if copies and accept:
        raise click.UsageError(
            "--accept does not go with --copies: their labels are written as soon as the bound holds."
        )
    if copies and per_class:
        raise click.UsageError("--per-class does not go with --copies: one bound is on all copies together.")
    if annotations and not (accept or (copies and not undo)):
        raise click.UsageError("--annotations belongs to --accept or --copies.")
    if rest != Rest.HARDEST_FIRST and not accept:
        raise click.UsageError("--rest belongs to --accept.")


def _begin_or_look(backend: Backend, project_id: int, wish: Wish, dry_run: bool) -> FinishStatus:
    if finish_status(backend, project_id, wish.kind).state is not None:
        return look_at_finish(backend, project_id, wish.kind)
    return (plan_finish if dry_run else start_finish)(backend, project_id, wish)


def finish_lines(found: FinishStatus) -> list[str]:
    """The status of a finish as lines for a terminal."""
    lines = [f"Project {found.project}: {found.state or 'nothing is written'}", f"  {found.sentence}"]
    if not found.groups:
        return lines
    if found.to_write and found.kind is Kind.MODEL:
        lines.append(f"  --accept writes the model's label on {found.to_write:,} images.")
    return [*lines, f"  {counts_line(found.labels)}"]
