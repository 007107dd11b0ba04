"""Bytes of an image file -> RGB pixels of one size, in child processes with limits. The only door to Pillow's
decoders.

    with Decoders(max_pixels=50_000_000) as decoders:
        pixels = decoders.pixels(data, size=224)        # uint8[224, 224, 3]

A file comes from whoever imports tasks, and its decoder is C code. So it is decoded in a process that
holds no secret, writes no file, and ends when it takes too much memory or time: one image is lost, no round.
Imports Pillow and numpy only: each child loads it.
"""

from coreset_backend.decoding.decoders import Decoders, MemoryBudget
from coreset_backend.decoding.pixels import DECODER, decoded_pixels

__all__ = ["DECODER", "Decoders", "MemoryBudget", "decoded_pixels"]
