"""Converts pictures of any Pillow mode to RGB, or to F if their values have more than 8 bits."""

import numpy as np
from PIL import Image


def converted(image: Image.Image) -> Image.Image:
    """``image`` in mode RGB, or F if its values have more than 8 bits.

    Transparency is laid over white, as Label Studio shows it.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image, dtype=np.float32)
        return Image.fromarray(np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0))
    if image.has_transparency_data:
        over_white = Image.new("RGBA", image.size, "white")
        over_white.alpha_composite(image.convert("RGBA"))
        return over_white.convert("RGB")
    return image.convert("RGB")
