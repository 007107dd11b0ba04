"""Thumbnails for pages: a small JPEG of a cached image; nothing is fetched."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coreset_backend.images.cache import read_pixels


def cached_thumbnail(folder: Path, key: str, side: int) -> bytes | None:
    """JPEG bytes of the image under ``key``, at most ``side`` pixels a side; None if it is not cached."""
    pixels = read_pixels(folder, key)
    return None if pixels is None else _jpeg(pixels, side)


def _jpeg(pixels: NDArray[np.uint8], side: int) -> bytes:
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=82)
    return file.getvalue()
