import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from coreset_backend.arrays import Interpolation, Resize
from coreset_backend.decoding import decoded_pixels
from coreset_backend.errors import ImageError

RED, WHITE, BLACK = (200, 40, 40), (255, 255, 255), (0, 0, 0)
Pixels = NDArray[np.uint8]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    body = io.BytesIO()
    image.save(body, kind, **options)
    return body.getvalue()


def red(mode: str = "RGB", size: tuple[int, int] = (80, 60)) -> Image.Image:
    return Image.new("RGB", size, RED).convert(mode)


def decode(data: bytes, size: int = 32, max_pixels: int = 50_000_000) -> Pixels:
    return decoded_pixels(data, Resize(size), max_pixels)


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))


def quadrants() -> Image.Image:
    """Red, green / blue, white: which way is up can be seen at the corners."""
    corners = np.zeros((64, 64, 3), np.uint8)
    corners[:32, :32], corners[:32, 32:] = (255, 0, 0), (0, 255, 0)
    corners[32:, :32], corners[32:, 32:] = (0, 0, 255), (255, 255, 255)
    return Image.fromarray(corners)


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "CMYK", {}),
        ("MPO", "RGB", {}),
        ("PNG", "RGB", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "P", {}),
        ("GIF", "P", {}),
        ("WEBP", "RGB", {}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("BMP", "RGB", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("TIFF", "CMYK", {}),
        ("TIFF", "RGBA", {}),
    ],
)
def test_every_supported_kind(kind: str, mode: str, options: dict[str, Any]) -> None:
    pixels = decode(encoded(red(mode), kind, **options))
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels.reshape(-1, 3).mean(0), RED, atol=8)


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_becomes_three_equal_channels(mode: str) -> None:
    pixels = decode(encoded(Image.new("L", (40, 30), 255).convert(mode), "PNG"))
    assert (pixels == 255).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_is_white(mode: str) -> None:
    assert (decode(encoded(Image.new(mode, (40, 30)), "PNG")) == 255).all()


def test_half_transparent_is_half_white() -> None:
    pixels = decode(encoded(Image.new("RGBA", (40, 30), (0, 0, 0, 128)), "PNG"))
    np.testing.assert_allclose(pixels, 127, atol=1)


def test_a_palette_with_a_transparent_entry() -> None:
    image = Image.new("P", (40, 30), 1)
    image.putpalette([*RED, *BLACK])
    assert (decode(encoded(image, "PNG", transparency=1)) == 255).all()
    assert (decode(encoded(image, "GIF", transparency=1)) == 255).all()
    assert (decode(encoded(image, "PNG", transparency=b"\xff\x00")) == 255).all()


def test_one_colour_of_an_rgb_png_may_be_transparent() -> None:
    assert (decode(encoded(Image.new("RGB", (40, 30), RED), "PNG", transparency=RED)) == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_scale(kind: str) -> None:
    ramp = np.linspace(0, 65535, 32, dtype=np.uint16)[None].repeat(32, 0)
    pixels = decode(encoded(Image.fromarray(ramp), kind))
    np.testing.assert_array_equal(pixels[0, :, 0], np.rint(ramp[0] / 257))
    assert (pixels[..., 0] == pixels[..., 2]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_values_without_a_scale_are_stretched(dtype: type) -> None:
    ramp: NDArray[Any] = np.linspace(-1000, 9000, 32).astype(dtype)[None].repeat(32, 0)
    pixels = decode(encoded(Image.fromarray(ramp), "TIFF"))
    assert (pixels[0, 0], pixels[0, -1]) == (pytest.approx(BLACK), pytest.approx(WHITE))
    assert (np.diff(pixels[0, :, 0].astype(int)) >= 0).all()


def test_values_that_are_no_numbers_do_no_harm() -> None:
    values = np.full((32, 32), np.nan, np.float32)
    assert (decode(encoded(Image.fromarray(values), "TIFF")) == 0).all()
    values[0] = np.inf
    values[1] = 5
    values[2] = 6
    rows = decode(encoded(Image.fromarray(values), "TIFF"))[:, 0, 0]
    assert rows[2] == 255 and not rows[[0, 1, *range(3, 32)]].any()


HOLES = [
    (np.nan, None),
    (np.inf, None),
    (-3.4028235e38, None),
    (9.96921e36, None),
    (-9999, None),
    (-32768, None),
    (250, "250"),  # named by the file, whatever it is
    (-9999, "-9999 \0"),
]


@pytest.mark.parametrize(("hole", "named"), HOLES)
@pytest.mark.parametrize("side", [32, 64, 512])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_what_was_not_measured_does_not_make_different_pictures_alike(
    hole: float, named: str | None, side: int, interpolation: Interpolation
) -> None:
    down, across = np.mgrid[:side, :side] * (32 / side)
    pictures = []
    for place in (down, across):
        values = (290 + 10 * np.sin(place / 2)).astype(np.float32)
        whole = decoded_pixels(encoded(Image.fromarray(values), "TIFF"), Resize(32, interpolation), side**2)
        values[: side // 4, : side // 4] = hole
        data = encoded(Image.fromarray(values), "TIFF", tiffinfo={42113: named} if named else {})
        pictures.append(decoded_pixels(data, Resize(32, interpolation), side**2)[..., 0].astype(int))
        assert np.abs(pictures[-1] - whole[..., 0])[10:].mean() < 2
        assert pictures[-1][:7, :7].max() == 0
    assert np.abs(pictures[0] - pictures[1])[10:].mean() > 50


def test_single_holes_leave_the_pixels_beside_them() -> None:
    ramp = np.linspace(0, 1000, 512, dtype=np.float32)[None].repeat(512, 0)
    whole = decode(encoded(Image.fromarray(ramp), "TIFF")).astype(int)
    ramp[np.random.default_rng(0).random(ramp.shape) < 0.1] = np.nan
    assert np.abs(decode(encoded(Image.fromarray(ramp), "TIFF")) - whole).max() <= 2


@pytest.mark.parametrize(
    "values",
    [np.linspace(-20000, 20000, 1024), np.linspace(-9999, 9999, 1024), np.linspace(-32768, 32767, 1024)],
)
def test_a_usual_value_for_holes_is_a_measurement_among_others(values: Pixels) -> None:
    values = np.rint(values).astype(np.int32).reshape(32, 32)
    values[20, 20] = -9999
    assert decode(encoded(Image.fromarray(values), "TIFF"))[20, 20, 0] == pytest.approx(
        255 * (-9999 - values.min()) / np.ptp(values), abs=2
    )


def test_a_tag_that_names_no_number_costs_nothing() -> None:
    ramp = np.linspace(0, 1000, 32, dtype=np.float32)[None].repeat(32, 0)
    pixels = decode(encoded(Image.fromarray(ramp), "TIFF", tiffinfo={42113: "none"}))
    assert pixels[0, -1, 0] == 255


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF"])
def test_only_exif_turns_a_picture_as_in_browsers(kind: str) -> None:
    options = {"tiffinfo": {700: XMP}} if kind == "TIFF" else {"xmp": XMP}
    np.testing.assert_array_equal(
        decode(encoded(quadrants(), kind, **options)), decode(encoded(quadrants(), kind))
    )


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_is_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (40, 30), RED), Image.new("RGB", (40, 30), BLACK)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(decode(data).reshape(-1, 3).mean(0), RED, atol=8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_camera_may_be_held_any_way(kind: str, orientation: int) -> None:
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = quadrants()
    stored = image.transpose(back[orientation]) if orientation in back else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode(encoded(stored, kind, exif=exif)).astype(int)
    for corner, colour in (((2, 2), (255, 0, 0)), ((2, -3), (0, 255, 0)), ((-3, 2), (0, 0, 255))):
        np.testing.assert_allclose(pixels[corner], colour, atol=40)


# A warning of Pillow in production, an error in this suite unless it is let through.
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_cost_the_picture() -> None:
    pixels = decode(encoded(red(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01"))
    np.testing.assert_allclose(pixels.reshape(-1, 3).mean(0), RED, atol=8)


def test_the_whole_picture_is_kept_and_stretched() -> None:
    wide = Image.new("RGB", (320, 80), RED)
    wide.paste(WHITE, (0, 0, 32, 80))
    pixels = decode(encoded(wide, "PNG"), size=40)
    assert pixels[:, :3].min() == 255
    np.testing.assert_array_equal(pixels[:, 5:], np.broadcast_to(RED, (40, 35, 3)))


def test_an_image_of_the_right_size_is_unchanged() -> None:
    source = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(source), "PNG")), source)


@pytest.mark.parametrize("size", [50, 7])  # enlarged in part, and first reduced by whole factors
@pytest.mark.parametrize("interpolation", get_args(Interpolation))
def test_pixels_are_those_of_pillow_s_resize(interpolation: Interpolation, size: int) -> None:
    pixels = decoded_pixels(encoded(noise(), "PNG"), Resize(size, interpolation), 10**6)
    kind = Image.Resampling[interpolation.upper()]
    np.testing.assert_array_equal(pixels, noise().resize((size, size), kind, reducing_gap=2))


def test_the_nearest_pixel_of_a_jpeg_is_one_of_its_own() -> None:
    """Not the mean of some, as where the file is decoded at a part of its size."""
    data = encoded(noise(), "JPEG")
    pixels = decoded_pixels(data, Resize(7, "nearest"), 10**6)
    whole = Image.open(io.BytesIO(data)).resize((7, 7), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(pixels, whole)
    assert decoded_pixels(data, Resize(7, "nearest"), 60 * 80 // 2).shape == (7, 7, 3)


def test_small_stripes_fade_to_grey_instead_of_aliasing() -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    for kind in ("PNG", "JPEG"):
        assert abs(decode(encoded(Image.fromarray(stripes), kind), 64).astype(int) - 127).max() <= 12


def test_reduced_decode_agrees_with_the_full_one() -> None:
    ramp = np.linspace(0, 255, 1600, dtype=np.uint8)[None, :, None].repeat(1200, 0).repeat(3, 2)
    data = encoded(Image.fromarray(ramp), "JPEG", quality=95)
    full = np.array(Image.open(io.BytesIO(data)).resize((96, 96), Image.Resampling.BILINEAR))
    assert abs(decode(data, 96).astype(int) - full).max() <= 3


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return head + struct.pack(">I", 10) + b"IDAT"


def bomb() -> bytes:
    """A real PNG of 30,000 x 30,000 pixels of one bit in about 110 kB."""
    body = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(30_000 * 3_751), 9)
    parts = (body, data, b"IEND")
    chunks = b"".join(struct.pack(">I", len(p) - 4) + p + struct.pack(">I", zlib.crc32(p)) for p in parts)
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", r"empty \(0 bytes\)"),
        (b"\x00" * 100, "not a supported image; supported are JPEG"),
        (b"<!DOCTYPE html><html><title>Log in</title>", "web page.*login"),
        (b"\xef\xbb\xbf\n <HTML lang=en>", "web page"),
        (b'{"detail": "not found"}', "JSON"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a supported image"),
        (b"8BPS\0\1" + bytes(200), "not a supported image"),
        (b"SIMPLE  =                    T".ljust(2880), "not a supported image"),
        (b"%PDF-1.7\n", "not a supported image"),
        (encoded(red(), "JPEG")[:400], "damaged"),
        (encoded(red(), "PNG")[:60], "damaged"),
        (encoded(noise(), "GIF")[:-200], "damaged"),
        (encoded(red(), "BMP")[:-2000], "damaged"),
        (encoded(red(), "PPM"), "not a supported image"),
        (encoded(red(), "ICO"), "not a supported image"),
        (png_header(20_000, 20_000), "megapixels"),
        (png_header(8_000, 8_000), r"8000x8000 = 64 megapixels, more than the 50 allowed"),
    ],
)
def test_what_cannot_be_read_has_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode(data)


def test_a_real_bomb_is_refused_for_its_size() -> None:
    with pytest.raises(ImageError, match="megapixels"):
        decode(bomb())


def test_the_pixel_limit_is_the_callers() -> None:
    assert decode(encoded(red(size=(100, 100)), "PNG"), max_pixels=10_000).shape == (32, 32, 3)
    with pytest.raises(ImageError, match="megapixels"):
        decode(encoded(red(size=(100, 101)), "PNG"), max_pixels=10_000)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_any_damage_is_one_reason_and_no_crash(kind: str) -> None:
    rng = np.random.default_rng(7)
    whole = np.frombuffer(encoded(quadrants(), kind), np.uint8)
    outcomes = {"read": 0, "reason": 0}
    for _ in range(300):
        damaged = whole[: rng.integers(1, len(whole) + 1)].copy()
        damaged[rng.integers(0, len(damaged), rng.integers(1, 8))] = rng.integers(0, 256)
        try:
            assert decode(damaged.tobytes(), 16, 1_000_000).shape == (16, 16, 3)
            outcomes["read"] += 1
        except ImageError as error:
            assert str(error)
            outcomes["reason"] += 1
    assert outcomes["reason"] > 0


def with_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is there so many times more, between a thumbnail and a film."""
    thumbnail = encoded(noise(), "JPEG", progressive=True)
    data = encoded(quadrants(), "JPEG", progressive=True, exif=b"Exif\0\0" + thumbnail)
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[last:end] * count + data[end:] + b"\xff\xda\0\2film" * 200


def test_a_jpeg_that_asks_for_hours_is_refused_and_what_is_beside_it_not_counted() -> None:
    assert decode(with_scans(40)).shape == (32, 32, 3)
    with pytest.raises(ImageError, match="a JPEG with more than 100 scans"):
        decode(with_scans(100))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bombs() -> dict[str, bytes]:
    """Small files that ask for gigabytes when they are decoded without a look at their header."""
    jpeg = bytearray(encoded(red(), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65_000, 65_000)
    gif, bmp = bytearray(encoded(red("P"), "GIF")), bytearray(encoded(red(), "BMP"))
    gif[6:10] = struct.pack("<HH", 65_000, 65_000)
    bmp[18:26] = struct.pack("<ii", 65_000, 65_000)
    png = encoded(red(), "PNG")
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(900_000_000), 9))
    return {
        "png": bomb(),
        "jpeg": bytes(jpeg),
        "gif": bytes(gif),
        "bmp": bytes(bmp),
        "text": png[:33] + text + png[33:],
        "profile": png[:33] + chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(900_000_000), 9)) + png[33:],
    }


LIMITED = """
import resource, sys
from pathlib import Path
from PIL import Image
from coreset_backend.arrays import Resize
from coreset_backend.errors import ImageError
from coreset_backend.decoding import decoded_pixels
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 256_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sys.argv[1:]:
    data = Path(path).read_bytes()
    try:
        print(Path(path).name, decoded_pixels(data, Resize(32), 50_000_000).shape)
    except ImageError as error:
        print(Path(path).name, "refused:", error)
Image.MAX_IMAGE_PIXELS = None
try:
    Image.open(sys.argv[1]).convert("RGB").load()
except MemoryError:
    print("the limit holds")
"""


@pytest.mark.slow
def test_no_bomb_costs_more_memory_than_the_largest_image_allowed(tmp_path: Path) -> None:
    """In a process that gets 256 MB each is a reason or a picture, and the next is read all the same."""
    files = bombs() | {"large": encoded(Image.new("RGB", (7_000, 7_000), RED), "PNG")}
    assert all(len(data) < 2_000_000 for data in files.values())
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    told = subprocess.run(
        [sys.executable, "-c", LIMITED, *(tmp_path / name for name in files)], capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    *lines, control = told.stdout.splitlines()
    assert control == "the limit holds"
    said = dict(line.split(" ", 1) for line in lines)
    assert said["large"] == "(32, 32, 3)"
    assert all(said[name].startswith(("refused: ", "(32, 32, 3)")) for name in files)
    assert all("megapixels" in said[name] for name in ("png", "jpeg", "gif", "bmp"))


def cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def photograph(size: tuple[int, int] = (320, 240)) -> Image.Image:
    rng = np.random.default_rng(1)
    return Image.fromarray(rng.integers(30, 220, (12, 16, 3), np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_end_is_read_as_browsers_do(mode: str, progressive: bool) -> None:
    whole = encoded(photograph().convert(mode), "JPEG", progressive=progressive, quality=90)
    read = decode(whole).astype(int)
    np.testing.assert_array_equal(decode(whole[:-2]), read)
    np.testing.assert_array_equal(decode(whole[:-1]), read)
    most = decode(cut(whole, 0.8)).astype(int)
    assert abs(most[:20] - read[:20]).mean() < 8
    if not progressive:
        np.testing.assert_allclose(most[-3:], 128, atol=2)


def test_a_jpeg_of_which_little_is_there_is_named_cut_off() -> None:
    for progressive in (False, True):
        whole = encoded(photograph(), "JPEG", progressive=progressive, quality=90)
        share = 0.3 if not progressive else (whole.index(b"\xff\xda") + 40) / len(whole)
        with pytest.raises(ImageError, match=r"it contains only .*% of its rows"):
            decode(cut(whole, share))


def test_a_night_without_an_end_marker_is_no_missing_row() -> None:
    dark = Image.new("RGB", (320, 240), BLACK)
    dark.paste(RED, (0, 0, 320, 60))
    for kind in ("JPEG", "PNG"):
        whole = encoded(dark, kind)
        np.testing.assert_array_equal(decode(whole[:-2]), decode(whole))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_a_png_without_its_end_is_read_as_browsers_do(mode: str) -> None:
    whole = encoded(photograph().convert(mode), "PNG")
    read = decode(whole).astype(int)
    np.testing.assert_array_equal(decode(whole[:-12]), read)  # no IEND
    most = decode(cut(whole, 0.8)).astype(int)
    np.testing.assert_array_equal(most[:20], read[:20])
    with pytest.raises(ImageError, match=r"it contains only .*% of its rows"):
        decode(cut(whole, 0.3))


def with_chunk(png: bytes, kind: bytes, data: bytes) -> bytes:
    return png[:33] + chunk(kind, data) + png[33:]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (b"iCCP", lambda: b"profile\0\0" + zlib.compress(np.random.default_rng(0).bytes(3_000_000))),
        (b"iCCP", lambda: b"no profile"),
        (b"iTXt", lambda: b"XML:com.adobe.xmp\0\0\0\0\0" + b"x" * 3_000_000),
        (b"zTXt", lambda: b"Comment\0\0" + zlib.compress(bytes(90_000_000))),
        (b"tEXt", lambda: b"x" * 80_000_000),
        (b"sRGB", lambda: b""),
        (b"acTL", lambda: b"\0"),
        (b"pHYs", lambda: b"\1"),
    ],
)
def test_what_is_beside_the_picture_of_a_png_costs_it_nothing(kind: bytes, data: Callable[[], bytes]) -> None:
    png = encoded(quadrants(), "PNG")
    np.testing.assert_array_equal(decode(with_chunk(png, kind, data())), decode(png))


def test_a_png_with_a_wrong_checksum_beside_its_picture_is_read() -> None:
    png = with_chunk(encoded(quadrants(), "PNG"), b"tEXt", b"Comment\0hello")
    place = png.index(b"hello")
    np.testing.assert_array_equal(decode(png[:place] + b"HELLO" + png[place + 5 :]), decode(png))


def tiff_of(array: NDArray[Any], bits: tuple[int, ...], number: int, photometric: int = 1) -> bytes:
    """An uncompressed TIFF of one strip that holds ``array``, [h, w] or [h, w, bands], as it is."""
    height, width, bands = (*array.shape, 1)[:3]
    shorts = struct.pack(f"<{len(bits)}H", *bits)
    formats = struct.pack(f"<{len(bits)}H", *[number] * len(bits))
    start = 8 + 2 + 12 * 10 + 4
    place = start + 64
    data = array.tobytes()

    def value(numbers: bytes, offset: int) -> bytes:
        return numbers.ljust(4, b"\0") if len(numbers) <= 4 else struct.pack("<I", offset)

    tags = [
        (256, 4, 1, struct.pack("<I", width)),
        (257, 4, 1, struct.pack("<I", height)),
        (258, 3, len(bits), value(shorts, start)),
        (259, 3, 1, struct.pack("<HH", 1, 0)),
        (262, 3, 1, struct.pack("<HH", photometric, 0)),
        (273, 4, 1, struct.pack("<I", place)),
        (277, 3, 1, struct.pack("<HH", bands, 0)),
        (278, 4, 1, struct.pack("<I", height)),
        (279, 4, 1, struct.pack("<I", len(data))),
        (339, 3, len(bits), value(formats, start + 32)),
    ]
    entries = b"".join(struct.pack("<HHI", *tag[:3]) + tag[3] for tag in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return head + shorts.ljust(32, b"\0") + formats.ljust(32, b"\0") + data


@pytest.mark.parametrize(
    ("dtype", "bands", "number", "said"),
    [
        (np.float64, 1, 3, "1 band of 64 bits float"),
        (np.float16, 1, 3, "1 band of 16 bits float"),
        (np.uint64, 1, 1, "1 band of 64 bits"),
        (np.uint8, 5, 1, "5 bands of 8 bits"),
        (np.uint16, 5, 1, "5 bands of 16 bits"),
        (np.float32, 3, 3, "3 bands of 32 bits float"),
        (np.complex64, 1, 6, "1 band of 64 bits complex"),
    ],
)
def test_a_kind_of_tiff_that_is_not_read_is_named(dtype: Any, bands: int, number: int, said: str) -> None:
    array = np.ones((20, 30, bands), dtype)
    bits = (array.itemsize * 8,) * bands
    with pytest.raises(ImageError, match=rf"this kind of TIFF cannot be read \({said}"):
        decode(tiff_of(array, bits, number))
    if bands == 1:
        with pytest.raises(ImageError, match="damaged"):
            decode(tiff_of(array, bits, number)[:20])


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_photographs_of_phones(kind: str) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif")
    data = encoded(photograph(), kind, quality=90)
    np.testing.assert_allclose(
        decode(data).astype(int).mean((0, 1)),
        decode(encoded(photograph(), "PNG")).astype(int).mean((0, 1)),
        atol=6,
    )
    with pytest.raises(ImageError, match="damaged"):
        decode(cut(data, 0.5))


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"%PDF-1.7\n", "PDF document"),
        (b"8BPS\0\1" + bytes(200), "Photoshop"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(200), "JPEG 2000"),
        (b"\xff\x0a" + bytes(200), "JPEG XL"),
        (bytes(128) + b"DICM" + bytes(200), "DICOM"),
        (b"\0\0\0\x18ftypmp42" + bytes(200), "video"),
        (b"\0\0\0\x18ftypcrx " + bytes(200), "raw photograph"),
        (b"PK\x03\x04" + bytes(200), "archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), "supported are JPEG"),
    ],
)
def test_what_is_no_image_is_called_by_its_name(start: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=f"not a supported image.*{said}"):
        decode(start)


def test_kinds_of_jpeg_that_are_not_read_are_named() -> None:
    jpeg = bytearray(encoded(red(), "JPEG"))
    jpeg[jpeg.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(ImageError, match=r"this kind of JPEG cannot be read \(12 bits\)"):
        decode(bytes(jpeg))
    lossless = encoded(red(), "JPEG").replace(b"\xff\xc0", b"\xff\xc3", 1)
    with pytest.raises(ImageError, match=r"this kind of JPEG cannot be read \(lossless"):
        decode(lossless)


def test_a_camera_s_largest_photographs_are_read_at_a_part_of_their_size() -> None:
    """108 megapixels, as phones write them, in one child's memory; a PNG cannot be read in part."""
    large = encoded(photograph().resize((12_000, 9_000)), "JPEG", quality=80)
    costs: list[int] = []
    pixels = decoded_pixels(large, Resize(64), 50_000_000, lambda _, cost: costs.append(cost))
    small = decode(encoded(photograph(), "PNG"), 64)
    assert abs(pixels.astype(int) - small).mean() < 3
    assert costs[0] < 20_000_000
    with pytest.raises(
        ImageError, match=r"108 megapixels, more than the 50 allowed \(CORESET_IMAGE_MEGAPIXELS"
    ):
        decode(png_header(12_000, 9_000))
