"""A TIFF of more pixels than are allowed is read at a part of its size, where it has overviews or tiles."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from coreset_backend.arrays import Resize
from coreset_backend.decoding import decoded_pixels
from coreset_backend.errors import ImageError

ALLOWED = 200_000
SIDE = 64


def scene(width: int = 800, height: int = 600) -> np.ndarray:
    """uint8[height, width, 3]: a gradient across, another down, and a bright corner."""
    across = np.broadcast_to(np.linspace(0, 255, width), (height, width))
    down = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    picture = np.stack([across, down, np.full((height, width), 80.0)], axis=2).astype(np.uint8)
    picture[: height // 4, : width // 4] = 255
    return picture


def small(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BOX)).astype(int)


def tiled(
    picture: np.ndarray, *, tile: int = 128, prefix: bytes = b"II", pack: bool = True, no_data: str = ""
) -> bytes:
    """A tiled TIFF of uint8 or uint16 [h, w] or [h, w, 3], deflated if ``pack``."""
    height, width = picture.shape[:2]
    whole = np.zeros((-(-height // tile) * tile, -(-width // tile) * tile, *picture.shape[2:]), picture.dtype)
    whole[:height, :width] = picture
    order = "<" if prefix == b"II" else ">"
    bodies = [
        whole[top : top + tile, left : left + tile].astype(whole.dtype.newbyteorder(order)).tobytes()
        for top in range(0, len(whole), tile)
        for left in range(0, whole.shape[1], tile)
    ]
    bodies = [zlib.compress(body) for body in bodies] if pack else bodies
    colours = picture.ndim == 3
    tags = {
        256: width,
        257: height,
        258: (8 * picture.itemsize,) * (3 if colours else 1),
        259: 8 if pack else 1,
        262: 2 if colours else 1,
        277: 3 if colours else 1,
        322: tile,
        323: tile,
        325: tuple(map(len, bodies)),
    }
    if no_data:
        tags[42113] = no_data
    places = np.cumsum([0, *map(len, bodies)])[:-1]
    length = len(_directory(prefix, tags, places).tobytes(8))
    return b"".join([_header(prefix), _directory(prefix, tags, places + 8 + length).tobytes(8), *bodies])


def _directory(prefix: bytes, tags: dict[int, object], places: np.ndarray) -> ImageFileDirectory_v2:
    directory = ImageFileDirectory_v2(prefix=prefix)
    for tag, value in tags.items():
        directory[tag] = value
    directory.tagtype[324] = 4
    directory[324] = tuple(places.tolist())
    return directory


def _header(prefix: bytes) -> bytes:
    return b"II*\0\x08\0\0\0" if prefix == b"II" else b"MM\0*\0\0\0\x08"


@pytest.mark.parametrize("prefix", [b"II", b"MM"])
@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("shape", [(800, 600), (801, 603)])
def test_tiles_are_shrunk_one_by_one(prefix: bytes, pack: bool, shape: tuple[int, int]) -> None:
    picture = scene(*shape)
    pixels = decoded_pixels(tiled(picture, prefix=prefix, pack=pack), Resize(SIDE), ALLOWED)
    assert np.abs(pixels.astype(int) - small(picture)).mean() < 3


def test_tiles_of_sixteen_bits_use_the_whole_range() -> None:
    faint = (100 + scene()[:, :, 0].astype(np.uint16)).astype(np.uint16)
    pixels = decoded_pixels(tiled(faint), Resize(SIDE), ALLOWED)
    assert pixels.min() < 5 and pixels.max() > 250


def test_tiles_with_holes_use_the_whole_range_of_the_others() -> None:
    picture = (1000 + scene()[:, :, 0].astype(np.uint16)).astype(np.uint16)
    whole = decoded_pixels(tiled(picture), Resize(SIDE), ALLOWED).astype(int)
    picture[-200:, :301] = 0
    pixels = decoded_pixels(tiled(picture, no_data="0"), Resize(SIDE), ALLOWED)
    assert np.abs(pixels - whole)[:40].mean() < 2 and pixels[50:, :20].max() == 0


def test_the_smallest_overview_that_will_do_is_read() -> None:
    picture = Image.fromarray(scene())
    overviews = [picture.resize((800 >> power, 600 >> power)) for power in (1, 2, 3, 4)]
    overviews[2] = Image.new("RGB", overviews[2].size, "red")  # 100 x 75, the smallest with 64 pixels a side
    whole = io.BytesIO()
    for overview in overviews:
        overview.encoderinfo = {"tiffinfo": {254: 1}}
    picture.save(whole, "TIFF", save_all=True, append_images=overviews)
    pixels = decoded_pixels(whole.getvalue(), Resize(SIDE), ALLOWED)
    assert (pixels == [255, 0, 0]).all()


def test_other_pages_are_no_overviews_and_strips_are_refused() -> None:
    pages = io.BytesIO()
    other = Image.new("RGB", (400, 300), "red")
    Image.fromarray(scene()).save(pages, "TIFF", save_all=True, append_images=[other])
    with pytest.raises(ImageError, match=r"800x600 = 0 megapixels.*CORESET_IMAGE_MEGAPIXELS"):
        decoded_pixels(pages.getvalue(), Resize(SIDE), ALLOWED)


def test_there_is_a_bound_for_tiles_too() -> None:
    admitted = []
    picture = tiled(scene())
    decoded_pixels(picture, Resize(SIDE), ALLOWED, lambda pixels, cost: admitted.append((pixels, cost)))
    assert [pixels for pixels, _ in admitted] == [800 * 600]
    assert 0 < admitted[0][1] < 800 * 600 * 3
    with pytest.raises(ImageError, match="megapixels"):
        decoded_pixels(picture, Resize(SIDE), 800 * 600 // 17)


def test_a_tile_that_lies_outside_the_file_is_damage() -> None:
    with pytest.raises(ImageError, match="damaged"):
        decoded_pixels(tiled(scene())[:-20_000], Resize(SIDE), ALLOWED)
