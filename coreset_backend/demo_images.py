"""Images to try the backend on, drawn on the spot: four kinds of object in changing colours and places."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

CLASSES = ("disc", "ring", "square", "cross")


def make_images(folder: Path, n: int, seed: int = 0, size: int = 160) -> list[tuple[str, str]]:
    """Draw ``n`` JPEGs into ``folder``; returns (file name, class) in order. Same seed, same images.

    An image that is there already is left alone. Every third class is rarer, every ninth image is a
    near copy of the one before it: what a pool looks like that somebody filmed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    previous: tuple[Image.Image, str] | None = None
    for number in range(n):
        rng = np.random.default_rng([seed, number])
        if previous and number % 9 == 8:
            picture, kind = previous[0].filter(ImageFilter.GaussianBlur(0.7)), previous[1]
        else:
            kind = str(rng.choice(CLASSES, p=[0.4, 0.3, 0.2, 0.1]))
            picture = _picture(kind, size, rng)
        previous = (picture, kind)
        name = f"{number:05d}.jpg"
        if not (folder / name).exists():
            picture.save(folder / name, quality=90)
        made.append((name, kind))
    return made


def _picture(kind: str, size: int, rng: np.random.Generator) -> Image.Image:
    picture = _background(size, rng)
    draw = ImageDraw.Draw(picture)
    radius = int(rng.uniform(0.15, 0.3) * size)
    x, y = (int(value) for value in rng.uniform(radius, size - radius, 2))
    colour = tuple(int(value) for value in rng.integers(0, 256, 3))
    box, width = (x - radius, y - radius, x + radius, y + radius), max(2, radius // 3)
    if kind == "disc":
        draw.ellipse(box, fill=colour)
    elif kind == "ring":
        draw.ellipse(box, outline=colour, width=width)
    elif kind == "square":
        draw.rectangle(box, fill=colour)
    else:
        draw.rectangle((x - radius, y - width // 2, x + radius, y + width // 2), fill=colour)
        draw.rectangle((x - width // 2, y - radius, x + width // 2, y + radius), fill=colour)
    return picture


def _background(size: int, rng: np.random.Generator) -> Image.Image:
    """Soft clouds in two colours with grain."""
    clouds = Image.fromarray(rng.integers(0, 256, (4, 4), dtype=np.uint8)).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    share = np.asarray(clouds, dtype=np.float64)[:, :, None] / 255
    first, second = rng.integers(0, 256, (2, 3))
    pixels = share * first + (1 - share) * second + rng.normal(0, 8, (size, size, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
