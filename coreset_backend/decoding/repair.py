"""Reads malformed files that browsers still show, as far as they can be read."""

from collections.abc import Iterator

from PIL import Image, ImageFile
from PIL.WebPImagePlugin import WebPImageFile

from coreset_backend.errors import ImageError

_PNG = b"\x89PNG\r\n\x1a\n"
# The chunks of the picture itself. Others (a profile, texts, an animation) may be broken or huge.
_ESSENTIAL = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"IEND")
_SCAN = b"\xff\xda"
_GREY = 128
_BLANK = {"CMYK": 127}  # libjpeg leaves missing rows grey; CMYK is inverted
ENOUGH = 0.5
"""Smallest share of its rows that a truncated file must contain; missing rows are grey, as in a browser."""


def essential_chunks(data: bytes) -> bytes:
    """A PNG without the chunks that are not part of its picture; any other file unchanged."""
    if not data.startswith(_PNG):
        return data
    return _PNG + b"".join(chunk for chunk in _chunks(data) if chunk[4:8] in _ESSENTIAL)


def _chunks(png: bytes) -> Iterator[memoryview]:
    view, place = memoryview(png), len(_PNG)
    while place < len(png):
        length = int.from_bytes(view[place : place + 4])
        yield view[place : place + 12 + length]
        place += 12 + length


def loaded(image: Image.Image, data: bytes) -> Image.Image:
    """``image`` with its pixels decoded; of a truncated JPEG or PNG the existing rows, if they are enough.

    Raises Pillow's errors, and ``ImageError`` if there are too few rows.
    """
    if isinstance(image, WebPImageFile):
        return _webp_frame(image)
    _load(image, data)
    return image


def _webp_frame(image: WebPImageFile) -> Image.Image:
    """The first frame in mode RGBX or RGBA. Pillow would hold it twice, and its reader twice more."""
    frame, *_ = image._get_next()
    del image._decoder
    mode = "RGBA" if image.rawmode == "RGBA" else "RGBX"
    return Image.frombuffer(mode, image.size, frame, "raw", mode, 0, 1)


def _load(image: Image.Image, data: bytes) -> None:
    try:
        image.load()
    except (OSError, SyntaxError) as error:
        if not _may_be_cut_off(image, data, str(error)):
            raise
        _load_what_is_there(image, data)


def _may_be_cut_off(image: Image.Image, data: bytes, says: str) -> bool:
    if image.format in ("JPEG", "MPO"):
        return "truncated" in says
    return image.format == "PNG" and not data.endswith(b"IEND\xaeB`\x82") and not image.info.get("interlace")


def _load_what_is_there(image: Image.Image, data: bytes) -> None:
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        image.load()
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    there = _rows_there(image, _BLANK.get(image.mode, _GREY) if image.format != "PNG" else 0)
    if image.info.get("progressive"):  # each scan has all rows, finer than the one before
        there = image.height if data.count(_SCAN) > 1 else 0
    if there < ENOUGH * image.height:
        raise ImageError(
            f"the image file is damaged: it contains only {there / image.height:.0%} of its rows"
        )
    if there < image.height:
        image.paste(_greys(image.mode), (0, there, *image.size))


def _rows_there(image: Image.Image, blank: int) -> int:
    """Number of rows up to the last decoded one, in steps of a 64th of the height."""
    step = max(1, image.height // 64)
    for bottom in range(image.height, 0, -step):
        part = image.crop((0, max(0, bottom - step), image.width, bottom))
        if any(extreme != blank for pair in _extrema(part) for extreme in pair):
            return bottom
    return 0


def _extrema(image: Image.Image) -> tuple[tuple[float, float], ...]:
    found = image.getextrema()
    return found if isinstance(found[0], tuple) else (found,)


def _greys(mode: str) -> int | tuple[int, ...]:
    """The colour of missing rows."""
    many = {
        "RGB": (_GREY,) * 3,
        "LA": (_GREY, 255),
        "RGBA": (_GREY, _GREY, _GREY, 255),
        "CMYK": (0, 0, 0, _GREY),
    }
    return many.get(mode, _GREY)
