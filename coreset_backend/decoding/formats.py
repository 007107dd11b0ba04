"""The supported formats, the cost of decoding a picture of each, and the names of unsupported formats."""

import contextlib
import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator

from PIL import AvifImagePlugin, Image, UnidentifiedImageError

from coreset_backend.arrays import Resize
from coreset_backend.decoding.depth import has_deep_colours
from coreset_backend.decoding.repair import essential_chunks
from coreset_backend.decoding.tiff import TIFF_SIGNATURES, described_tiff, reduced_tiff, strip_bytes
from coreset_backend.errors import ImageError

with contextlib.suppress(ImportError):  # the extra `heic`
    from pillow_heif import options, register_heif_opener

    options.DECODE_THREADS = 1
    options.THUMBNAILS = False
    options.DEPTH_IMAGES = False
    options.AUX_IMAGES = False
    register_heif_opener()

AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # the pool of processes decodes in parallel already
Image.MAX_IMAGE_PIXELS = None  # opened_image checks its own limit, with a clearer error
Image.init()

# Pillow reads MPO, the format of phones, with its JPEG plugin; it has no format of that name.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF") + (("AVIF",) if AvifImagePlugin.SUPPORTED else ())
_OPENED = FORMATS + (("HEIF",) if "HEIF" in Image.OPEN else ())
MOST_SCANS = 100
"""Largest number of scans of a JPEG: at 50 megapixels, 75 bytes are enough for a scan that takes 16 ms."""
WHOLE_BYTES = {"WEBP": 12.5, "AVIF": 11.5, "HEIF": 7.5, "GIF": 2.0}
"""Measured bytes of memory per pixel, for readers that hold more than the picture."""
_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")
_SCAN, _END = 0xDA, 0xD9
_JPEG = b"\xff\xd8\xff"
_SIGNATURES = {
    _JPEG: "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"RIFF": "WEBP",
    b"GIF8": "GIF",
    b"BM": "BMP",
}
_NO_IMAGE = "the file is not a supported image: "
_OTHERS = {
    b"%PDF": "a PDF document; export its pages as images",
    b"8BPS": "a Photoshop file; export it as PNG or JPEG",
    b"%!PS": "a PostScript drawing; export it as PNG",
    b"\0\0\0\x0cjP  \r\n\x87\n": "a JPEG 2000 image; export it as PNG or JPEG",
    b"\xff\x4f\xff\x51": "a JPEG 2000 image; export it as PNG or JPEG",
    b"\0\0\0\x0cJXL \r\n\x87\n": "a JPEG XL image; export it as PNG or JPEG",
    b"\xff\x0a": "a JPEG XL image; export it as PNG or JPEG",
    b"SIMPLE  =": "a FITS image; export it as TIFF or PNG",
    b"\0\0\x01\0": "an icon; export it as PNG",
    b"FUJIFILMCCD-RAW": "a raw photograph; export it as JPEG",
    b"\x76\x2f\x31\x01": "an OpenEXR image; export it as TIFF or PNG",
    b"#?RADIANCE": "a Radiance image; export it as TIFF or PNG",
    b"DDS ": "a DirectDraw texture; export it as PNG",
    b"PK\x03\x04": "a ZIP archive or an Office document; import the images in it",
    b"\x1f\x8b": "a gzip archive; import the images in it",
    b"\x89HDF": "an HDF5 file; export its images as TIFF or PNG",
    b"\x93NUMPY": "a NumPy array; export it as TIFF or PNG",
    b"\x1aE\xdf\xa3": "a video; import single frames of it",
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself with `git lfs pull`",
}
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
# What Pillow's readers raise on damaged files besides OSError; every format fails in its own way. Warning is
# for processes that turn warnings into errors.
DAMAGED = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    ArithmeticError,
    AssertionError,
    BufferError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    struct.error,
    zlib.error,
    Warning,
)


def opened_image(
    data: bytes, resize: Resize, max_pixels: int, admit: Callable[[int, int], None]
) -> Image.Image:
    """The image with its header read and no pixel decoded; raises ``ImageError``.

    An image of more than ``max_pixels`` is opened at reduced size, if its format allows that and at least
    ``resize.size`` pixels a side remain. ``admit`` is called as in ``decoded_pixels``.
    """
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    if webp := _webp_size(data):  # its reader allocates the picture when it opens the file
        _refuse_too_large(*webp, max_pixels)
        admit(webp[0] * webp[1], int(WHOLE_BYTES["WEBP"] * webp[0] * webp[1]))
    try:
        image = Image.open(io.BytesIO(essential_chunks(data)), formats=_OPENED)
    except UnidentifiedImageError as error:
        raise ImageError(_foreign_format(data)) from error
    pixels = image.width * image.height
    if image.format in ("JPEG", "MPO"):
        _reduce_jpeg(image, data, resize, max_pixels)
    if image.format == "TIFF" and pixels > max_pixels:
        reduced = reduced_tiff(image, data, resize.size, max_pixels, admit)
        if reduced is not None:
            return reduced
    _refuse_too_large(*image.size, max_pixels)
    if not webp:
        admit(pixels, _cost(image))
    return image


def _refuse_too_large(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(
            f"the image has {width}x{height} = {width * height / 1e6:.0f} megapixels, "
            f"more than the {max_pixels / 1e6:g} allowed (CORESET_IMAGE_MEGAPIXELS)"
        )


def _reduce_jpeg(image: Image.Image, data: bytes, resize: Resize, max_pixels: int) -> None:
    """Decode ``image`` at 1/2, 1/4 or 1/8 of its size if that is at least the requested size.

    The nearest pixel is looked for in all of them, unless they are too many.
    """
    if _has_too_many_scans(data):
        raise ImageError(f"the image is a JPEG with more than {MOST_SCANS} scans; save it again")
    width, height = image.size
    if resize.interpolation != "nearest" or width * height > max_pixels:
        image.draft(None, (resize.size, resize.size))
    if image.width * image.height > max_pixels:
        _refuse_too_large(width, height, max_pixels)


def _has_too_many_scans(jpeg: bytes) -> bool:
    """Whether the first picture in the file has more than MOST_SCANS scans, counted by its markers."""
    if jpeg.count(b"\xff\xda") <= MOST_SCANS:  # other parts of the file can only add to the count
        return False
    place, scans = 2, 0
    while scans <= MOST_SCANS and (marker := _MARKER.search(jpeg, place)) and marker[1][0] != _END:
        scans += marker[1][0] == _SCAN
        place = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2])
    return scans > MOST_SCANS


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of the canvas of a WebP file, None for any other file."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return (
        int.from_bytes(data[26:28], "little") & 0x3FFF,
        int.from_bytes(data[28:30], "little") & 0x3FFF,
    )


def _cost(image: Image.Image) -> int:
    """Bytes of memory that decoding takes: the picture, its rows, and the decoder's own memory."""
    width, height = image.size
    pixels = width * height
    value = 1 if image.mode in ("1", "L", "P") else 2 if image.mode.startswith("I;16") else 4
    value *= 2 if has_deep_colours(image) else 1  # they are read twice
    own = pixels * value + height * 8
    if image.format in ("JPEG", "MPO"):
        return own + _jpeg_coefficients(image)
    if image.format in WHOLE_BYTES:
        return int(pixels * WHOLE_BYTES[image.format])
    return own + (strip_bytes(image) if image.format == "TIFF" else 0)


def _jpeg_coefficients(image: Image.Image) -> int:
    """Bytes of a progressive JPEG's coefficients, needed at any reduced size; 0 for other files."""
    if not image.info.get("progressive"):
        return 0
    scale = getattr(image, "decoderconfig", ())[:1] or (1,)
    layers = [(across, down) for _, across, down, *_ in getattr(image, "layer", [])]
    most = max((across for across, _ in layers), default=1) * max((down for _, down in layers), default=1)
    share = sum(across * down for across, down in layers) / most
    return int(2 * share * image.width * image.height * max(scale[0], 1) ** 2)


def _foreign_format(data: bytes) -> str:
    return _web_answer(data) or _known_format(data) or _other_format(data)


def _web_answer(data: bytes) -> str | None:
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "the answer is a web page, not an image (a login page?); open the address in a private window"
    if b"<svg" in start:
        return "the file is an SVG drawing, which has no pixels; export it as PNG"
    if start.startswith((b"{", b"[")):
        return "the answer is JSON, not an image"
    if start.startswith((b"<?xml", b"<error")):
        return "the answer is XML, not an image (an error of the object store?)"
    return None


def _known_format(data: bytes) -> str | None:
    if data.startswith(TIFF_SIGNATURES) and (kind := described_tiff(data)):
        return _unread("TIFF", kind)
    known = next((name for start, name in _SIGNATURES.items() if data.startswith(start)), None)
    if known == "WEBP" and data[8:12] != b"WEBP":
        return None
    if known == "JPEG" and (kind := _unread_jpeg(data)):
        return _unread("JPEG", kind)
    if known or data.startswith(TIFF_SIGNATURES):
        return f"the image file is damaged or truncated at its start ({len(data)} bytes)"
    return None


def _unread(name: str, kind: str) -> str:
    return f"this kind of {name} cannot be read ({kind}); save it with 8 bits, as grey or RGB, or as PNG"


def _unread_jpeg(data: bytes) -> str | None:
    """The unsupported kind of a JPEG (bits, lossless or hierarchical frames), or None."""
    for kind, body in _jpeg_segments(data):
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            if len(body) > 5 and body[0] != 8:
                return f"{body[0]} bits"
            return "lossless or hierarchical" if kind not in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA) else None
    return None


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    place = 2
    while (marker := _MARKER.match(data, place)) and marker[1][0] != _SCAN:
        length = int.from_bytes(data[marker.end() : marker.end() + 2])
        yield marker[1][0], data[marker.end() + 2 : marker.end() + max(length, 2)]
        place = marker.end() + max(length, 2)


def _other_format(data: bytes) -> str:
    if data[4:8] == b"ftyp":
        return _boxed_format(data[8:12])
    if data[128:132] == b"DICM":
        return _NO_IMAGE + "a DICOM image; export it as PNG"
    for start, name in _OTHERS.items():
        if data.startswith(start):
            return _NO_IMAGE + name
    return f"the file is not a supported image; supported are {', '.join(FORMATS)}"


def _boxed_format(brand: bytes) -> str:
    if brand in _AVIF_BRANDS:
        if "AVIF" in FORMATS:
            return "the image file is damaged or truncated (AVIF)"
        return "the file is an AVIF image, which this Pillow cannot read; export it as JPEG or PNG"
    if brand in _HEIC_BRANDS:
        if "HEIF" in _OPENED:
            return "the image file is damaged or truncated (HEIC)"
        return (
            "the file is a HEIC photograph; run `pip install 'coreset-backend[heic]'` in the worker, "
            "or export it as JPEG"
        )
    if brand.startswith(b"crx"):
        return _NO_IMAGE + "a raw photograph; export it as JPEG"
    return _NO_IMAGE + "a video; import single frames of it"


def damage(data: bytes, error: BaseException) -> str:
    """Why a file that was opened could not be decoded; ``error`` is the decoder's."""
    if data.startswith(_JPEG) and (kind := _unread_jpeg(data)):
        return _unread("JPEG", kind)
    return f"the image file is damaged ({first_words(error)})"


def first_words(error: BaseException) -> str:
    """The first line of the error's message, printable and at most 120 characters."""
    text = str(error).splitlines()[0] if str(error).strip() else type(error).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in text[:120])
