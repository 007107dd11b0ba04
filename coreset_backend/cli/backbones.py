"""`coreset-backend backbones`: what there is to embed images with, and what each costs on this machine."""

import json
from collections.abc import Sequence
from dataclasses import asdict

import click

from coreset_backend.cli.terminal import running_settings, say
from coreset_backend.jobs.progress import span
from coreset_backend.local.backbones import (
    BackboneOnThisMachine,
    choice_of_auto,
    found_backbones,
    known_backbones,
    pool_of,
)

DEFAULT_IMAGES = 10_000
HEADINGS = ("backbone", "weights", "MB", "pixels", "licence", "images/s", "this pool")


@click.command()
@click.option("--project", "project_id", type=click.IntRange(1), help="Project whose pool is embedded.")
@click.option("--images", type=click.IntRange(1), help="Size of the pool; default: the project's, or 10,000.")
@click.option("--search", metavar="TEXT", help="List the names of timm and torchvision that contain TEXT.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def backbones(project_id: int | None, images: int | None, search: str | None, as_json: bool) -> None:
    """List backbones with licence, size and speed on this machine, and which of them `auto` takes.

    Speeds are measured here where the weights are on this machine; `~` marks an estimate.
    """
    if search is not None:
        found = found_backbones(search)
        say(json.dumps([asdict(each) for each in found], indent=2) if as_json else _listed(found, search))
        return
    settings = running_settings()
    pool = images or (pool_of(settings, project_id) if project_id else DEFAULT_IMAGES)
    known = list(known_backbones(settings, pool))
    name, why = choice_of_auto(settings, pool, project_id)
    if as_json:
        lines = [asdict(each) for each in known]
        say(json.dumps({"images": pool, "auto": {"name": name, "why": why}, "backbones": lines}, indent=2))
        return
    say(_table(known))
    say(f"\n{pool:,} images. auto takes {name}: {why}.")
    if settings.backbone != "auto":
        say(f"CORESET_BACKBONE={settings.backbone} is used instead.")


def _listed(found: Sequence[BackboneOnThisMachine], text: str) -> str:
    return _table(found) if found else f"No name of timm or torchvision contains {text!r}."


def _table(lines: Sequence[BackboneOnThisMachine]) -> str:
    rows = [HEADINGS, *(_cells(each) for each in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    problems = [f"{each.name}: {each.problem}" for each in lines if each.problem]
    return "\n".join([*(text.rstrip() for text in texts), *problems])


def _cells(line: BackboneOnThisMachine) -> tuple[str, ...]:
    about = "" if line.measured else "~"
    rate, seconds = line.images_per_second, line.seconds
    return (
        line.name,
        "on this machine" if line.at_hand else "unusable" if line.problem else "to download",
        "" if line.megabytes is None else f"{line.megabytes:,.0f}",
        "" if line.pixels is None else f"{line.pixels}",
        line.licence + ("" if line.permissive or not line.licence else " (restricted)"),
        "" if rate is None else f"{about}{rate:,.1f}" if rate >= 1 else f"{about}{rate:.2f}",
        "" if seconds is None else about + span(seconds),
    )
