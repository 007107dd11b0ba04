"""TIFF: what its kinds are called, and what unpacking one takes."""

import io
from typing import Any

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _FORMAT = 256, 257, 258, 259, 262, 277, 339
_NUMBERS = {2: "signed", 3: "float", 4: "undefined", 5: "complex", 6: "complex"}
_STRIP_ROWS, _TILE_WIDTH, _TILE_ROWS = 278, 322, 323


def described_tiff(data: bytes) -> str | None:
    """What a TIFF holds, as in "5 bands of 16 bits"; None where not even that can be read."""
    try:
        tags = _first_tags(data)
        bits = tags.get(_BITS, (1,))
        samples, number = int(tags.get(_SAMPLES, 1)), _NUMBERS.get(int(tags.get(_FORMAT, (1,))[0]), "")
        width, height = int(tags[_WIDTH]), int(tags[_HEIGHT])
    except Exception:  # noqa: BLE001 - damaged in any way at all, it has no description
        return None
    if width < 1 or height < 1:
        return None
    bands = "1 band" if samples == 1 else f"{samples} bands"
    compression, colours = tags.get(_COMPRESSION, 1), tags.get(_PHOTOMETRIC, 0)
    kind = f"{bands} of {bits[0]} bits{f' {number}' if number else ''}"
    return f"{kind}, compression {compression}, photometric interpretation {colours}"


def _first_tags(data: bytes) -> ImageFileDirectory_v2:
    file = io.BytesIO(data)
    header = file.read(8)
    if header[2] == 43 or header[3] == 43:
        header += file.read(8)
    tags = ImageFileDirectory_v2(header)
    file.seek(tags.next)
    tags.load(file)
    return tags


def strip_bytes(image: Image.Image) -> int:
    """Bytes of the largest strip or tile, which is unpacked as a whole."""
    tags: Any = getattr(image, "tag_v2", {})
    rows = min(int(tags.get(_TILE_ROWS, tags.get(_STRIP_ROWS, image.height))), image.height)
    width = int(tags.get(_TILE_WIDTH, image.width))
    bits = tags.get(_BITS, (8,))
    return int(rows * width * len(bits) * max(bits) // 8)
