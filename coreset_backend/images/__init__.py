"""A task's URI -> RGB pixels: fetched under guard, decoded, resized, cached.

    images = open_images(label_studio_url=…, auth=…, cache_dir=…, cache_bytes=…)
    pixels, failures = images.fetch(((task.task_id, task.uri) for task in tasks), Resize(224))
    pixels[0:64]                      # uint8[64, 224, 224, 3]

An image that cannot be read becomes an ``ImageFailure`` with a reason; the round continues without it.
"""

from coreset_backend.images.cache import CachedPixels
from coreset_backend.images.download import Limits
from coreset_backend.images.fetch import Images
from coreset_backend.images.opening import open_images
from coreset_backend.images.pixels import Pixels
from coreset_backend.images.sources import SOURCES, shown_uri

__all__ = [
    "SOURCES",
    "CachedPixels",
    "Images",
    "Limits",
    "Pixels",
    "open_images",
    "shown_uri",
]
