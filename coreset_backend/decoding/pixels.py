"""Bytes of an image file -> RGB pixels of one size.

Geometry: the whole picture is resized to size x size, each side independently. A centre crop would remove
the borders, and a label may be about something there. A letterbox keeps the aspect ratio but adds the same
flat border to every picture of one format, so distances between embeddings would measure the format. A plain
resize removes and adds nothing; the distortion (4:3 for most cameras) is within the random crops of 3:4 to
4:3 on which the backbones were trained.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coreset_backend.arrays import Resize
from coreset_backend.decoding.depth import has_deep_colours, opened_low_bytes, scaled_by, unused_bits
from coreset_backend.decoding.formats import DAMAGED, damage, opened_image
from coreset_backend.decoding.modes import common_no_data, converted, has_values, reduced, without_holes
from coreset_backend.decoding.repair import loaded
from coreset_backend.decoding.tiff import no_data_value
from coreset_backend.errors import ImageError

# Part of the cache's key: increase it whenever the same bytes would give different pixels.
DECODER = 4
STRIP_BYTES = 8_000_000
"""Largest part of the picture that is converted at once: the memory needed besides its own pixels."""
LEAST_RANGE = 32.0
"""Smallest range to which a 16-bit picture is scaled; a smaller range is noise."""
OUTLYING = 0.1
"""Per cent of a picture's values that may be clipped at either end of its range: dead and hot pixels."""

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
_XMP = ("xmp", "XML:com.adobe.xmp")

Admit = Callable[[int, int], None]


def admit_all(pixels: int, cost: int) -> None:
    """Admit every picture, whatever its cost."""


def decoded_pixels(
    data: bytes, resize: Resize, max_pixels: int, admit: Admit = admit_all
) -> NDArray[np.uint8]:
    """``data`` as RGB pixels, uint8[size, size, 3]; raises ``ImageError`` with a reason.

    ``admit(pixels, cost)`` is called once before the decoding, with the number of pixels and the bytes of
    memory that it takes; an exception in ``admit`` ends the decoding.
    """
    try:
        with opened_image(data, resize, max_pixels, admit) as image:
            return _resized_pixels(image, data, resize)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"the image has more than the {max_pixels / 1e6:g} megapixels allowed") from error
    except MemoryError as error:
        raise ImageError("the image takes more memory than allowed for its size; save it again") from error
    except DAMAGED as error:
        raise ImageError(damage(data, error)) from error


def _resized_pixels(image: Image.Image, data: bytes, resize: Resize) -> NDArray[np.uint8]:
    """uint8[size, size, 3] of the first frame, upright."""
    for name in _XMP:  # Pillow would turn the picture by it, and browsers do not
        image.info.pop(name, None)
    picture = _loaded(image, data)
    least_range = LEAST_RANGE if picture.mode.startswith("I;16") else 0.0
    orientation = _orientation(image)  # after load, because load turns a TIFF upright
    no_data = _no_data(picture) if has_values(picture) else None
    resized = _in_eight_bits(_resized(picture, resize, no_data), least_range)
    # Turned after the resize, which is cheapest; both sides are equal, so the order does not matter.
    if orientation in _UPRIGHT:
        resized = resized.transpose(_UPRIGHT[orientation])
    return np.array(resized, dtype=np.uint8)


def _loaded(image: Image.Image, data: bytes) -> Image.Image:
    """``image`` with its pixels decoded; colours of 16 bits are scaled by the bits that the picture uses."""
    low = opened_low_bytes(image, data) if has_deep_colours(image) else None
    picture = loaded(image, data)
    if low is not None and (unused := unused_bits(picture)):
        scaled_by(picture, loaded(low, data), unused)
    return picture


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 if there is none or the EXIF data are damaged."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except DAMAGED:
        return 1


def _no_data(image: Image.Image) -> float | None:
    named = no_data_value(image)
    rows = max(1, STRIP_BYTES // (4 * image.width))
    return common_no_data(image, rows) if named is None else named


def _resized(image: Image.Image, resize: Resize, no_data: float | None) -> Image.Image:
    """``image`` in mode RGB or F, size x size, without holes; first converted and reduced by whole factors,
    strip by strip, as Pillow does with a ``reducing_gap`` of 2.
    """
    (width, height), size = image.size, resize.size
    kind = Image.Resampling[resize.interpolation.upper()]
    if kind is Image.Resampling.NEAREST:  # keeps values as they are, so none are averaged before
        return without_holes(converted(image.resize((size, size), kind), no_data), OUTLYING)
    across, down = max(1, width // (2 * size)), max(1, height // (2 * size))
    rows = max(1, STRIP_BYTES // (4 * width * down)) * down
    if across == down == 1 and rows >= height:
        return without_holes(converted(image, no_data), OUTLYING).resize((size, size), kind)
    small: Image.Image | None = None
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        part = reduced(converted(strip, no_data), (across, down))
        if small is None:
            small = Image.new(part.mode, (part.width, -(-height // down)))
        small.paste(part, (0, top // down))
    assert small is not None
    # The last column and row may cover fewer pixels than the others.
    box = (0, 0, width / across, height / down)
    return without_holes(small, OUTLYING).resize((size, size), kind, box=box)


def _in_eight_bits(image: Image.Image, least_range: float) -> Image.Image:
    """``image`` in mode RGB; an image in mode F is scaled by the range of its values.

    Cameras of 10 or 12 bits and thermal cameras write 16-bit files that use a small part of the scale:
    divided by 257 they would be nearly flat.
    """
    if image.mode == "RGB":
        return image
    values = np.asarray(image)
    low, high = np.percentile(values, (OUTLYING, 100 - OUTLYING))
    if high <= low:
        low, high = values.min(), values.max()
    scale = 255.0 / max(high - low, least_range) if high > low else 0.0
    return Image.fromarray(np.rint((values - low) * scale).clip(0, 255).astype(np.uint8)).convert("RGB")
