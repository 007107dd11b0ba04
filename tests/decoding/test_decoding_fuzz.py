"""Damaged files of every format, through the processes that decode: pixels or a reason, whatever comes."""

import io
import random
from pathlib import Path

import pytest
from hostile_images import encoded
from paths import SUPPORT
from PIL import Image

from coreset_backend.arrays import Resize
from coreset_backend.decoding import Decoders
from coreset_backend.errors import ImageError

FOUND = SUPPORT / "fuzz_corpus"
"""Small files that once did harm, by what they did; a new one is a file more in this folder."""
REASONS = (
    "damaged",
    "cannot be read",
    "not a supported image",
    "megapixels",
    "memory",
    "more CPU time",
    "is empty",
    "the answer is",
)
MARKERS = (
    b"\xff\xd8",
    b"\xff\xda",
    b"\xff\xc4",
    b"\xff\xff",
    b"IDAT",
    b"PLTE",
    b"\0\0\0\0",
    b"\x7f\xff\xff\xff",
)


def seeds() -> list[bytes]:
    """A small file of each format and mode, and what was found before."""
    image = Image.effect_mandelbrot((40, 30), (-3, -2.5, 2, 2.5), 100)
    ways = [
        *((kind, mode, {}) for kind in ("JPEG", "TIFF") for mode in ("RGB", "L", "CMYK")),
        *((kind, mode, {}) for kind in ("PNG", "WEBP", "AVIF") for mode in ("RGB", "RGBA")),
        *(("PNG", mode, {}) for mode in ("P", "1", "LA", "I;16")),
        *(("TIFF", mode, {}) for mode in ("I;16", "F", "1", "LAB")),
        *(("TIFF", "RGB", {"compression": way}) for way in ("tiff_lzw", "jpeg", "packbits", "tiff_deflate")),
        *(("TIFF", "1", {"compression": way}) for way in ("group3", "group4", "tiff_ccitt")),
        ("JPEG", "RGB", {"progressive": True}),
        ("MPO", "RGB", {}),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
        ("BMP", "P", {}),
    ]
    made = [encoded(_in_mode(image, mode), kind, **options) for kind, mode, options in ways]
    return made + [path.read_bytes() for path in sorted(FOUND.iterdir())]


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode == "LAB":
        return Image.merge("LAB", [image] * 3)
    return image.convert("I").convert("I;16") if mode == "I;16" else image.convert("RGB").convert(mode)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """``data`` with one to six of its places changed, cut, doubled or swapped for a marker."""
    body = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(body) + 1)
        match rng.randrange(6):
            case 0 if place < len(body):
                body[place] = rng.randrange(256)
            case 1 if place < len(body):
                body[place] ^= 1 << rng.randrange(8)
            case 2:
                del body[place : place + rng.randint(1, 40)]
            case 3:
                body[place:place] = body[place : place + rng.randint(1, 200)]
            case 4:
                marker = rng.choice(MARKERS)
                body[place : place + len(marker)] = marker
            case 5:
                body[place:place] = rng.randbytes(rng.randint(1, 20))
    return bytes(body)


def attack(count: int, seed: int) -> tuple[int, int]:
    """(read, refused) of ``count`` damaged files; fails with the file that was neither."""
    rng, files, read = random.Random(seed), seeds(), 0
    with Decoders(4_000_000, processes=2) as decoders:
        for _ in range(count):
            data = damaged(rng.choice(files), rng)
            try:
                pixels = decoders.pixels(data, Resize(16))
            except ImageError as error:
                assert any(reason in str(error) for reason in REASONS), f"{error}: {data.hex()}"
                assert str(error).isprintable() and len(str(error)) < 300
            else:
                assert pixels.shape == (16, 16, 3)
                read += 1
    return read, count - read


def test_the_seeds_are_read() -> None:
    with Decoders(4_000_000) as decoders:
        for data in seeds()[: -len(list(FOUND.iterdir()))]:
            assert decoders.pixels(data, Resize(16)).shape == (16, 16, 3)


@pytest.mark.parametrize("path", sorted(FOUND.iterdir()), ids=lambda path: path.name)
def test_what_was_found_is_one_image_s_failure_or_a_picture(path: Path) -> None:
    with Decoders(50_000_000, processes=1) as decoders:
        try:
            assert decoders.pixels(path.read_bytes(), Resize(16)).shape == (16, 16, 3)
        except ImageError as error:
            assert any(reason in str(error) for reason in REASONS)
        body = io.BytesIO()
        Image.new("RGB", (8, 8)).save(body, "PNG")
        assert decoders.pixels(body.getvalue(), Resize(16)).shape == (16, 16, 3)


def test_damaged_files_are_pixels_or_a_reason() -> None:
    read, refused = attack(400, seed=0)
    assert min(read, refused) > 40


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 9))
def test_many_damaged_files_are_pixels_or_a_reason(seed: int) -> None:
    read, refused = attack(25_000, seed)
    assert min(read, refused) > 2500
