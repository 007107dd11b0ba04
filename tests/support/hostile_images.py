"""Small files that ask for much: memory, time, or words of their decoder. Each did harm once."""

import io
import random
import struct
import zlib
from collections.abc import Callable

from PIL import Image


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """``image`` as the bytes of a file of that kind."""
    body = io.BytesIO()
    image.save(body, kind, **options)
    return body.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG, with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, data: bytes) -> bytes:
    """A PNG whose compressed pixels are ``data``."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiff(tags: list[tuple[int, int, int, bytes]], after: bytes = b"") -> bytes:
    """A little-endian TIFF of one page: (tag, type, count, value of four bytes), and what follows it."""
    entries = b"".join(struct.pack("<HHI", *tag[:3]) + tag[3] for tag in sorted(tags))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + after


def _long(tag: int, value: int) -> tuple[int, int, int, bytes]:
    return tag, 4, 1, struct.pack("<I", value)


def _grey_page(width: int, height: int, compression: int, bits: int = 8) -> list[tuple[int, int, int, bytes]]:
    given = {256: width, 257: height, 258: bits, 259: compression, 262: 1, 277: 1, 278: height}
    return [_long(tag, value) for tag, value in given.items()]


def webp_of_one_colour() -> bytes:
    return encoded(Image.new("RGBA", (8000, 6000), (9, 9, 9, 9)), "WEBP", lossless=True, quality=0, method=0)


def gif_of_one_pixel_on_a_large_canvas() -> bytes:
    small = bytearray(encoded(Image.new("P", (1, 1)), "GIF", transparency=0))
    small[6:10] = struct.pack("<HH", 7000, 7000)
    return bytes(small)


def png_of_fifty_million_rows() -> bytes:
    return png(1, 50_000_000, 8, 0, zlib.compress(bytes(100_000_000), 9))


def png_without_a_palette() -> bytes:
    return png(8, 8, 8, 3, zlib.compress(bytes(72)))


def tiff_of_many_strips() -> bytes:
    count = 6_000_000
    tags = [tag for tag in _grey_page(1, count, 1) if tag[0] != 278]
    offsets = 8 + 2 + 12 * (len(tags) + 3) + 4
    tags += [
        _long(278, 1),
        (273, 4, count, struct.pack("<I", offsets)),
        (279, 4, count, struct.pack("<I", offsets)),
    ]
    return tiff(tags, struct.pack("<I", 8) * count)


def tiff_of_faxed_noise() -> bytes:
    noise = random.Random(0).randbytes(2000)
    tags = _grey_page(4000, 8000, 4, bits=1)
    offset = 8 + 2 + 12 * (len(tags) + 2) + 4
    return tiff([*tags, _long(273, offset), _long(279, len(noise))], noise)


def tiff_of_many_tags() -> bytes:
    tags = _grey_page(8, 8, 1)
    odd = [(40_000 + number, 2, 0xFFFFFF, struct.pack("<I", 8)) for number in range(20_000)]
    return tiff([*tags, _long(273, 8), _long(279, 64), *odd], bytes(64))


def jpeg_of_filling() -> bytes:
    return b"\xff\xd8" + b"\xff" * 24_000_000


def jpeg_of_many_tables() -> bytes:
    whole = encoded(Image.new("RGB", (80, 60), (200, 40, 40)), "JPEG")
    table = b"\xff\xdb" + struct.pack(">HB", 67, 0) + bytes([1]) * 64
    return whole[:2] + table * 300_000 + whole[2:]


def bmp_of_runs() -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, 7000, 7000, 1, 8, 1, 0, 0, 0, 256, 0)
    start = 14 + len(head) + 1024
    return b"BM" + struct.pack("<IHHI", start, 0, 0, start) + head + bytes(1024) + b"\x01\x00" * 5_000_000


HOSTILE: dict[str, Callable[[], bytes]] = {
    made.__name__: made
    for made in (
        webp_of_one_colour,
        gif_of_one_pixel_on_a_large_canvas,
        png_of_fifty_million_rows,
        png_without_a_palette,
        tiff_of_many_strips,
        tiff_of_faxed_noise,
        tiff_of_many_tags,
        jpeg_of_filling,
        jpeg_of_many_tables,
        bmp_of_runs,
    )
}
