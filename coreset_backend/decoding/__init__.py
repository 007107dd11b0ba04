"""Bytes of an image file -> RGB pixels of one size, in child processes with limits. Only this room uses
Pillow's decoders.

    with Decoders(max_pixels=50_000_000) as decoders:
        pixels = decoders.pixels(data, Resize(224))      # uint8[224, 224, 3]

Whoever imports tasks provides the files, and decoders are C code. So a file is decoded in a process that has
no secret, writes no file, and is ended if it takes too much memory or time: the image fails, the round
continues. Imports only Pillow and numpy, because each child process loads this package.
"""

from coreset_backend.decoding.decoders import Decoders, MemoryBudget
from coreset_backend.decoding.pixels import DECODER, decoded_pixels

__all__ = ["DECODER", "Decoders", "MemoryBudget", "decoded_pixels"]
