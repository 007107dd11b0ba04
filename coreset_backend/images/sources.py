"""Reads the file of an image: SOURCES maps the kind of a task's URI to the function that reads it."""

import base64
import binascii
import contextlib
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote_to_bytes

import httpx

from coreset_backend.errors import ImageError
from coreset_backend.images.download import CLIMBS, Downloader, Fetched, checked_url, climbs
from coreset_backend.images.file_budget import FileBudget, too_large
from coreset_backend.images.own_addresses import OwnAddresses

_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Site:
    """What sources read from: Label Studio, its ``own`` addresses, and its local files if they are shared."""

    own: OwnAddresses
    local_files_root: Path | None
    downloader: Downloader
    max_bytes: int


Source = Callable[[Site, int, str, str], Fetched]
"""(site, task id, URI, known validator or empty) -> the file."""


def read_image(site: Site, task_id: int, uri: str, known: str = "") -> Fetched:
    """The file at ``uri``, not read if its validator is still ``known``; raises ``ImageError``."""
    if any("\ud800" <= char <= "\udfff" for char in uri):  # half of a surrogate pair, which JSON can carry
        raise ImageError(f"{shown_uri(uri)!r} is not a valid address")
    source = SOURCES.get(source_kind(site, uri))
    if source is None:
        raise ImageError(
            f"the kind of the address {shown_uri(uri)!r} is not supported; supported are {', '.join(SOURCES)}"
        )
    return source(site, task_id, uri, known)


def source_kind(site: Site, uri: str) -> str:
    """The key of SOURCES for ``uri``: a scheme (``s3``) or the start of a Label Studio path (``/data/``)."""
    path = site.own.path_of(uri)
    if path is None:
        return uri.partition(":")[0].lower() if ":" in uri and not uri.startswith("/") else ""
    return next((kind for kind in SOURCES if kind.startswith("/") and path.startswith(kind)), "")


def read_label_studio(site: Site, task_id: int, uri: str, known: str) -> Fetched:
    """A file that Label Studio serves: an upload, or anything it redirects to."""
    path = site.own.path_of(uri) or ""
    if climbs(path.partition("?")[0]):
        raise ImageError(CLIMBS)
    return site.downloader.fetch(_url(str(site.own.url).rstrip("/") + path.replace("\\", "%5C")), known)


def read_local_file(site: Site, task_id: int, uri: str, known: str) -> Fetched:
    """``/data/local-files/?d=…``: from the shared folder if there is one, else through Label Studio."""
    if site.local_files_root is None:
        if climbs(_local_path(uri)):
            raise ImageError(CLIMBS)
        return read_label_studio(site, task_id, uri, known)
    relative = _local_path(uri)
    return _read_regular_file(
        _inside(site.local_files_root, relative), relative, site.max_bytes, site.downloader.files, known
    )


def read_web(site: Site, task_id: int, uri: str, known: str) -> Fetched:
    """An absolute http or https URL."""
    try:
        return site.downloader.fetch(_url(uri), known)
    except ImageError as error:
        start = site.own.looks_like(uri)
        if start is None:
            raise
        raise ImageError(
            "the address looks like Label Studio's but is not at LABEL_STUDIO_URL; if browsers reach it "
            f"there, set CORESET_LABEL_STUDIO_BROWSER_URL={shown_uri(start)} (error without it: {error})"
        ) from error


def read_presigned(site: Site, task_id: int, uri: str, known: str) -> Fetched:
    """A cloud URI, through the project's cloud storage in Label Studio: a redirect, or the bytes."""
    code = base64.urlsafe_b64encode(uri.encode()).decode()
    address = f"{str(site.own.url).rstrip('/')}/tasks/{task_id}/presign/?fileuri={code}"
    return site.downloader.fetch(_url(address), known)


def read_data(site: Site, task_id: int, uri: str, known: str) -> Fetched:
    """``data:image/png;base64,…``: the URI contains the bytes."""
    head, comma, body = uri.partition(",")
    if not comma:
        raise ImageError("the data: address has no comma, so it contains no image")
    site.downloader.files.expect(len(body))
    data = unquote_to_bytes(body.partition("#")[0])
    if head.lower().rpartition(";")[2].strip() == "base64":
        data = _from_base64(data)
    if len(data) > site.max_bytes:
        raise too_large(site.max_bytes)
    return Fetched(data)


def _from_base64(text: bytes) -> bytes:
    """The decoded bytes, read as browsers do: white space is ignored, and padding may be missing."""
    text = b"".join(text.split()).rstrip(b"=")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ImageError("the data: address is not valid base64") from error


# A kind that starts with / is a path on Label Studio; any other is a scheme.
SOURCES: dict[str, Source] = {
    "/data/local-files/": read_local_file,
    "/data/": read_label_studio,
    "/storage-data/": read_label_studio,
    "/tasks/": read_label_studio,
    "/projects/": read_label_studio,
    "http": read_web,
    "https": read_web,
    "s3": read_presigned,
    "gs": read_presigned,
    "azure-blob": read_presigned,
    "data": read_data,
}


def shown_uri(uri: str) -> str:
    """``uri`` for logs and pages: without passwords, queries of other hosts (signatures) and embedded images.

    Unprintable characters (a line break, half of a surrogate pair) are escaped.
    """
    scheme, colon, rest = uri.partition(":")
    if colon and scheme.lower() == "data":
        return _printable(f"data:{rest.partition(',')[0][:60]},… ({len(uri)} characters)")
    if not uri.startswith("/"):
        uri = uri.partition("?")[0].partition("#")[0]
        start, slashes, place = uri.partition("//")
        host, slash, path = place.partition("/")
        uri = f"{start}{slashes}{host.rpartition('@')[2]}{slash}{path}"
    return _printable(uri if len(uri) <= _SHOWN else f"{uri[:_SHOWN]}…")


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def address_digest(site: Site, uri: str) -> str:
    """SHA-256 of the address, with Label Studio's origin; the same for all spellings of a path on Label
    Studio.

    The origin is part of it, because a path or a cloud URI means another file on another server.
    """
    path = site.own.path_of(uri)
    elsewhere = path is None and uri.lower().startswith(("http:", "https:", "data:"))
    origin = "" if elsewhere else str(site.own.url).rstrip("/")
    return hashlib.sha256(f"{origin}\0{path or uri}".encode("utf-8", "surrogatepass")).hexdigest()


def _local_path(uri: str) -> str:
    """The ``d`` of ``uri``, percent-decoded exactly once, like in Label Studio."""
    query = uri.partition("#")[0].partition("?")[2]
    return parse_qs(query).get("d", [""])[0].lstrip("/\\")


def _url(address: str) -> httpx.URL:
    try:
        return checked_url(address)
    except (httpx.InvalidURL, ValueError) as error:
        raise ImageError(f"{shown_uri(address)!r} is not a valid address") from error


def _inside(root: Path, relative: str) -> Path:
    """The real path of ``relative``, checked to be inside ``root`` after every link is followed.

    A Label Studio on Windows writes ``dataset1\\1.jpg``; here that may also be the name of one file.
    """
    refused = ImageError(f"the file {relative!r} is outside LOCAL_FILES_DOCUMENT_ROOT, which is refused")
    slashed = relative.replace("\\", "/")
    if "\0" in relative or ".." in slashed.split("/"):
        raise refused
    try:
        path = _resolved(root, relative, slashed)
        if not path.is_relative_to(root.resolve(strict=True)):
            raise refused
    except (OSError, RuntimeError, ValueError) as error:
        raise ImageError(f"there is no file {relative!r} in LOCAL_FILES_DOCUMENT_ROOT") from error
    return path


def _resolved(root: Path, *spellings: str) -> Path:
    """The real path of the first of ``spellings`` that exists below ``root``; raises OSError."""
    *first, last = (root / spelling for spelling in spellings)
    return next((path for path in first if path.exists()), last).resolve(strict=True)


def local_validator(site: Site, uri: str) -> str | None:
    """The validator of the file that ``uri`` names in the shared folder; ``None`` if there is none."""
    if site.local_files_root is None or source_kind(site, uri) != "/data/local-files/":
        return None
    relative = _local_path(uri)
    for spelling in dict.fromkeys((relative, relative.replace("\\", "/"))):
        with contextlib.suppress(OSError, ValueError):
            return _file_validator((site.local_files_root / spelling).stat())
    return None


def _file_validator(status: os.stat_result) -> str:
    return f"file:{status.st_mtime_ns}-{status.st_size}-{status.st_ino}"


def _read_regular_file(path: Path, relative: str, max_bytes: int, files: FileBudget, known: str) -> Fetched:
    try:
        # O_NOFOLLOW: the last part was no link when it was checked and must not have become one.
        # O_NONBLOCK: opening a named pipe would wait for its writer for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(f"{relative!r} is not a file")
            validator = _file_validator(status)
            if validator == known:
                return Fetched(None, known)
            files.expect(min(status.st_size, max_bytes))
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise ImageError(f"the file {relative!r} cannot be read: {error.strerror}") from error
    if len(data) > max_bytes:
        raise too_large(max_bytes)
    return Fetched(data, validator)
