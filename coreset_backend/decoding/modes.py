"""Converts pictures of any Pillow mode to RGB, or to F if their values have more than 8 bits. In F, a value
that was not measured is NaN, until ``without_holes``."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LARGEST = 1e30
"""No measurement: the lowest float and the fill values of NetCDF lie beyond it."""
COMMON_NO_DATA = (-9999.0, -32768.0)
"""What many programs write where nothing was measured, also into files that do not say so."""


def converted(image: Image.Image, no_data: float | None = None) -> Image.Image:
    """``image`` in mode RGB, or F if its values have more than 8 bits.

    Transparency is laid over white, as Label Studio shows it. ``no_data``: the value in place of those that
    were not measured.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if has_values(image):
        return Image.fromarray(_measured(np.asarray(image, dtype=np.float32), no_data))
    if image.has_transparency_data:
        over_white = Image.new("RGBA", image.size, "white")
        over_white.alpha_composite(image.convert("RGBA"))
        return over_white.convert("RGB")
    return image.convert("RGB")


def has_values(image: Image.Image) -> bool:
    """Whether the picture has one value of more than 8 bits for each pixel."""
    return image.mode.startswith("I;16") or image.mode in ("I", "F")


def _measured(values: NDArray[np.float32], no_data: float | None) -> NDArray[np.float32]:
    holes = ~(np.abs(values) < LARGEST)  # NaN too
    if no_data is not None and abs(no_data) < LARGEST:
        holes |= values == np.float32(no_data)
    return np.where(holes, np.float32(np.nan), values) if holes.any() else values


def reduced(image: Image.Image, factor: int | tuple[int, int]) -> Image.Image:
    """A picture of mode RGB or F, reduced by whole factors: means of the values that were measured."""
    values = np.asarray(image) if image.mode == "F" else None
    if values is None or not (holes := np.isnan(values)).any():
        return image.reduce(factor)
    total = np.asarray(Image.fromarray(np.where(holes, np.float32(0), values)).reduce(factor))
    share = np.asarray(Image.fromarray(np.float32(1) - holes).reduce(factor))
    with np.errstate(invalid="ignore"):  # 0 / 0 where nothing was measured
        return Image.fromarray(total / share)


def without_holes(image: Image.Image, percentile: float) -> Image.Image:
    """``image``; in mode F, what was not measured is as low as that percentile of the other values."""
    values = np.asarray(image) if image.mode == "F" else None
    if values is None or not (holes := np.isnan(values)).any():
        return image
    low = 0.0 if holes.all() else np.percentile(values[~holes], percentile)
    return Image.fromarray(np.where(holes, np.float32(low), values))


def common_no_data(image: Image.Image, rows: int) -> float | None:
    """A usual value for what was not measured, if the picture has it and all others are far above it. So many
    ``rows`` are looked at in one step."""
    if image.mode not in ("I", "F"):
        return None
    present: set[float] = set()
    low, high = np.inf, -np.inf
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        values = np.asarray(strip, dtype=np.float32)
        is_common = np.isin(values, COMMON_NO_DATA)
        present.update(values[is_common].tolist())
        others = values[~is_common & (np.abs(values) < LARGEST)]
        low, high = min(low, others.min(initial=np.inf)), max(high, others.max(initial=-np.inf))
    lowest = min(present, default=None)
    return lowest if lowest is not None and low - lowest > (high - low) / 2 else None
