"""The images of a pool: all of them fetched side by side, read by rows."""

import itertools
import logging
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx
import numpy as np
from numpy.typing import NDArray

from coreset_backend.addresses import Resolve, address_guard, resolved_addresses
from coreset_backend.errors import ConfigError, ImageError, TooManyImageFailures
from coreset_backend.images.cache import PixelCache
from coreset_backend.images.decode import DECODER, decoded_pixels
from coreset_backend.images.sources import Site, read_image_bytes, shown_uri, uri_digest
from coreset_backend.images.wire import Limits, Wire

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
Array = NDArray[np.uint8]

SMALL = 64  # pixels a side; up to here a pool of 100,000 takes 1.2 GB and lives in memory
_WAITING = 4  # jobs in the queue per thread
_KEPT_BYTES = 1 << 30  # pixels that found no room on disk, held in memory up to here
_NO_IMAGE = "the task has no image in this field"


@dataclass(frozen=True, slots=True)
class ImageFailure:
    """A task whose image cannot be used. ``uri`` is fit to be shown: no password, no signature."""

    task_id: int
    uri: str | None
    reason: str


class PixelRows(Protocol):
    """Pixels by rows, which a plain uint8[n, size, size, 3] array is too."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | NDArray[np.int64], /) -> Array: ...


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One image to read: where it is, its key in the cache, and the rows of the given tasks showing it."""

    task_id: int
    uri: str
    key: str
    rows: list[int]


class Pixels:
    """The readable tasks' pixels, read-only, in the order of the given tasks.

    ``task_ids`` is int64[n]; ``pixels[rows]`` is uint8[len(rows), size, size, 3] for a slice or int64 rows
    (a row is a position in ``task_ids``). Small pools are one array; others are read from the cache.
    Raises ``ImageError`` in the rare case that an entry was lost and its image can no longer be fetched.
    """

    def __init__(self, task_ids: NDArray[np.int64], rows: PixelRows) -> None:
        self.task_ids, self._rows = task_ids, rows

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._rows.shape)

    def __len__(self) -> int:
        return len(self.task_ids)

    def __getitem__(self, rows: slice | NDArray[np.int64], /) -> Array:
        return self._rows[rows]


class _CachedRows:
    """Pixels that stay on disk until they are asked for."""

    def __init__(self, images: "Images", wanted: list[_Wanted], size: int, kept: dict[str, Array]) -> None:
        self._images, self._wanted, self._size, self._kept = images, wanted, size, kept

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._wanted), self._size, self._size, 3)

    def __len__(self) -> int:
        return len(self._wanted)

    def __getitem__(self, rows: slice | NDArray[np.int64], /) -> Array:
        chosen = np.arange(len(self))[rows]
        pixels = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        for place, row in enumerate(chosen):
            wanted = self._wanted[row]
            kept = self._kept.get(wanted.key)
            pixels[place] = self._images.read(wanted, self._size) if kept is None else kept
        return pixels


@dataclass(slots=True)
class _Haul:
    """What a fetch has so far, by key: ``pixels`` held in memory, ``reasons`` of what failed."""

    pixels: dict[str, Array]
    reasons: dict[str, str]


class Images:
    """Open doors to images: one HTTP client, one cache. Made by ``open_images``."""

    def __init__(
        self, site: Site, cache: PixelCache, limits: Limits, threads: int, max_failed_share: float
    ) -> None:
        self._site, self._cache, self._limits = site, cache, limits
        self._threads, self._max_failed_share = threads, max_failed_share

    def fetch(
        self, tasks: Iterable[tuple[int, str | None]], size: int, progress: Progress | None = None
    ) -> tuple[Pixels, list[ImageFailure]]:
        """Read the image of every (task_id, uri) at ``size`` x ``size`` pixels.

        ``progress(done, total)`` counts tasks; what it raises ends the fetch. Images that fail are in the
        list, in the order of the tasks; raises ``TooManyImageFailures`` when they are too many.
        """
        given = list(tasks)
        started_ns = time.time_ns()
        self._site.wire.forget_silent_hosts()
        wanted = self._wanted_images(given, size)
        done = len(given) - sum(len(image.rows) for image in wanted)
        haul = _Haul({}, {})
        missing = []
        for image in wanted:
            if self._found(image, size, haul):
                done += len(image.rows)
            else:
                missing.append(image)
        for image in self._read_all(missing, size, started_ns, haul):
            done += len(image.rows)
            if progress:
                progress(done, len(given))
        if progress and not missing:
            progress(done, len(given))
        return self._result(given, wanted, size, haul)

    def check(self, task_id: int, uri: str | None) -> ImageError | None:
        """Fetch and decode one image past the cache; the ``ImageError`` that it met, or ``None``."""
        try:
            self._fetched_pixels(task_id, uri or "", SMALL)
        except ImageError as error:
            return error
        return None

    def close(self) -> None:
        """Close all connections."""
        self._site.wire.close()

    def read(self, image: _Wanted, size: int) -> Array:
        """uint8[size, size, 3] from the cache, or fetched again when it is gone from there."""
        found = self._cache.read(image.key, size)
        if found is not None:
            return found
        pixels = self._fetched_pixels(image.task_id, image.uri, size)
        self._cache.write(image.key, pixels, in_use_since_ns=0)
        return pixels

    def _wanted_images(self, given: Sequence[tuple[int, str | None]], size: int) -> list[_Wanted]:
        """One entry per image: tasks that show the same URI share it."""
        by_key: dict[str, _Wanted] = {}
        for row, (task_id, uri) in enumerate(given):
            if uri:
                key = uri_digest(self._site, uri, size, DECODER)
                by_key.setdefault(key, _Wanted(task_id, uri, key, [])).rows.append(row)
        return list(by_key.values())

    def _found(self, image: _Wanted, size: int, haul: _Haul) -> bool:
        if not self._cache.has(image.key, size):
            return False
        if size > SMALL:
            return True  # read, and its hash checked, when the row is asked for
        pixels = self._cache.read(image.key, size)
        if pixels is not None:
            haul.pixels[image.key] = pixels
        return pixels is not None

    def _read_all(self, missing: list[_Wanted], size: int, started_ns: int, haul: _Haul) -> Iterator[_Wanted]:
        """Fetch ``missing`` side by side into the cache and ``haul``; yields each image when it is done."""
        room = _KEPT_BYTES
        for image, outcome in self._outcomes(missing, size, started_ns):
            if isinstance(outcome, ImageError):
                haul.reasons[image.key] = str(outcome)
                logger.warning("Task %d: %s: %s", image.task_id, shown_uri(image.uri), outcome)
            elif outcome is not None and (size <= SMALL or room >= outcome.nbytes):
                haul.pixels[image.key] = outcome
                room -= 0 if size <= SMALL else outcome.nbytes
            yield image

    def _outcomes(
        self, missing: list[_Wanted], size: int, started_ns: int
    ) -> Iterator[tuple[_Wanted, Array | ImageError | None]]:
        """(image, pixels to hold in memory or the reason or ``None`` when it is safe on disk)."""
        rest = iter(missing)
        threads = ThreadPoolExecutor(self._threads, thread_name_prefix="images")

        def start(count: int) -> dict[Future[Array | ImageError | None], _Wanted]:
            return {
                threads.submit(self._outcome, image, size, started_ns): image
                for image in itertools.islice(rest, count)
            }

        running = start(self._threads * _WAITING)
        try:
            while running:
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield running.pop(future), future.result()
                running |= start(len(finished))
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _outcome(self, image: _Wanted, size: int, started_ns: int) -> Array | ImageError | None:
        try:
            pixels = self._fetched_pixels(image.task_id, image.uri, size)
        except ImageError as error:
            return error
        stored = self._cache.write(image.key, pixels, started_ns)
        return None if stored and size > SMALL else pixels

    def _fetched_pixels(self, task_id: int, uri: str, size: int) -> Array:
        if not uri:
            raise ImageError(_NO_IMAGE)
        data = read_image_bytes(self._site, task_id, uri)
        return decoded_pixels(data, size, self._limits.max_pixels)

    def _result(
        self, given: Sequence[tuple[int, str | None]], wanted: list[_Wanted], size: int, haul: _Haul
    ) -> tuple[Pixels, list[ImageFailure]]:
        by_row = {row: image for image in wanted for row in image.rows}
        readable: list[tuple[int, _Wanted]] = []
        failures: list[ImageFailure] = []
        for row, (task_id, uri) in enumerate(given):
            image = by_row.get(row)
            reason = _NO_IMAGE if image is None else haul.reasons.get(image.key)
            if image is not None and reason is None:
                readable.append((task_id, image))
            else:
                failures.append(ImageFailure(task_id, shown_uri(uri) if uri else None, reason or _NO_IMAGE))
        if len(failures) > self._max_failed_share * len(given):
            raise TooManyImageFailures(len(failures) / len(given), failures[0].reason)
        images = [image for _, image in readable]
        rows = self._small_array(images, size, haul) if size <= SMALL else self._on_disk(images, size, haul)
        return Pixels(np.array([task_id for task_id, _ in readable], np.int64), rows), failures

    def _small_array(self, images: list[_Wanted], size: int, haul: _Haul) -> Array:
        array = np.empty((len(images), size, size, 3), np.uint8)
        for row, image in enumerate(images):
            array[row] = haul.pixels[image.key]
        array.flags.writeable = False
        return array

    def _on_disk(self, images: list[_Wanted], size: int, haul: _Haul) -> _CachedRows:
        return _CachedRows(self, images, size, haul.pixels)


def open_images(
    *,
    label_studio_url: str,
    auth: httpx.Auth | None,
    cache_dir: Path,
    cache_bytes: int = 20_000_000_000,
    allowed_hosts: Sequence[str] = (),
    local_files_root: Path | None = None,
    verify: bool | ssl.SSLContext = True,
    limits: Limits | None = None,
    max_failed_share: float = 0.5,
    threads: int = 16,
    spare_bytes: int = 1_000_000_000,
    resolve: Resolve = resolved_addresses,
) -> Images:
    """Open the doors to images; nothing is fetched yet.

    ``auth`` must be safe to use from several threads. ``allowed_hosts`` are names and networks that may be
    read though they are not public. ``local_files_root`` is Label Studio's LOCAL_FILES_DOCUMENT_ROOT where
    this machine shares it. ``verify`` is false for no check of certificates or an ``ssl.SSLContext``.
    ``cache_dir`` holds at most ``cache_bytes``, and ``spare_bytes`` of its disk stay free. A fetch of
    which more than ``max_failed_share`` fails is an error. Raises ``ConfigError``.
    """
    limits = limits or Limits()
    url = _label_studio_url(label_studio_url)
    port = url.port or (443 if url.scheme == "https" else 80)
    guard = address_guard((url.raw_host.decode("ascii"), port), allowed_hosts, resolve)
    wire = Wire(url, auth, guard, limits, verify, connections=threads)
    site = Site(url, local_files_root, wire, limits.max_bytes)
    return Images(site, PixelCache(cache_dir, cache_bytes, spare_bytes), limits, threads, max_failed_share)


def _label_studio_url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ConfigError(f"LABEL_STUDIO_URL is {text!r}, which is no valid address") from error
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query:
        raise ConfigError(
            f"LABEL_STUDIO_URL is {shown_uri(text)!r}; expected http(s)://host[:port][/path] and no more"
        )
    return url.copy_with(fragment=None)
