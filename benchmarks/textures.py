"""Ten kinds of surface, drawn: only the pattern tells them apart, at any scale, angle, colour and light."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

SIDE = 96
Field = NDArray[np.float64]
Random = np.random.Generator


def texture(kind: str, rng: Random) -> NDArray[np.uint8]:
    """uint8[96, 96, 3]: the pattern between two random colours, unevenly lit, with grain."""
    field = TEXTURES[kind](*_turned(rng), rng)
    field = (field - field.mean()) / max(field.std(), 1e-6)
    share = 1 / (1 + np.exp(-rng.uniform(1.0, 2.5) * field))[..., None]
    dark, bright = _two_colours(rng)
    slope = rng.uniform(-0.3, 0.3, 2) @ (np.indices((SIDE, SIDE)).reshape(2, -1) / SIDE - 0.5)
    lit = (dark + (bright - dark) * share) * (1 + slope.reshape(SIDE, SIDE, 1))
    grain = rng.uniform(4, 16) * rng.standard_normal(lit.shape)
    return np.clip(np.rint(lit + grain), 0, 255).astype(np.uint8)


def _two_colours(rng: Random) -> tuple[Field, Field]:
    base = rng.uniform(50, 190, 3)
    return base, base + rng.choice((-1, 1)) * rng.uniform(25, 70) + rng.uniform(-12, 12, 3)


def _turned(rng: Random) -> tuple[Field, Field]:
    """Coordinates in periods of the pattern, at a random angle, scale and place."""
    y, x = np.indices((SIDE, SIDE)) / rng.uniform(9, 22)
    angle = rng.uniform(0, 2 * np.pi)
    turned = (np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y)
    return turned[0] + rng.uniform(0, 50), turned[1] + rng.uniform(0, 50)


def _noise(x: Field, y: Field, rng: Random) -> Field:
    """Smooth random values, about one bump a unit."""
    grid = rng.standard_normal((64, 64))
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    right, down = (np.square(part) * (3 - 2 * part) for part in (x - column, y - row))
    corner = [grid[(row + i) % 64, (column + j) % 64] for i in (0, 1) for j in (0, 1)]
    upper = corner[0] * (1 - right) + corner[1] * right
    return upper * (1 - down) + (corner[2] * (1 - right) + corner[3] * right) * down


def _stripes(x: Field, y: Field, rng: Random) -> Field:
    return np.sin(2 * np.pi * (x + 0.15 * _noise(x / 3, y / 3, rng)))


def _checks(x: Field, y: Field, rng: Random) -> Field:
    return np.sign(np.sin(np.pi * x)) * np.sign(np.sin(np.pi * y))


def _dots(x: Field, y: Field, rng: Random) -> Field:
    return np.hypot(x % 1 - 0.5, y % 1 - 0.5) - rng.uniform(0.2, 0.35)


def _weave(x: Field, y: Field, rng: Random) -> Field:
    over = (np.floor(x) + np.floor(y)) % 2 == 0
    return np.where(over, np.sin(np.pi * (x % 1)), np.sin(np.pi * (y % 1)))


def _bricks(x: Field, y: Field, rng: Random) -> Field:
    shifted = x / 2 + 0.5 * (np.floor(y) % 2)
    return np.minimum(np.minimum(shifted % 1, 1 - shifted % 1) * 2, np.minimum(y % 1, 1 - y % 1)) > 0.1


def _cells(x: Field, y: Field, rng: Random) -> Field:
    """The distance to the border between two seeds of growth, as in foam or cracked paint."""
    near = _seed_distances(x, y, rng)
    return np.minimum(near[1] - near[0], 0.3)


def _pebbles(x: Field, y: Field, rng: Random) -> Field:
    return -_seed_distances(x, y, rng)[0]


def _seed_distances(x: Field, y: Field, rng: Random) -> Field:
    """The distances to the two nearest of seeds, one in each square: float64[2, side, side]."""
    places = rng.uniform(0, 1, (64, 64, 2))
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    found = []
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            seed = places[(row + i) % 64, (column + j) % 64]
            found.append(np.hypot(column + j + seed[..., 0] - x, row + i + seed[..., 1] - y))
    return np.sort(found, axis=0)[:2]


def _wood(x: Field, y: Field, rng: Random) -> Field:
    return np.sin(2 * np.pi * (x + 1.5 * _noise(x / 2, y / 8, rng)))


def _clouds(x: Field, y: Field, rng: Random) -> Field:
    return sum((_noise(x * 2**k, y * 2**k, rng) / 2**k for k in range(4)), np.zeros_like(x))


def _scratches(x: Field, y: Field, rng: Random) -> Field:
    """Thin bright lines at all angles."""
    field = np.zeros_like(x)
    for angle, place in zip(rng.uniform(0, np.pi, 14), rng.uniform(-0.5, 0.5, 14), strict=True):
        across = np.cos(angle) * (x - x.mean()) + np.sin(angle) * (y - y.mean())
        field += np.exp(-np.square((across - place * np.ptp(x)) / 0.08))
    return field


TEXTURES: dict[str, Callable[[Field, Field, Random], Field]] = {
    "bricks": _bricks,
    "cells": _cells,
    "checks": _checks,
    "clouds": _clouds,
    "dots": _dots,
    "pebbles": _pebbles,
    "scratches": _scratches,
    "stripes": _stripes,
    "weave": _weave,
    "wood": _wood,
}
