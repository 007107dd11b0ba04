"""The images of a pool: all of them fetched side by side, read by rows."""

import itertools
import logging
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx
import numpy as np
from numpy.typing import NDArray

from coreset_backend.addresses import Resolve, address_guard, resolved_addresses
from coreset_backend.decoding import DECODER, Decoders
from coreset_backend.errors import (
    ConfigError,
    CoresetError,
    ImageError,
    TooManyImageFailures,
    memory_ran_out,
)
from coreset_backend.images.cache import PixelCache
from coreset_backend.images.own_addresses import OwnAddresses
from coreset_backend.images.sources import Site, read_image_bytes, shown_uri, uri_digest
from coreset_backend.images.wire import NO_PROXIES, Limits, Wire, checked_url, port_of
from coreset_backend.outbound import Proxies

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
    ``keys`` is uint8[n, 32]: each image's key in the cache.
    """

    def __init__(self, task_ids: NDArray[np.int64], keys: Array, rows: PixelRows) -> None:
        self.task_ids, self.keys, self._rows = task_ids, keys, rows

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


class _Haul:
    """What a fetch of ``count`` tasks has so far.

    ``small`` is uint8[count, size, size, 3], filled by rows, where pools of this size live in memory, else
    ``None``. ``kept`` are pixels that found no room on disk and ``reasons`` what failed, both by key.
    """

    def __init__(self, count: int, size: int) -> None:
        self.small = np.empty((count, size, size, 3), np.uint8) if size <= SMALL else None
        self.kept: dict[str, Array] = {}
        self.reasons: dict[str, str] = {}
        self._room = _KEPT_BYTES
        self._lock = threading.Lock()

    def keep(self, image: _Wanted, pixels: Array, stored: bool) -> None:
        """Take the ``pixels`` of ``image``, uint8[size, size, 3], unless they are safe on disk."""
        if self.small is not None:
            self.small[image.rows] = pixels
        elif not stored:
            with self._lock:
                if self._room >= pixels.nbytes:
                    self.kept[image.key] = pixels
                    self._room -= pixels.nbytes

    def small_rows(self, rows: list[int]) -> Array | None:
        """``small`` reduced to ``rows`` (ascending) in place, read-only: no second copy in memory."""
        if self.small is None:
            return None
        for place, row in enumerate(rows):
            if place != row:
                self.small[place] = self.small[row]
        reduced = self.small[: len(rows)]
        reduced.flags.writeable = False
        return reduced


class Images:
    """Open doors to images: one HTTP client, one cache. Made by ``open_images``."""

    def __init__(
        self, site: Site, cache: PixelCache, limits: Limits, threads: int, max_failed_share: float
    ) -> None:
        self._site, self._cache, self._limits = site, cache, limits
        self._threads, self._max_failed_share = threads, max_failed_share
        own = str(site.own.url).rstrip("/")
        self._usual_starts = ("", own, site.own.url.path.rstrip("/"))
        self._decoders = Decoders(limits.max_pixels)

    def fetch(
        self, tasks: Iterable[tuple[int, str | None]], size: int, progress: Progress | None = None
    ) -> tuple[Pixels, list[ImageFailure]]:
        """Read the image of every (task_id, uri) at ``size`` x ``size`` pixels.

        ``progress(done, total)`` counts tasks; what it raises ends the fetch. Images that fail are in the
        list, in the order of the tasks. Raises ``TooManyImageFailures`` when they are too many, and what
        ``auth`` raises when Label Studio no longer takes the token.
        """
        given = [(task_id, (uri or "").strip()) for task_id, uri in tasks]
        started_ns = time.time_ns()
        self._site.wire.forget_silent_hosts()
        self._decoders.warnings = 0
        haul = _Haul(len(given), size)
        self._say_what_is_mapped(uri for _, uri in given)
        wanted = self._wanted_images(given, size)
        missing = [image for image in wanted if not self._found(image, size, haul)]
        done = len(given) - sum(len(image.rows) for image in missing)
        if progress:
            progress(done, len(given))
        try:
            for image in self._read_all(missing, size, started_ns, haul):
                done += len(image.rows)
                if progress:
                    progress(done, len(given))
        finally:
            self._decoders.rest()
        if self._decoders.warnings:
            logger.info("Decoders of images warned %d times", self._decoders.warnings)
        return self._result(given, wanted, size, haul)

    def check(self, task_id: int, uri: str | None) -> ImageError | None:
        """Fetch and decode one image past the cache; the ``ImageError`` that it met, or ``None``."""
        try:
            self._fetched_alone(task_id, (uri or "").strip(), SMALL)
        except ImageError as error:
            return error
        finally:
            self._decoders.rest()
        return None

    def mapped(self, uri: str | None) -> str | None:
        """The host or sub-path in ``uri`` that LABEL_STUDIO_URL replaces; ``None`` where it does not."""
        uri = (uri or "").strip()
        path = self._site.own.path_of(uri)
        start = uri.removesuffix(path) if path else ""
        return None if start in self._usual_starts else shown_uri(start)

    def close(self) -> None:
        """Close all connections and end the processes that decode."""
        self._site.wire.close()
        self._decoders.rest()

    def read(self, image: _Wanted, size: int) -> Array:
        """uint8[size, size, 3] from the cache, or fetched again when it is gone from there."""
        found = self._cache.read(image.key, size)
        if found is not None:
            return found
        pixels = self._fetched_alone(image.task_id, image.uri, size)
        self._cache.write(image.key, pixels, in_use_since_ns=0)
        return pixels

    def _say_what_is_mapped(self, uris: Iterable[str]) -> None:
        starts = Counter(start for uri in uris if (start := self.mapped(uri)))
        for start, count in starts.items():
            logger.info("%d images at %s are read from Label Studio at %s", count, start, self._site.own.url)

    def _wanted_images(self, given: Sequence[tuple[int, str]], size: int) -> list[_Wanted]:
        """One entry per image: tasks that show the same URI share it."""
        by_key: dict[str, _Wanted] = {}
        for row, (task_id, uri) in enumerate(given):
            if uri:
                key = uri_digest(self._site, uri, size, DECODER)
                by_key.setdefault(key, _Wanted(task_id, uri, key, [])).rows.append(row)
        return list(by_key.values())

    def _found(self, image: _Wanted, size: int, haul: _Haul) -> bool:
        if size > SMALL:
            return self._cache.has(image.key, size)  # its hash is checked when the row is asked for
        pixels = self._cache.read(image.key, size) if self._cache.has(image.key, size) else None
        if pixels is not None:
            haul.keep(image, pixels, stored=True)
        return pixels is not None

    def _read_all(
        self, missing: Iterable[_Wanted], size: int, started_ns: int, haul: _Haul
    ) -> Iterator[_Wanted]:
        """Fetch ``missing`` side by side into the cache and ``haul``; yields each image when it is done."""
        waiting = iter(missing)
        threads = ThreadPoolExecutor(self._threads, thread_name_prefix="images")

        def start(count: int) -> dict[Future[None], _Wanted]:
            some = itertools.islice(waiting, count)
            return {threads.submit(self._read_one, image, size, started_ns, haul): image for image in some}

        running = start(self._threads * _WAITING)
        try:
            while running:
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                    yield running.pop(future)
                running |= start(len(finished))
        finally:
            # Not waited for: who cancels a round should not wait for the slowest server.
            threads.shutdown(wait=False, cancel_futures=True)

    def _read_one(self, image: _Wanted, size: int, started_ns: int, haul: _Haul) -> None:
        try:
            pixels = self._fetched_pixels(image.task_id, image.uri, size)
        except ImageError as error:
            haul.reasons[image.key] = str(error)
            logger.info("Task %d: %s: %s", image.task_id, shown_uri(image.uri), error)
        else:
            haul.keep(image, pixels, self._cache.write(image.key, pixels, started_ns))

    def _fetched_alone(self, task_id: int, uri: str, size: int) -> Array:
        # In a thread of its own, as all images are read: what ends a round is raised in the caller's.
        thread = ThreadPoolExecutor(1, thread_name_prefix="images")
        try:
            return thread.submit(self._fetched_pixels, task_id, uri, size).result()
        finally:
            thread.shutdown(wait=False)

    def _fetched_pixels(self, task_id: int, uri: str, size: int) -> Array:
        """uint8[size, size, 3]; raises ``ImageError``, or what concerns more than one image.

        The latter is a refused token, and memory that ran out.
        """
        if not uri:
            raise ImageError(_NO_IMAGE)
        try:
            with self._site.wire.files.one_file():
                return self._decoders.pixels(read_image_bytes(self._site, task_id, uri), size)
        except CoresetError:
            raise
        except Exception as error:
            if memory_ran_out(error):
                raise
            logger.exception("Task %d: an error that nobody foresaw", task_id)
            raise ImageError(f"reading it failed in a way nobody foresaw ({type(error).__name__})") from error

    def _result(
        self, given: Sequence[tuple[int, str]], wanted: list[_Wanted], size: int, haul: _Haul
    ) -> tuple[Pixels, list[ImageFailure]]:
        readable = {row: image for image in wanted if image.key not in haul.reasons for row in image.rows}
        reasons = {row: haul.reasons.get(image.key) for image in wanted for row in image.rows}
        failures = [
            ImageFailure(task_id, shown_uri(uri) if uri else None, reasons.get(row) or _NO_IMAGE)
            for row, (task_id, uri) in enumerate(given)
            if row not in readable
        ]
        self._refuse_torn_pool(failures, len(given))
        rows = sorted(readable)
        task_ids = np.array([given[row][0] for row in rows], np.int64)
        shown = [readable[row] for row in rows]
        keys = np.frombuffer(bytes.fromhex("".join(image.key for image in shown)), np.uint8).reshape(-1, 32)
        small = haul.small_rows(rows)
        pixels: PixelRows = _CachedRows(self, shown, size, haul.kept) if small is None else small
        return Pixels(task_ids, keys, pixels), failures

    def _refuse_torn_pool(self, failures: Sequence[ImageFailure], count: int) -> None:
        if not failures:
            return
        logger.warning(
            "%d of %d images cannot be used; the first: %s", len(failures), count, failures[0].reason
        )
        if len(failures) > self._max_failed_share * count:
            raise TooManyImageFailures(len(failures) / count, failures[0].reason)


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
    browser_url: str | None = None,
    proxies: Proxies = NO_PROXIES,
) -> Images:
    """Open the doors to images; nothing is fetched yet.

    ``auth`` must be safe to use from several threads. ``allowed_hosts`` are names and networks that may be
    read though they are not public. ``local_files_root`` is Label Studio's LOCAL_FILES_DOCUMENT_ROOT where
    this machine shares it. ``verify`` is false for no check of certificates or an ``ssl.SSLContext``.
    ``browser_url`` is Label Studio's address in browsers, which tasks may hold. ``cache_dir`` holds at most
    ``cache_bytes``, and ``spare_bytes`` of its disk stay free. A fetch of which more than
    ``max_failed_share`` fails is an error. Raises ``ConfigError``.
    """
    limits = limits or Limits()
    url = _label_studio_url("LABEL_STUDIO_URL", label_studio_url)
    shown = _label_studio_url("CORESET_LABEL_STUDIO_BROWSER_URL", browser_url) if browser_url else url
    guard = address_guard((url.raw_host.decode("ascii"), port_of(url)), allowed_hosts, resolve)
    wire = Wire(url, auth, guard, limits, verify, threads, proxies)
    site = Site(OwnAddresses(url, shown, guard.is_allowed), local_files_root, wire, limits.max_bytes)
    return Images(site, PixelCache(cache_dir, cache_bytes, spare_bytes), limits, threads, max_failed_share)


def _label_studio_url(setting: str, text: str) -> httpx.URL:
    try:
        url = checked_url(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise ConfigError(f"{setting} is {text!r}, which is no valid address") from error
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query:
        raise ConfigError(
            f"{setting} is {shown_uri(text)!r}; expected http(s)://host[:port][/path] and no more"
        )
    return url
