"""Colours of 16 bits, of which Pillow keeps the high byte.

Cameras of 10 or 12 bits write such files, and the high bytes of those are nearly black: 16 shades of 4,096.
The low byte is what Pillow reads as the high one in the other byte order.
"""

import io
import sys

import numpy as np
from PIL import Image

from coreset_backend.decoding.repair import essential_chunks

_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_DEEP = tuple(f"{mode};16{order}" for mode in ("RGB", "RGBA", "RGBX") for order in _OTHER_ORDER)
ROWS_OF = 2_000_000
"""Pixels that are mixed at once."""


def has_deep_colours(image: Image.Image) -> bool:
    """Whether the picture, of which no pixel is decoded yet, has colours of 16 bits."""
    tiles = getattr(image, "tile", [])
    return bool(tiles) and "transparency" not in image.info and all(_layout(each) in _DEEP for each in tiles)


def opened_low_bytes(image: Image.Image, data: bytes) -> Image.Image:
    """The file ``data`` of such a picture once more, so that the low bytes of its colours are decoded."""
    low = Image.open(io.BytesIO(essential_chunks(data)), formats=(image.format or "",))
    low.seek(image.tell())
    low.tile = [each._replace(args=_in_other_order(each.args)) for each in low.tile]
    return low


def unused_bits(high: Image.Image) -> int:
    """How many of the 16 bits no colour of the picture uses, from its high bytes; at most 8."""
    return 8 - int(np.max(high.getextrema()[:3])).bit_length()


def scaled_by(high: Image.Image, low: Image.Image, unused: int) -> None:
    """Scale the colours of ``high``, in place, by the bits that are unused; alpha stays as it is."""
    rows = max(1, ROWS_OF // high.width)
    for top in range(0, high.height, rows):
        box = (0, top, high.width, min(top + rows, high.height))
        mixed, below = np.array(high.crop(box)), np.asarray(low.crop(box))
        mixed[..., :3] = mixed[..., :3] << unused | below[..., :3] >> (8 - unused)
        high.paste(Image.fromarray(mixed, high.mode), box)


def _layout(tile: object) -> str:
    args = getattr(tile, "args", "")
    return str(args[0] if isinstance(args, tuple) else args)


def _in_other_order(args: "tuple[object, ...] | str | None") -> "tuple[object, ...] | str | None":
    if isinstance(args, tuple):
        return (_in_other_order(str(args[0])), *args[1:])
    return args and args[:-1] + _OTHER_ORDER[args[-1]]
