"""TIFF: the names of its kinds, the memory for unpacking a file, and reading a huge file at reduced size."""

import io
import math
from collections.abc import Callable, Iterator

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from coreset_backend.decoding.modes import converted, reduced

TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _FORMAT = 256, 257, 258, 259, 262, 277, 339
_NUMBERS = {2: "signed", 3: "float", 4: "undefined", 5: "complex", 6: "complex"}
_STRIP_ROWS, _TILE_WIDTH, _TILE_ROWS = 278, 322, 323
_KIND, _ORIENTATION, _PLANAR = 254, 274, 284
_NO_DATA = 42113  # as GDAL writes it
_STRIP_PLACES, _STRIP_SIZES, _TILE_PLACES, _TILE_SIZES = 273, 279, 324, 325
# The tags of the picture that each tile needs: predictor, palette, alpha, JPEG tables, sub-sampling.
_OF_EVERY_TILE = (_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR, 317, 320, 338, _FORMAT, 347, 530, 532)
MOST_OVERVIEWS = 32
MOST_TIMES = 16
"""A tiled picture may have this many times the allowed pixels, because it is unpacked tile by tile."""


def described_tiff(data: bytes) -> str | None:
    """The kind of a TIFF, as in "5 bands of 16 bits"; None if it cannot be read."""
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


def _tags(image: Image.Image) -> ImageFileDirectory_v2:
    """The tags of the frame that ``image`` is at; none where it is no TIFF."""
    found = getattr(image, "tag_v2", None)
    return found if isinstance(found, ImageFileDirectory_v2) else ImageFileDirectory_v2()


def no_data_value(image: Image.Image) -> float | None:
    """The value that stands for "not measured", if the TIFF names one."""
    try:
        named = float(str(_tags(image)[_NO_DATA]).strip("\0 "))
    except (KeyError, ValueError):
        return None
    return named if math.isfinite(named) else None


def strip_bytes(image: Image.Image) -> int:
    """Bytes of the largest strip or tile, which is unpacked as a whole."""
    tags = _tags(image)
    rows = min(int(tags.get(_TILE_ROWS, tags.get(_STRIP_ROWS, image.height))), image.height)
    width = int(tags.get(_TILE_WIDTH, image.width))
    bits = tags.get(_BITS, (8,))
    return int(rows * width * len(bits) * max(bits) // 8)


def reduced_tiff(
    image: Image.Image, data: bytes, size: int, max_pixels: int, admit: Callable[[int, int], None]
) -> Image.Image | None:
    """A TIFF of more than ``max_pixels`` at reduced size, but at least ``size`` x ``size``.

    Reads its smallest sufficient overview, or its tiles, each reduced as soon as it is unpacked; None if it
    has neither. ``admit`` is called before, as in ``decoded_pixels``.
    """
    pixels = image.width * image.height
    if (overview := _overview(image, size, max_pixels)) is not None:
        image.seek(overview)
        admit(image.width * image.height, 4 * image.width * image.height + strip_bytes(image))
        return image
    image.seek(0)
    tags = _tags(image)
    if not tags.get(_TILE_PLACES) or tags.get(_PLANAR, 1) != 1 or pixels > MOST_TIMES * max_pixels:
        return None
    across, down = int(tags[_TILE_WIDTH]), int(tags[_TILE_ROWS])
    shrink = _common_power_of_two(across, down, min(image.size) // size)
    admit(pixels, 4 * (image.width // shrink + across) * (image.height // shrink + down) + 8 * across * down)
    return _from_tiles(image, data, across, down, shrink)


def _overview(image: Image.Image, size: int, max_pixels: int) -> int | None:
    """The frame that is the smallest picture of the same scene with at least ``size`` pixels a side."""
    whole, found = image.size, {}
    for frame in range(1, MOST_OVERVIEWS):
        try:
            image.seek(frame)
        except EOFError:
            break
        width, height = image.size
        tags = _tags(image)
        same_scene = tags.get(_KIND, 0) & 1 and abs(width * whole[1] - height * whole[0]) <= 2 * max(whole)
        if same_scene and min(width, height) >= size and width * height <= max_pixels:
            found[width * height] = frame
    return found[min(found)] if found else None


def _common_power_of_two(across: int, down: int, most: int) -> int:
    """The largest power of two up to ``most`` that divides both sides of a tile."""
    power = 1
    while 2 * power <= most and across % (2 * power) == 0 == down % (2 * power):
        power *= 2
    return power


def _from_tiles(image: Image.Image, data: bytes, across: int, down: int, shrink: int) -> Image.Image:
    small: Image.Image | None = None
    no_data = no_data_value(image)
    for left, top, tile in _tiles(image, data, across, down):
        part = reduced(converted(tile, no_data), shrink)
        if small is None:
            small = Image.new(part.mode, (-(-image.width // shrink), -(-image.height // shrink)))
        small.paste(part, (left // shrink, top // shrink))
    if small is None:
        raise ValueError("the TIFF has no tiles")
    small.getexif()[_ORIENTATION] = int(_tags(image).get(_ORIENTATION, 1))
    return small


def _tiles(image: Image.Image, data: bytes, across: int, down: int) -> Iterator[tuple[int, int, Image.Image]]:
    """(left, top, tile) of each unpacked tile; each is read as a TIFF of its own with the shared tags."""
    tags = _tags(image)
    prefix = data[:2]
    columns = -(-image.width // across)
    for number, (place, length) in enumerate(zip(tags[_TILE_PLACES], tags[_TILE_SIZES], strict=True)):
        left, top = number % columns * across, number // columns * down
        if top >= image.height:
            return
        directory = ImageFileDirectory_v2(prefix=prefix)
        for tag in _OF_EVERY_TILE:
            if tag in tags:
                directory.tagtype[tag] = tags.tagtype[tag]
                directory[tag] = tags[tag]
        directory[_WIDTH], directory[_HEIGHT], directory[_STRIP_ROWS] = across, down, down
        directory[_STRIP_PLACES], directory[_STRIP_SIZES] = 0, length  # counted from the end of the directory
        file = io.BytesIO()
        directory.save(file)
        file.write(data[place : place + length])
        with Image.open(file, formats=("TIFF",)) as tile:
            tile.load()
            yield left, top, tile.crop((0, 0, min(across, image.width - left), min(down, image.height - top)))
