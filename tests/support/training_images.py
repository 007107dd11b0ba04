"""Images that are quickly learned, and short trainings on them."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from safetensors.numpy import load_file

from coreset_backend import model

SMALL = model.choose_backbone("small_cnn", None)
SHORT_PRETRAINING = model.PretrainingRecipe(epochs=4, least_images=64, batch=32)


def shapes(n: int, seed: int = 0, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Dark squares and bright stripes on noise: uint8[n, size, size, 3], one-hot float32[n, 2]."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(60, 190, (n, size, size, 3), dtype=np.uint8)
    kinds = rng.permutation(np.arange(n) % 2)
    for row, kind in enumerate(kinds):
        y, x = rng.integers(0, size - 12, 2)
        if kind:
            pixels[row, y : y + 12, x : x + 12] = 10
        else:
            pixels[row, :, x : x + 12 : 3] = 240
    return pixels, np.eye(2, dtype=np.float32)[kinds]


def trained(pixels: np.ndarray, targets: np.ndarray, seed: int, recipe: model.Recipe) -> model.Classifier:
    """Fitted on all of them."""
    nobody = np.zeros(len(pixels), bool)
    return model.fit(
        SMALL, pixels, targets, multiple=False, holdout=nobody, seed=seed, device="cpu", recipe=recipe
    )[0]


def textures(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Four textures at a random place, angle of light and contrast: uint8[n, 32, 32, 3], kinds int64[n]."""
    rng = np.random.default_rng(seed)
    kinds = rng.permutation(np.arange(n) % 4)
    y, x = np.mgrid[:32, :32]
    pixels = np.empty((n, 32, 32, 3))
    for row, kind in enumerate(kinds):
        shift, period = rng.uniform(0, 32, 2), rng.uniform(5, 9)
        wave = ((x, y, x + y, np.hypot(x - 16, y - 16))[kind] + shift[0]) / period
        pixels[row] = 128 + rng.uniform(25, 90) * np.sin(2 * np.pi * wave)[..., None]
        pixels[row] += rng.normal(0, 35, 3) + rng.normal(0, 25, (32, 32, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8), kinds


def keys(n: int, first: int = 0) -> np.ndarray:
    """A key for each image, uint8[n, 32]: equal numbers, equal keys."""
    return np.stack([np.random.default_rng(first + row).integers(0, 256, 32, np.uint8) for row in range(n)])


def features(folder: Path) -> dict[str, np.ndarray]:
    loaded: dict[str, np.ndarray] = load_file(folder / "features.safetensors")
    return loaded


def begin(folder: Path, pixels: np.ndarray, **given: Any) -> model.PretrainingState:
    known: dict[str, Any] = {"keys": keys(len(pixels)), "seed": 3, "device": "cpu"}
    return model.pretrain(pixels, folder=folder, **{**known, "recipe": SHORT_PRETRAINING, **given})


def drawn_digits(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ten digits, grey on black, moved, turned and noisy: uint8[n, 32, 32, 3], kinds int64[n]."""
    rng = np.random.default_rng(seed)
    kinds = rng.permutation(np.arange(n) % 10)
    pixels = np.empty((n, 32, 32, 3), np.uint8)
    font = ImageFont.load_default(size=20)
    for row, kind in enumerate(kinds):
        drawn = Image.new("L", (32, 32))
        place = int(rng.integers(6, 14)), int(rng.integers(0, 8))
        ImageDraw.Draw(drawn).text(place, str(kind), fill=int(rng.integers(150, 255)), font=font)
        turned = np.asarray(drawn.rotate(rng.uniform(-20, 20)), np.float64)
        pixels[row] = np.clip(turned + rng.normal(0, 20, (32, 32)), 0, 255)[..., None]
    return pixels, kinds


def patches_of_colour(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three hues that fill the image, lighter and darker: uint8[n, 32, 32, 3], kinds int64[n]."""
    rng = np.random.default_rng(seed)
    kinds = rng.permutation(np.arange(n) % 3)
    hues = np.eye(3)[kinds][:, None, None] * rng.uniform(40, 90, (n, 1, 1, 1))
    pixels = rng.uniform(60, 140, (n, 1, 1, 1)) + hues + rng.normal(0, 25, (n, 32, 32, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8), kinds
