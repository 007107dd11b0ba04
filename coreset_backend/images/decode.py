"""Bytes of an image file -> RGB pixels of one size. The only door to Pillow.

Geometry: the whole picture is resized to size x size, sides independently. A centre crop would throw away
borders, and a label may be about what is there. A letterbox keeps the shape but adds the same flat border
to every picture of one format, and distances between embeddings then measure the format. A plain resize
loses nothing and adds nothing; the stretch (4:3 for most cameras) is within what the backbones saw in
training, whose random crops vary from 3:4 to 4:3.
"""

import io
import re
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from coreset_backend.errors import ImageError

# Pillow reads MPO, what phones write, through its door for JPEG, and knows no other by that name.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MOST_SCANS = 100
"""Passes over its picture that a JPEG may ask for: at 50 megapixels 75 bytes are enough for one of 16 ms."""
_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")
_SCAN, _END = 0xDA, 0xD9
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")
# Part of the cache's key: raise it whenever the same bytes would give other pixels.
DECODER = 1

# EXIF orientation -> how to turn the picture upright (EXIF 2.32, tag 0x0112).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
# What Pillow's readers raise on damaged files, beside OSError. The list is long because each of its
# formats fails in its own way; Warning is here for processes that turn warnings into errors.
_DAMAGED = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    NotImplementedError,
    MemoryError,
    struct.error,
    zlib.error,
    Warning,
)


def decoded_pixels(data: bytes, size: int, max_pixels: int) -> NDArray[np.uint8]:
    """``data`` as RGB pixels, uint8[size, size, 3]; raises ``ImageError`` with a reason."""
    try:
        with _opened_image(data, max_pixels) as image:
            return _resized_pixels(image, size)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"the image has more than the {max_pixels / 1e6:g} megapixels allowed") from error
    except _DAMAGED as error:
        raise ImageError(f"the image file is damaged ({_first_words(error)})") from error


def _opened_image(data: bytes, max_pixels: int) -> Image.Image:
    """The image with its header read but no pixel decoded; raises ``ImageError``."""
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageError(_foreign_format(data)) from error
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"the image has {width}x{height} = {width * height / 1e6:.0f} megapixels, "
            f"more than the {max_pixels / 1e6:g} allowed"
        )
    if image.format in ("JPEG", "MPO") and _has_too_many_scans(data):
        raise ImageError(
            f"the image is a JPEG of more than {MOST_SCANS} scans; save it again to have it read"
        )
    return image


def _has_too_many_scans(jpeg: bytes) -> bool:
    """Whether the first picture in the file has more than MOST_SCANS, counted from marker to marker."""
    if jpeg.count(b"\xff\xda") <= MOST_SCANS:  # what else is in the file can only add to them
        return False
    place, scans = 2, 0
    while scans <= MOST_SCANS and (marker := _MARKER.search(jpeg, place)) and marker[1][0] != _END:
        scans += marker[1][0] == _SCAN
        place = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2])
    return scans > MOST_SCANS


def _foreign_format(data: bytes) -> str:
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "the answer is a web page, not an image (a login page?); open the address in a private window"
    if b"<svg" in start:
        return "the file is an SVG drawing, which has no pixels; export it as PNG"
    if start.startswith((b"{", b"[")):
        return "the answer is JSON, not an image"
    if start.startswith((b"<?xml", b"<error")):
        return "the answer is XML, not an image (an error of the object store?)"
    if data.startswith(_SIGNATURES):
        return f"the image file is damaged or cut off at its start ({len(data)} bytes)"
    return f"the file is no image that can be read; supported are {', '.join(FORMATS)}"


def _resized_pixels(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """uint8[size, size, 3] of the first frame, upright."""
    # JPEG only: decodes at 1/2, 1/4 or 1/8 where that is still at least as large as what is asked for.
    image.draft(None, (size, size))
    image.load()
    orientation = _orientation(image)  # after load, in which Pillow turns a TIFF upright by itself
    resized = _rgb_image(image).resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0)
    # Turned after the resize, which costs least; both sides are equal, so the order does not matter.
    if orientation in _UPRIGHT:
        resized = resized.transpose(_UPRIGHT[orientation])
    return np.array(resized, dtype=np.uint8)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 where there is none; damaged EXIF does not cost the picture."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except _DAMAGED:
        return 1


def _rgb_image(image: Image.Image) -> Image.Image:
    """``image`` in mode RGB; transparency is laid over white, as Label Studio shows it."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        return _grey_image(np.asarray(image, dtype=np.float32) / 257)
    if image.mode in ("I", "F"):
        return _grey_image(_stretched(np.asarray(image, dtype=np.float32)))
    if image.has_transparency_data:
        over_white = Image.new("RGBA", image.size, "white")
        over_white.alpha_composite(image.convert("RGBA"))
        return over_white.convert("RGB")
    return image.convert("RGB")


def _stretched(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32[h, w] in [0, 255]: such files name no white, so their own extremes become black and white."""
    finite = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(finite.min()), float(finite.max())
    scale = 255.0 / (high - low) if high > low else 0.0
    stretched: NDArray[np.float32] = ((finite - low) * scale).astype(np.float32)
    return stretched


def _grey_image(values: NDArray[np.floating[Any]]) -> Image.Image:
    return Image.fromarray(np.rint(values).clip(0, 255).astype(np.uint8)).convert("RGB")


def _first_words(error: BaseException) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text[:120]
