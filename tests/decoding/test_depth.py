"""Colours of 16 bits of which a picture uses fewer."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from coreset_backend.arrays import Resize
from coreset_backend.decoding import decoded_pixels

SIDE = 32


def png(picture: np.ndarray) -> bytes:
    """A PNG of uint16[h, w, 3 or 4]."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, bands = picture.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[bands], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in picture)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def tiff(picture: np.ndarray, prefix: bytes, *, packed: bool) -> bytes:
    """A TIFF of uint16[h, w, 3] in that byte order."""
    height, width, _ = picture.shape
    body = picture.astype("<u2" if prefix == b"II" else ">u2").tobytes()
    body = zlib.compress(body) if packed else body
    directory = ImageFileDirectory_v2(prefix=prefix)
    tags = {256: width, 257: height, 258: (16,) * 3, 259: 8 if packed else 1, 262: 2, 277: 3, 278: height}
    for tag, value in {**tags, 273: 0, 279: len(body)}.items():
        directory[tag] = value
    file = io.BytesIO()
    directory.save(file)
    return file.getvalue() + body


WRITERS = {
    "PNG": png,
    "II": lambda picture: tiff(picture, b"II", packed=False),
    "MM": lambda picture: tiff(picture, b"MM", packed=False),
    "II deflated": lambda picture: tiff(picture, b"II", packed=True),
    "MM deflated": lambda picture: tiff(picture, b"MM", packed=True),
}


def scene(bits: int, bands: int = 3) -> np.ndarray:
    """uint16[32, 32, bands]: every pixel another colour, the brightest of so many bits."""
    found = np.random.default_rng(0).integers(0, 1 << bits, (SIDE, SIDE, bands)).astype(np.uint16)
    found[0, 0, :3] = (1 << bits) - 1
    return found


def decoded(data: bytes) -> np.ndarray:
    return decoded_pixels(data, Resize(SIDE, "nearest"), 10**6)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("bits", [8, 9, 10, 12, 14, 15, 16])
def test_colours_are_scaled_by_the_bits_that_the_picture_uses(kind: str, bits: int) -> None:
    picture = scene(bits)
    np.testing.assert_array_equal(decoded(WRITERS[kind](picture)), picture >> (bits - 8))


def test_alpha_keeps_its_scale() -> None:
    picture = scene(12, bands=4)
    picture[..., 3] = 65535
    np.testing.assert_array_equal(decoded(png(picture)), picture[..., :3] >> 4)


def test_strips_of_a_large_picture_are_scaled_alike() -> None:
    picture = np.tile(scene(12), (40, 40, 1))
    small = decoded_pixels(png(picture), Resize(SIDE), 10**7)
    assert 110 < small.mean() < 145, "the mean of what fills the scale"


def test_a_cut_off_picture_is_read_as_far_as_it_goes() -> None:
    whole = png(scene(12))
    found = decoded(whole[: int(0.8 * len(whole))])
    assert found.shape == (SIDE, SIDE, 3)


def test_a_black_picture_stays_black() -> None:
    assert not decoded(png(np.zeros((SIDE, SIDE, 3), np.uint16))).any()


def test_memory_is_admitted_for_both_bytes() -> None:
    costs: list[int] = []
    for data in (png(scene(12)), png(scene(16))):
        decoded_pixels(data, Resize(SIDE), 10**6, lambda _, cost: costs.append(cost))
    eight = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE)).save(eight, "PNG")
    decoded_pixels(eight.getvalue(), Resize(SIDE), 10**6, lambda _, cost: costs.append(cost))
    assert costs[0] == costs[1] > 1.9 * (costs[2] - 8 * SIDE)
