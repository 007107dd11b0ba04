"""Generates the demo's images: fruit under a camera above a sorting belt.

They have what makes active learning worthwhile: common and rare classes, changing light and colours, and
several frames of the same fruit, because the camera films.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

DEMO_FOLDER = "demo"
CLASSES = ("apple", "orange", "lemon", "pear", "banana", "cherry", "strawberry", "mushroom")
# Number of fruits of each class among fifty in a row.
PER_FIFTY = (14, 11, 8, 6, 4, 3, 2, 2)
# Of nine images in a row, the last four show one fruit.
IN_A_ROW, FILMED = 9, 4
BELTS = ("#6d7178", "#3f5a4a", "#7a6248", "#4a5f7a", "#8b8578")
BROKEN = {
    "torn.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF no more came",
    "login.jpg": b"<!doctype html><title>Log in to the camera</title>",
    "empty.jpg": b"",
}
"""File name -> content of broken files as real folders have them."""

Draw = ImageDraw.ImageDraw
Random = np.random.Generator


def make_images(folder: Path, n: int, seed: int = 0, size: int = 160) -> list[tuple[str, str]]:
    """Draw ``n`` JPEGs into ``folder``; returns (file name, class) in order. Same seed, same images.

    An image that is there already is left alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(n):
        frame = max(0, number % IN_A_ROW - (IN_A_ROW - FILMED))
        fruit = number // IN_A_ROW * (IN_A_ROW - FILMED + 1) + number % IN_A_ROW - frame
        kind, path = kind_of(fruit, seed), folder / f"{number:05d}.jpg"
        if not path.exists():
            picture = _filmed(_scene(kind, size, np.random.default_rng([seed, fruit])), frame)
            picture.save(path, quality=90)
        made.append((path.name, kind))
    return made


def make_even_images(folder: Path, each: int, seed: int = 1, size: int = 160) -> list[tuple[str, str]]:
    """Draw ``each`` JPEGs of each class into ``folder``, no two of one fruit; (file name, class) alike."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for code, kind in enumerate(CLASSES):
        for number in range(each):
            path = folder / f"{kind}-{number:03d}.jpg"
            if not path.exists():
                _scene(kind, size, np.random.default_rng([seed, code, number])).save(path, quality=90)
            made.append((path.name, kind))
    return made


def add_broken_files(folder: Path) -> None:
    """Add files to the folder that are named like images but are not images."""
    for name, content in BROKEN.items():
        (folder / name).write_bytes(content)


def kind_of(fruit: int, seed: int) -> str:
    """The class of the fruit of that number: PER_FIFTY of each in every fifty, in an order of the seed's."""
    fifty = np.repeat(CLASSES, PER_FIFTY)
    return str(np.random.default_rng([seed, 1, fruit // 50]).permutation(fifty)[fruit % 50])


def _filmed(scene: Image.Image, frame: int) -> Image.Image:
    """The scene some frames later: the belt stood still, and the light has flickered."""
    return ImageEnhance.Brightness(scene).enhance(1 + 0.015 * frame) if frame else scene


def _scene(kind: str, size: int, rng: Random) -> Image.Image:
    """The fruit at some place, size and angle, with its shadow, in the light of the hour."""
    picture = _belt(size, rng)
    side = int(rng.uniform(0.4, 0.75) * size)
    fruit = Image.new("RGBA", (200, 200))
    FRUITS[kind](ImageDraw.Draw(fruit), rng)
    fruit = fruit.rotate(rng.uniform(0, 360), Image.Resampling.BILINEAR).resize(
        (side, side), Image.Resampling.LANCZOS
    )
    x, y = (int(value) for value in rng.uniform(-0.05 * size, 1.05 * size - side, 2))
    shadow = fruit.getchannel("A").point(lambda alpha: alpha // 2).filter(ImageFilter.GaussianBlur(size / 50))
    picture.paste("black", (x + size // 40, y + size // 30), shadow)
    picture.paste(fruit, (x, y), fruit)
    return _in_light(picture, rng)


def _belt(size: int, rng: Random) -> Image.Image:
    picture = Image.new("RGB", (size, size), BELTS[rng.integers(len(BELTS))])
    draw = ImageDraw.Draw(picture, "RGBA")
    step, start = int(rng.integers(size // 8, size // 3)), int(rng.integers(size))
    for x in range(start % step, size, step):
        draw.line((x, 0, x, size), fill="#00000040", width=max(1, size // 80))
    for _ in range(rng.integers(0, 4)):  # crumbs and leaves
        x, y, r = *rng.uniform(0, size, 2), rng.uniform(0.01, 0.04) * size
        draw.ellipse((x, y, x + 2 * r, y + r), fill=_near("#6b4a2b", rng))
    return picture


def _in_light(picture: Image.Image, rng: Random) -> Image.Image:
    """Warm or cold, bright or dim, from one side, with grain."""
    pixels = np.asarray(picture, dtype=np.float32)
    side = pixels.shape[0]
    slope = rng.uniform(-0.25, 0.25, 2) @ (np.indices((side, side)).reshape(2, -1) / side - 0.5)
    light = rng.uniform(0.6, 1.15) * (1 + slope.reshape(side, side, 1)) * rng.uniform(0.9, 1.1, 3)
    grain = 5 * rng.standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray((pixels * light.astype(np.float32) + grain).clip(0, 255).astype(np.uint8))


# ---------------------------------------------------------------- fruit, each on 200 x 200


def _near(colour: str, rng: Random, spread: int = 18) -> tuple[int, ...]:
    """A colour like it."""
    base = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return tuple(int(value) for value in np.clip(base + rng.integers(-spread, spread + 1, 3), 0, 255))


def _one_of(rng: Random, *colours: str) -> tuple[int, ...]:
    return _near(colours[rng.integers(len(colours))], rng)


def _shine(draw: Draw, x: float, y: float, r: float) -> None:
    draw.ellipse((x - r, y - r, x + r, y + r), fill="#ffffff")


def _apple(draw: Draw, rng: Random) -> None:
    skin = _one_of(rng, "#c8202b", "#8fb52e", "#e0b63a", "#a01c35")
    draw.ellipse((22, 48, 122, 172), fill=skin)
    draw.ellipse((78, 48, 178, 172), fill=skin)
    draw.line((100, 62, 108, 26), fill="#5a3b1e", width=7)
    draw.ellipse((108, 22, 146, 42), fill="#3f8f3a")
    _shine(draw, 62, 82, 9)


def _orange(draw: Draw, rng: Random) -> None:
    skin = _one_of(rng, "#f08a1c", "#e8a02a", "#d9701a")
    draw.ellipse((28, 28, 172, 172), fill=skin)
    for x, y in rng.uniform(60, 140, (14, 2)):
        draw.ellipse((x, y, x + 5, y + 5), fill=_near("#b8651a", rng))
    draw.regular_polygon((100, 44, 10), 5, fill="#3f7f32")
    _shine(draw, 72, 72, 9)


def _lemon(draw: Draw, rng: Random) -> None:
    skin = _one_of(rng, "#f2d62b", "#e6e04a", "#8db63c")
    draw.polygon([(8, 100), (50, 66), (150, 66), (192, 100), (150, 134), (50, 134)], fill=skin)
    draw.ellipse((28, 46, 172, 154), fill=skin)
    _shine(draw, 76, 78, 8)


def _pear(draw: Draw, rng: Random) -> None:
    skin = _one_of(rng, "#b9c43a", "#d6c04a", "#a9803a")
    draw.ellipse((34, 74, 166, 192), fill=skin)
    draw.ellipse((64, 24, 136, 116), fill=skin)
    draw.polygon([(66, 64), (134, 64), (158, 110), (42, 110)], fill=skin)
    draw.line((100, 30, 94, 6), fill="#5a3b1e", width=7)
    _shine(draw, 68, 120, 9)


def _banana(draw: Draw, rng: Random) -> None:
    skin = _one_of(rng, "#f3d33a", "#e0bd2e", "#a9b83a")
    draw.arc((14, -70, 186, 160), 15, 165, fill=skin, width=44)
    for x in (22, 164):
        draw.rectangle((x, 66, x + 14, 86), fill="#4d3b1f")
    draw.arc((32, -60, 168, 138), 40, 140, fill=_near("#b58f22", rng), width=4)


def _cherry(draw: Draw, rng: Random) -> None:
    skin = _one_of(rng, "#8f1028", "#c21f2f", "#5a0d22")
    for x, y in ((34, 104), (108, 118)):
        draw.line((x + 30, y + 10, 112, 16), fill="#4f7a2c", width=6)
        draw.ellipse((x, y, x + 64, y + 64), fill=skin)
        _shine(draw, x + 22, y + 20, 6)
    draw.ellipse((108, 8, 152, 30), fill="#3f8f3a")


def _strawberry(draw: Draw, rng: Random) -> None:
    skin = _one_of(rng, "#d3222f", "#e8483f", "#b3202c")
    draw.polygon([(30, 74), (170, 74), (112, 186), (88, 186)], fill=skin)
    draw.ellipse((28, 40, 112, 116), fill=skin)
    draw.ellipse((88, 40, 172, 116), fill=skin)
    for x, y in rng.uniform((55, 70), (145, 140), (16, 2)):
        draw.ellipse((x, y, x + 4, y + 7), fill="#f4dc8a")
    for x in (60, 84, 108, 132):
        draw.polygon([(x - 16, 40), (x + 16, 40), (x, 74)], fill="#3c8a35")


def _mushroom(draw: Draw, rng: Random) -> None:
    cap = _one_of(rng, "#c9a27a", "#8d5f3c", "#e6dccb")
    draw.rounded_rectangle((78, 92, 122, 186), 18, fill="#efe6d4")
    draw.pieslice((24, 26, 176, 176), 180, 360, fill=cap)
    draw.rounded_rectangle((24, 92, 176, 112), 10, fill=cap)
    _shine(draw, 76, 66, 8)


FRUITS: dict[str, Callable[[Draw, Random], None]] = dict(
    zip(CLASSES, (_apple, _orange, _lemon, _pear, _banana, _cherry, _strawberry, _mushroom), strict=True)
)
