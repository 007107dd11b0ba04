"""Which images of a pool must be read: those that are not cached, and those whose file may have changed."""

import hashlib
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from coreset_backend.arrays import KeyRows, Resize
from coreset_backend.decoding import DECODER
from coreset_backend.images.cache import PixelCache
from coreset_backend.images.pixels import FetchResults, Wanted
from coreset_backend.images.revisions import Revisions, due
from coreset_backend.images.sources import Site, address_digest, local_validator

_AT_ONCE = 10_000
"""Images that are looked for at once; of those that need not be read only the keys are kept."""


class Lookup:
    """Looks for images in the cache, and for files that have changed."""

    def __init__(self, site: Site, cache: PixelCache, revisions: Revisions, threads: int) -> None:
        self._site, self._cache, self._revisions, self._threads = site, cache, revisions, threads

    def to_read(
        self, given: Sequence[tuple[int, str]], known: KeyRows | None, results: FetchResults
    ) -> tuple[list[Wanted], int]:
        """The images that are not cached, and those whose file may have changed; and how many are not known.

        Of the others only the keys are kept: a million entries would take a gigabyte.
        """
        missing: list[Wanted] = []
        suspects: list[Wanted] = []
        changed: set[str] = set()
        unknown = 0
        for images in self._wanted_images(given, known, results):
            cached = [image for image in images if image.is_cached]
            altered = self._changed_files(cached)
            may_be_due = _due(cached, results)
            missing += [image for image in images if not image.is_cached]
            suspects += [image for image in cached if image.address in altered | may_be_due]
            changed |= altered
            unknown += sum(not image.is_known for image in images)
        asked = changed | _due(suspects, results)
        return [*missing, *(image for image in suspects if image.address in asked)], unknown

    def _wanted_images(
        self, given: Sequence[tuple[int, str]], known: KeyRows | None, results: FetchResults
    ) -> Iterator[list[Wanted]]:
        """One entry per image, looked for in the cache; tasks with the same address share it. In parts."""
        first: dict[bytes, int] = {}
        others: dict[int, list[int]] = {}
        for row, (_, uri) in enumerate(given):
            if uri:
                before = first.setdefault(bytes.fromhex(address_digest(self._site, uri)), row)
                if before != row:
                    others.setdefault(before, []).append(row)
        addresses = iter(first.items())
        while part := list(itertools.islice(addresses, _AT_ONCE)):
            wanted = {
                address.hex(): Wanted(*given[row], address.hex(), [row, *others.get(row, ())])
                for address, row in part
            }
            self._look_for(wanted, known, results)
            yield list(wanted.values())

    def _look_for(self, wanted: Mapping[str, Wanted], known: KeyRows | None, results: FetchResults) -> None:
        for address, seen in self._revisions.seen(wanted).items():
            wanted[address].seen, wanted[address].key = seen, pixel_key(seen.content, results.resize)
        images = [image for image in wanted.values() if image.key]
        if known and images:
            keys = np.frombuffer(bytes.fromhex("".join(image.key for image in images)), np.uint8)
            for image, row in zip(images, known.find(keys.reshape(-1, 32)), strict=True):
                image.is_known = row >= 0
        for image in images:
            image.is_cached = image.is_known or self._found(image, results)
            if image.is_cached:
                results.note_key(image)

    def _changed_files(self, images: Sequence[Wanted]) -> set[str]:
        """Addresses of the local files that have changed."""

        def changed(some: Sequence[Wanted]) -> set[str]:
            now = ((image, local_validator(self._site, image.uri)) for image in some)
            return {
                image.address
                for image, validator in now
                if validator is not None and image.seen and validator != image.seen.validator
            }

        with ThreadPoolExecutor(self._threads, thread_name_prefix="images") as threads:
            parts = [images[start : start + 500] for start in range(0, len(images), 500)]
            return set[str]().union(*threads.map(changed, parts))

    def _found(self, image: Wanted, results: FetchResults) -> bool:
        size = results.resize.size
        if not image.key:
            return False
        if results.small is None:
            return self._cache.has(image.key, size)  # its hash is checked when the row is asked for
        pixels = self._cache.read(image.key, size) if self._cache.has(image.key, size) else None
        if pixels is not None:
            results.keep(image, pixels, stored=True)
        return pixels is not None


def _due(images: Sequence[Wanted], results: FetchResults) -> set[str]:
    seen = {image.address: image.seen for image in images if image.seen}
    return due(seen, time.time(), results.refreshed_at)


def pixel_key(content: str, resize: Resize) -> str:
    """The cache key: SHA-256 of everything that determines the pixels; ``content`` is the file's SHA-256."""
    parts = [str(DECODER), str(resize.size), content]
    if resize.interpolation != "bilinear":  # once the only one, so that its keys stay as they were
        parts.append(resize.interpolation)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
