"""Fetches the images of a pool in parallel and reads their pixels by rows."""

import contextlib
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from coreset_backend.arrays import KeyRows, Progress, Resize, unwatched
from coreset_backend.decoding import Decoders
from coreset_backend.errors import (
    CoresetError,
    ImageError,
    TooManyImageFailures,
    memory_ran_out,
)
from coreset_backend.foreign_text import one_line
from coreset_backend.images.cache import PixelCache
from coreset_backend.images.download import Limits
from coreset_backend.images.lookup import Lookup, pixel_key
from coreset_backend.images.parallel import in_threads
from coreset_backend.images.pixels import SMALL, Array, CachedRows, FetchResults, Pixels, Wanted
from coreset_backend.images.revisions import Revisions, Seen
from coreset_backend.images.sources import Site, address_digest, read_image, shown_uri
from coreset_backend.reports import ImageFailure

logger = logging.getLogger(__name__)

REVISIONS = "revisions.sqlite3"
_NO_IMAGE = "the task has no image in this field"


class _Reading(NamedTuple):
    """A file that was read: SHA-256, validator, and pixels uint8[size, size, 3], None if it has
    not changed.
    """

    content: str
    validator: str
    pixels: Array | None


class Images:
    """Fetches images with one HTTP client and one cache. Created by ``open_images``."""

    def __init__(
        self,
        site: Site,
        cache: PixelCache,
        revisions: Revisions,
        limits: Limits,
        threads: int,
        max_failed_share: float,
    ) -> None:
        self._site, self._cache, self._revisions, self._limits = site, cache, revisions, limits
        self._threads, self._max_failed_share = threads, max_failed_share
        own = str(site.own.url).rstrip("/")
        self._usual_starts = ("", own, site.own.url.path.rstrip("/"))
        self._decoders = Decoders(limits.max_pixels)
        self._lookup = Lookup(site, cache, revisions, threads)

    def fetch(
        self,
        tasks: Iterable[tuple[int, str | None]],
        resize: Resize,
        progress: Progress = unwatched,
        *,
        known: KeyRows | None = None,
        more: bool = False,
        refreshed_at: float = 0.0,
    ) -> tuple[Pixels, list[ImageFailure]]:
        """Read the image of every (task_id, uri), resized as ``resize`` says.

        ``progress(done, total)`` counts tasks; an exception in it ends the fetch. The list has the failed
        images in the order of the tasks. ``known``: keys of images that are hardly needed any more: they are
        looked for only if their rows are asked for, unless their file has changed. ``more``: another
        fetch follows soon, so the processes that decode stay. ``refreshed_at``: images that were not checked
        since that refresh are checked. Raises ``TooManyImageFailures`` if too many fail, and the error of
        ``auth`` if Label Studio no longer accepts the token.
        """
        given = [(task_id, (uri or "").strip()) for task_id, uri in tasks]
        started_ns = time.time_ns()
        self._site.downloader.forget_silent_hosts()
        self._decoders.warnings = 0
        results = FetchResults(len(given), resize, refreshed_at, in_memory=known is None)
        self._say_what_is_mapped(uri for _, uri in given)
        to_read, results.touched = self._lookup.to_read(given, known, results)
        done = len(given) - sum(len(image.rows) for image in to_read)
        progress(done, len(given))
        try:
            for image in self._read_all(to_read, started_ns, results):
                results.note_key(image)
                done += len(image.rows)
                progress(done, len(given))
        finally:
            if not more:
                self._decoders.rest()
        if self._decoders.warnings:
            logger.info("Decoders of images warned %d times", self._decoders.warnings)
        results.touched += _changed_since_known([image for image in to_read if image.is_cached])
        return self._result(given, to_read, results)

    def copy_files(
        self,
        tasks: Sequence[tuple[int, str | None]],
        keep: Callable[[int, bytes], None],
        progress: Progress = unwatched,
    ) -> list[ImageFailure]:
        """Read the file of every (task_id, uri) as it is and pass it to ``keep``, from several threads.

        A file that a round could not decode is not kept. Returns the failed ones. Any other CoresetError, as
        of ``keep``, is raised.
        """
        self._site.downloader.forget_silent_hosts()
        failures = []
        try:
            done = in_threads(self._threads, lambda task: self._copied(*task, keep), tasks)
            for count, ((task_id, uri), reason) in enumerate(done, 1):
                if reason:
                    failures.append(ImageFailure(task_id, one_line(shown_uri(uri)) if uri else None, reason))
                progress(count, len(tasks))
        finally:
            self._decoders.rest()
        return sorted(failures, key=lambda failure: failure.task_id)

    def _copied(self, task_id: int, uri: str | None, keep: Callable[[int, bytes], None]) -> str:
        """Pass the file to ``keep``; why there is none, else empty."""
        uri = (uri or "").strip()
        if not uri:
            return _NO_IMAGE
        address = address_digest(self._site, uri)
        try:
            with self._reading(task_id):
                data = read_image(self._site, task_id, uri).data or b""
                seen = self._revisions.seen([address]).get(address)
                if seen is None or seen.content != hashlib.sha256(data).hexdigest():
                    self._decoders.pixels(data, Resize(SMALL))
                keep(task_id, data)
        except ImageError as error:
            logger.info("Task %d: %s: %s", task_id, shown_uri(uri), error)
            return str(error)
        return ""

    def check(self, task_id: int, uri: str | None) -> ImageError | None:
        """Fetch and decode one image without the cache; returns its ``ImageError``, or ``None``."""
        try:
            self._fetched_alone(task_id, (uri or "").strip(), Resize(SMALL))
        except ImageError as error:
            return error
        finally:
            self._decoders.rest()
        return None

    def mapped(self, uri: str | None) -> str | None:
        """The host or sub-path in ``uri`` that LABEL_STUDIO_URL replaces; ``None`` if there is none."""
        uri = (uri or "").strip()
        path = self._site.own.path_of(uri)
        start = uri.removesuffix(path) if path else ""
        return None if start in self._usual_starts else shown_uri(start)

    def last_seen(self, uris: Sequence[str | None]) -> list[Seen | None]:
        """The content and validator of each file when it was last read; None if it never was."""
        addresses = self.addresses(uris)
        known = self._revisions.seen(set(addresses))
        return [known.get(address) for address in addresses]

    def last_keys(self, uris: Sequence[str | None], resize: Resize) -> Array:
        """The key of each image when it was last read, uint8[n, 32]; zeros if it never was."""
        keys = np.zeros((len(uris), 32), np.uint8)
        for row, seen in enumerate(self.last_seen(uris)):
            if seen:
                keys[row] = np.frombuffer(bytes.fromhex(pixel_key(seen.content, resize)), np.uint8)
        return keys

    def note_seen(self, uri: str, content: str, validator: str, refreshed_at: float) -> None:
        """Remember what another machine read at ``uri`` for that refresh."""
        self._revisions.note(address_digest(self._site, uri.strip()), content, validator, refreshed_at)

    def addresses(self, uris: Iterable[str | None]) -> list[str]:
        """A digest of each address, the same for all its spellings; empty without an address."""
        given = ((uri or "").strip() for uri in uris)
        return [address_digest(self._site, uri) if uri else "" for uri in given]

    def close(self) -> None:
        """Close all connections and end the decoding processes."""
        self._site.downloader.close()
        self._decoders.rest()
        self._revisions.close()

    def read(self, task_id: int, uri: str, key: str, resize: Resize) -> Array:
        """uint8[size, size, 3] from the cache, or fetched again if it was evicted."""
        found = self._cache.read(key, resize.size)
        if found is not None:
            return found
        reading = self._fetched_alone(task_id, uri, resize)
        assert reading.pixels is not None  # nothing was known
        self._cache.write(pixel_key(reading.content, resize), reading.pixels, in_use_since_ns=0)
        return reading.pixels

    def _say_what_is_mapped(self, uris: Iterable[str]) -> None:
        starts = Counter(start for uri in uris if (start := self.mapped(uri)))
        for start, count in starts.items():
            logger.info(
                "%d images with addresses at %s are read from Label Studio at %s",
                count,
                start,
                self._site.own.url,
            )

    def _read_all(
        self, missing: Iterable[Wanted], started_ns: int, results: FetchResults
    ) -> Iterator[Wanted]:
        """Fetch ``missing`` in parallel into the cache and ``results``; yields each image when it is done."""
        done = in_threads(self._threads, lambda image: self._read_one(image, started_ns, results), missing)
        return (image for image, _ in done)

    def _read_one(self, image: Wanted, started_ns: int, results: FetchResults) -> None:
        before = image.seen if image.is_cached else None
        is_refreshed = before is not None and before.refreshed_at >= results.refreshed_at
        if is_refreshed and time.monotonic() > results.ask_until:
            return
        try:
            reading = self._fetched_pixels(image.task_id, image.uri, results.resize, before)
        except ImageError as error:
            logger.info("Task %d: %s: %s", image.task_id, shown_uri(image.uri), error)
            if before:  # keep using the cached pixels, and check again another day; for a refresh, next time
                self._revisions.note(image.address, before.content, before.validator)
            else:
                results.reasons[image.address] = str(error)
            return
        if reading.pixels is not None:
            image.key = pixel_key(reading.content, results.resize)
            results.keep(image, reading.pixels, self._cache.write(image.key, reading.pixels, started_ns))
            image.has_changed = before is not None
        self._revisions.note(image.address, reading.content, reading.validator, results.refreshed_at)

    def _fetched_alone(self, task_id: int, uri: str, resize: Resize) -> _Reading:
        # In a thread, like all images: an exception that ends the round is raised in the caller's thread.
        thread = ThreadPoolExecutor(1, thread_name_prefix="images")
        try:
            return thread.submit(self._fetched_pixels, task_id, uri, resize).result()
        finally:
            thread.shutdown(wait=False)

    def _fetched_pixels(self, task_id: int, uri: str, resize: Resize, before: Seen | None = None) -> _Reading:
        """The file, decoded unless it has not changed since ``before``.

        Raises ``ImageError``, or the errors that concern all images: a refused token, no memory left.
        """
        if not uri:
            raise ImageError(_NO_IMAGE)
        with self._reading(task_id):
            fetched = read_image(self._site, task_id, uri, before.validator if before else "")
            if before and fetched.data is None:
                return _Reading(before.content, before.validator, None)
            data = fetched.data or b""
            content = hashlib.sha256(data).hexdigest()
            if before and content == before.content:
                return _Reading(content, fetched.validator, None)
            return _Reading(content, fetched.validator, self._decoders.pixels(data, resize))

    @contextlib.contextmanager
    def _reading(self, task_id: int) -> Iterator[None]:
        """Room for one file in memory; an unexpected error becomes an ``ImageError``."""
        try:
            with self._site.downloader.files.one_file():
                yield
        except CoresetError:
            raise
        except Exception as error:
            if memory_ran_out(error):
                raise
            logger.exception("Task %d: an unexpected error", task_id)
            raise ImageError(
                f"reading it failed with an unexpected error ({type(error).__name__})"
            ) from error

    def _result(
        self, given: Sequence[tuple[int, str]], to_read: Sequence[Wanted], results: FetchResults
    ) -> tuple[Pixels, list[ImageFailure]]:
        readable = np.array([bool(uri) for _, uri in given], dtype=bool)
        reasons: dict[int, str] = {}
        for image in to_read:
            if image.address in results.reasons:
                readable[image.rows] = False
                reasons |= dict.fromkeys(image.rows, results.reasons[image.address])
        failures = [
            ImageFailure(task_id, one_line(shown_uri(uri)) if uri else None, reasons.get(row) or _NO_IMAGE)
            for row in np.flatnonzero(~readable).tolist()
            for task_id, uri in [given[row]]
        ]
        self._refuse_torn_pool(failures, len(given))
        rows = np.flatnonzero(readable)
        task_ids = np.array([task_id for task_id, _ in given], np.int64)[rows]
        keys, small = results.keys[rows], results.small_rows(rows)
        if small is not None:
            return Pixels(task_ids, keys, small, results.touched), failures
        uris = [given[row][1] for row in rows.tolist()]
        cached = CachedRows(self.read, task_ids, uris, keys, results.resize, results.kept)
        return Pixels(task_ids, keys, cached, results.touched), failures

    def _refuse_torn_pool(self, failures: Sequence[ImageFailure], count: int) -> None:
        if not failures:
            return
        logger.warning(
            "%d of %d images cannot be used; the first reason: %s", len(failures), count, failures[0].reason
        )
        if len(failures) > self._max_failed_share * count:
            raise TooManyImageFailures(len(failures) / count, failures[0].reason)


def _changed_since_known(checked: Sequence[Wanted]) -> int:
    """The number of images that were known and have changed; the log says how many have changed in all."""
    if checked:
        changed = sum(image.has_changed for image in checked)
        logger.info("%d images were checked, %d have changed", len(checked), changed)
    return sum(image.is_known and image.has_changed for image in checked)
