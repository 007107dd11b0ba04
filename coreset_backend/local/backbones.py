"""The backbones as they are on this machine: at hand or not, their licences, and how long a pool takes."""

from collections.abc import Iterator
from dataclasses import dataclass

from coreset_backend import model
from coreset_backend.backend import open_store
from coreset_backend.errors import ConfigError, CoresetError
from coreset_backend.settings import Settings

MOST_FOUND = 40
"""Names that a search lists."""


@dataclass(frozen=True, slots=True)
class BackboneOnThisMachine:
    """A backbone. ``pixels``: the side of its images; ``megabytes`` of its weights in 32 bits.

    ``images_per_second`` is ``measured`` where the weights are at hand, else estimated by the arithmetic of
    the network; ``seconds`` are those that the pool takes, both None where only its name was looked up.
    ``problem``: why it cannot be used, "" where it can.
    """

    name: str
    at_hand: bool
    licence: str
    permissive: bool
    pixels: int | None = None
    megabytes: float | None = None
    images_per_second: float | None = None
    measured: bool = False
    seconds: float | None = None
    problem: str = ""


def known_backbones(settings: Settings, images: int) -> Iterator[BackboneOnThisMachine]:
    """Those of the catalogue, and the one that is set, with the time that so many images take."""
    names = [*model.CATALOG, *([settings.backbone] if settings.backbone != "auto" else [])]
    rate = model.speed_of_candidate(model.LITE0, settings.image_size, settings.device)
    flops_per_second = rate * model.cost_of_candidate(model.LITE0, settings.image_size).flops
    for name in dict.fromkeys(names):
        try:
            yield _looked_at(settings, name, images, flops_per_second, rate)
        except CoresetError as error:
            yield BackboneOnThisMachine(name, False, "", False, problem=str(error))


def _looked_at(
    settings: Settings, name: str, images: int, flops_per_second: float, rate: float
) -> BackboneOnThisMachine:
    at_hand, cost = model.is_at_hand(name), model.cost_of_candidate(name, settings.image_size)
    if name != model.LITE0:
        rate = (
            model.speed_of_candidate(name, settings.image_size, settings.device)
            if at_hand
            else flops_per_second / cost.flops
        )
    licence = model.backbone_named(name).licence
    return BackboneOnThisMachine(
        name=name,
        at_hand=at_hand,
        licence=model.spelled(licence) or "unknown",
        permissive=model.is_permissive(licence),
        pixels=cost.pixels,
        megabytes=round(cost.megabytes, 1),
        images_per_second=round(rate, 2),
        measured=at_hand,
        seconds=round(images / rate, 1),
    )


def found_backbones(text: str) -> list[BackboneOnThisMachine]:
    """Names of timm and torchvision that hold the text, at most 40, by what their configuration says."""
    found = []
    for name in model.names_with(text)[:MOST_FOUND]:
        licence, pixels = model.looked_up(name)
        found.append(
            BackboneOnThisMachine(
                name=name,
                at_hand=model.is_at_hand(name),
                licence=model.spelled(licence) or "unknown",
                permissive=model.is_permissive(licence),
                pixels=pixels,
            )
        )
    return found


def pool_of(settings: Settings, project_id: int) -> int:
    """The number of tasks of the project at its newest round; raises ConfigError before the first."""
    if (newest := open_store(settings).latest(project_id)) is None:
        raise ConfigError(f"Project {project_id} has no round yet. Give the size of its pool by --images.")
    return sum(newest.record.counts.values())


def choice_of_auto(settings: Settings, images: int, project_id: int | None) -> tuple[str, str]:
    """The backbone that 'auto' takes for a pool of so many images, and why; a project keeps its own."""
    if project_id and (kept := open_store(settings).backbone_choice(project_id)):
        return kept.name, f"chosen for the project: {kept.why}"
    if why := model.why_not_stronger(download=settings.download == "auto"):
        return model.LITE0, why
    rate = model.speed_of_candidate(model.STRONGER, settings.image_size, settings.device)
    if why := model.why_too_slow(images, rate):
        return model.LITE0, why
    return model.STRONGER, f"it embeds {images:,} images in about {max(images / rate, 1):.0f} s here"
