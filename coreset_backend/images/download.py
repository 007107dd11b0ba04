"""Downloads the file at a URL with one guarded HTTP client: retries, limits, and a reason for each failure.

The token is sent only to Label Studio's exact origin, and only to its paths of files. Passwords in .netrc are
not used.
"""

import contextlib
import http.cookiejar
import logging
import re
import ssl
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import unquote

import httpcore
import httpx

from coreset_backend.errors import ImageError
from coreset_backend.images.file_budget import SMALL_BYTES, FileBudget, too_large
from coreset_backend.images.transport import CheckedTransport, Deadline
from coreset_backend.network.addresses import AddressGuard, HostUnknown
from coreset_backend.network.outbound import TRUST_ADVICE, Proxies, retry_after, tls_context

NO_PROXIES = Proxies()
CLIMBS = "the path climbs out of its folder (..), which is refused"

_REDIRECTS = (301, 302, 303, 307, 308)
_WORTH_ANOTHER_TRY = (408, 425, 429, 500, 502, 503, 504)
# The paths of Label Studio's files. Other paths get no token, so that a task's URL cannot call Label Studio's
# API with this backend's rights.
_FILE_PATH = re.compile(r"/data/|/storage-data/|/(tasks|projects)/\d+/(presign|resolve)/")
_SHORT_BODY = 65_536
_LONGEST_VALIDATOR = 500
_QUESTIONS = {"etag": "If-None-Match", "date": "If-Modified-Since"}
_ZLIB = ("gzip", "x-gzip", "deflate", "x-deflate")
_UNREAD = frozenset(("br", "zstd", "compress", "x-compress", "dcb", "dcz"))
_MOST_PACKINGS = 2
_HEADERS = {"Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity", "User-Agent": "coreset-backend"}


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one image: bytes, pixels, and seconds; ``total_s`` covers all attempts and redirects."""

    max_bytes: int = 50_000_000
    max_pixels: int = 50_000_000
    connect_s: float = 5.0
    read_s: float = 15.0
    total_s: float = 60.0
    tries: int = 3
    backoff_s: float = 0.5
    max_wait_s: float = 20.0
    max_redirects: int = 3
    give_up_after: int = 20


class Fetched(NamedTuple):
    """A file's bytes, ``None`` if it has not changed, and its validator.

    ``validator`` is ``etag:…``, ``date:…``, for a local file ``file:…``, or empty if the server sends none.
    """

    data: bytes | None
    validator: str = ""


class Unanswered(ImageError):
    """``url`` gave no usable answer; a retry may succeed, after ``wait_s`` seconds if given."""

    def __init__(self, url: httpx.URL, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.origin, self.wait_s = _origin(url), wait_s


class Downloader:
    """Fetches URLs; safe to use from several threads. ``auth`` goes to Label Studio's files only."""

    def __init__(
        self,
        label_studio: httpx.URL,
        auth: httpx.Auth | None,
        guard: AddressGuard,
        limits: Limits,
        verify: bool | ssl.SSLContext,
        connections: int,
        proxies: Proxies = NO_PROXIES,
    ) -> None:
        self._label_studio, self._auth, self._limits = label_studio, auth, limits
        self._deadline = Deadline()
        self.files = FileBudget(limits.max_bytes)
        self._closing = threading.Event()
        self._silent: dict[str, int] = {}
        context = verify if isinstance(verify, ssl.SSLContext) else tls_context(verify)
        self._client = httpx.Client(
            transport=CheckedTransport(guard, self._deadline, proxies, context, connections),
            timeout=httpx.Timeout(limits.read_s, connect=limits.connect_s, pool=limits.total_s),
            headers=_HEADERS,
            trust_env=False,
            # Label Studio's session cookie gives the same rights as the token, and cookies ignore ports.
            cookies=http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[])),
        )
        _silence_request_logs()

    def get(self, url: httpx.URL) -> bytes:
        """The body of ``url`` after redirects and retries; raises ``ImageError`` with a reason."""
        return self.fetch(url).data or b""

    def fetch(self, url: httpx.URL, known: str = "") -> Fetched:
        """The body of ``url`` and its validator; the body is not read if the validator is still ``known``.

        With a ``known`` validator there is only one attempt: the cached file can be checked another day.
        """
        tries = 1 if known else self._limits.tries
        self._deadline.at = time.monotonic() + self._limits.total_s
        tried = 0
        while True:
            tried += 1
            try:
                return self._follow(url, known)
            except Unanswered as failure:
                if tried >= tries or not self._waited(failure, tried):
                    self._silent[failure.origin] = self._silent.get(failure.origin, 0) + 1
                    raise

    def forget_silent_hosts(self) -> None:
        """Forget which hosts failed, before a new pool is fetched."""
        self._silent.clear()

    def close(self) -> None:
        """Cancel waiting retries and close all connections."""
        self._closing.set()
        self._client.close()

    def _waited(self, failure: Unanswered, tried: int) -> bool:
        """Wait before the next attempt; False if the deadline comes first or the downloader is closed."""
        backoff = self._limits.backoff_s * 4 ** (tried - 1)
        wait = min(backoff if failure.wait_s is None else failure.wait_s, self._limits.max_wait_s)
        if time.monotonic() + wait >= self._deadline.at:
            return False
        return not self._closing.wait(wait)

    def _follow(self, url: httpx.URL, known: str) -> Fetched:
        for _ in range(self._limits.max_redirects + 1):
            self._refuse_strange_url(url)
            self._refuse_silent_host(url)
            with _readable_failures(url, self._limits), self._opened(url, known) as response:
                if response.status_code not in _REDIRECTS:
                    fetched = self._fetched(url, response, known)
                    self._silent.pop(_origin(url), None)
                    return fetched
                url = self._redirected_url(url, response)
                _drain(response)
        raise ImageError(f"more than {self._limits.max_redirects} redirects; the last led to {url.host}")

    def _opened(self, url: httpx.URL, known: str) -> contextlib.AbstractContextManager[httpx.Response]:
        auth = self._auth if self._is_label_studio_file(url) else None
        kind, _, value = known.partition(":")
        asked = {_QUESTIONS[kind]: value} if kind in _QUESTIONS else {}
        return self._client.stream("GET", url, auth=auth, headers=asked, follow_redirects=False)

    def _refuse_strange_url(self, url: httpx.URL) -> None:
        if url.scheme not in ("http", "https") or not url.host:
            raise ImageError(f"{url.scheme or 'an address without scheme'}: only http and https are followed")
        if not 0 < port_of(url) < 65536:
            raise ImageError(f"{url.port} is not a port")
        if url.userinfo:
            raise ImageError("the address carries a user name or password (user@host), which is refused")
        if self._is_label_studio(url) and climbs(url.raw_path.partition(b"?")[0].decode("ascii")):
            raise ImageError(CLIMBS)

    def _refuse_silent_host(self, url: httpx.URL) -> None:
        # A dead host with 100,000 images would otherwise cost all attempts 100,000 times: days.
        if self._silent.get(_origin(url), 0) >= self._limits.give_up_after:
            raise ImageError(
                f"{url.host} failed for {self._limits.give_up_after} images in a row; the others were not "
                "requested"
            )

    def _redirected_url(self, url: httpx.URL, response: httpx.Response) -> httpx.URL:
        try:
            target = checked_url(url.join(response.headers.get("location", "")))
        except (httpx.InvalidURL, ValueError) as error:
            raise ImageError(f"{url.host} redirected to an invalid address") from error
        if self._is_label_studio(target) and "/user/login" in target.path:
            raise ImageError("Label Studio asked for a login; check LABEL_STUDIO_API_KEY")
        return target

    def _fetched(self, url: httpx.URL, response: httpx.Response, known: str) -> Fetched:
        if known and response.status_code == 304:
            return Fetched(None, known)
        if response.status_code != 200:
            raise self._status_failure(url, response)
        validator = _validator(response.headers)
        if known and validator == known:  # the server ignores conditional requests
            return Fetched(None, known)
        return Fetched(self._body(response), validator)

    def _body(self, response: httpx.Response) -> bytes:
        limit = self._limits.max_bytes
        announced = _announced_bytes(response.headers.get("content-length", ""))
        if announced > limit:
            raise too_large(limit)
        self._wait_for_room(announced)
        body = bytearray()
        for chunk in response.iter_raw():
            if len(body) <= SMALL_BYTES < len(body) + len(chunk) and not announced:
                self._wait_for_room(limit)
            body += chunk
            if len(body) > limit:
                raise too_large(limit)
        data = _unpacked(bytes(body), response.headers.get("content-encoding", "identity"), limit)
        if len(data) > limit:
            raise too_large(limit)
        return data

    def _wait_for_room(self, count: float) -> None:
        """Wait until memory has room for ``count`` bytes. The wait does not count against the server."""
        began = time.monotonic()
        self.files.expect(int(count))
        self._deadline.at += time.monotonic() - began

    def _status_failure(self, url: httpx.URL, response: httpx.Response) -> ImageError:
        status = response.status_code
        who = "Label Studio" if self._is_label_studio(url) else url.host
        if status in _WORTH_ANOTHER_TRY:
            wait_s = retry_after(response.headers.get("retry-after"))
            return Unanswered(url, f"{who} answered {status}", wait_s)
        if status in (401, 403):
            return ImageError(f"{who} answered {status}: {self._who_is_refused(url)}")
        if status == 407:
            return ImageError(f"the proxy for {who} requires a login; write it into the proxy's address")
        if status in (404, 410):
            return ImageError(f"{who} answered {status}: {self._what_is_missing(url)}")
        return ImageError(f"{who} answered {status}")

    def _who_is_refused(self, url: httpx.URL) -> str:
        if not self._is_label_studio(url):
            return "the image is not public there; make it readable or import it through a cloud storage"
        if self._auth is None:
            return "no token is set; set LABEL_STUDIO_API_KEY"
        if not self._is_label_studio_file(url):
            return "this path of Label Studio serves no files, so it was requested without the token"
        return "the token is not accepted; check LABEL_STUDIO_API_KEY and that its user can see the project"

    def _what_is_missing(self, url: httpx.URL) -> str:
        if not self._is_label_studio(url):
            return "the image is no longer there"
        if "/data/local-files/" in url.path:
            return (
                "it has no such file, or no local storage of the project covers it "
                "(set LOCAL_FILES_SERVING_ENABLED and add a storage whose path contains the file)"
            )
        if "/presign/" in url.path or "/resolve/" in url.path:
            return "no cloud storage of the project covers this address; add one in Settings > Cloud Storage"
        return "the file is no longer there"

    def _is_label_studio(self, url: httpx.URL) -> bool:
        return _origin(url) == _origin(self._label_studio)

    def _is_label_studio_file(self, url: httpx.URL) -> bool:
        prefix = self._label_studio.path.rstrip("/")
        if not self._is_label_studio(url) or not url.path.startswith(prefix):
            return False
        return _FILE_PATH.match(url.path, len(prefix)) is not None


def checked_url(address: str | httpx.URL) -> httpx.URL:
    """``address`` without its fragment; raises ``ValueError`` or ``httpx.InvalidURL`` if it is invalid.

    httpx decodes a host name (``xn--…``) only on access, which may raise: here, not later.
    """
    url = httpx.URL(address).copy_with(fragment=None)
    if url.host and not url.raw_host.isascii():
        raise ValueError("a host name must be ASCII")
    return url


def climbs(path: str) -> bool:
    """Whether ``path`` has a ``..`` part or a NUL, however often it is percent-encoded.

    A backslash counts as a slash, because Label Studio may run on Windows.
    """
    for _ in range(5):
        if "\0" in path or ".." in path.replace("\\", "/").split("/"):
            return True
        unquoted = unquote(path)
        if unquoted == path:
            return False
        path = unquoted
    return True


@contextlib.contextmanager
def _readable_failures(url: httpx.URL, limits: Limits) -> Iterator[None]:
    """Turn errors of the network into reasons that a project lead understands."""
    try:
        yield
    except HostUnknown as error:
        raise Unanswered(url, str(error)) from error
    except (httpcore.ConnectTimeout, httpcore.PoolTimeout) as error:
        raise Unanswered(url, f"{url.host} could not be reached within {limits.connect_s:g} s") from error
    except httpcore.TimeoutException as error:
        raise Unanswered(
            url,
            f"{url.host} was too slow ({limits.read_s:g} s without a byte, or {limits.total_s:g} s in all)",
        ) from error
    except httpcore.ConnectError as error:
        if "CERTIFICATE" in str(error).upper():
            raise ImageError(f"the certificate of {url.host} is not trusted. {TRUST_ADVICE}") from error
        raise Unanswered(url, f"{url.host}:{port_of(url)} does not accept connections") from error
    # httpx parses Location even if it is not followed, and its parser's errors (IDNAError) pass through.
    except (httpx.InvalidURL, httpx.RemoteProtocolError, UnicodeError) as error:
        raise ImageError(f"{url.host} redirected to an invalid address") from error
    except httpcore.ProxyError as error:
        raise Unanswered(url, f"{error} (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY)") from error
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise Unanswered(url, f"the connection to {url.host} was lost") from error


def _validator(headers: httpx.Headers) -> str:
    for kind, name in (("etag", "etag"), ("date", "last-modified")):
        value = headers.get(name, "").strip()
        if value and value.isascii() and len(value) <= _LONGEST_VALIDATOR:
            return f"{kind}:{value}"
    return ""


def _drain(response: httpx.Response) -> None:
    """Read the short body of a redirect, so that the connection can be used again."""
    if _announced_bytes(response.headers.get("content-length", "")) <= _SHORT_BODY:
        read = 0
        for chunk in response.iter_raw():
            read += len(chunk)
            if read > _SHORT_BODY:
                return


def _unpacked(data: bytes, encoding: str, limit: int) -> bytes:
    """``data`` without its Content-Encoding, at most ``limit`` + 1 bytes of it.

    Names that are no coding, which stores keep of an upload (``aws-chunked``), leave it as it is.
    """
    codings = [coding.strip().lower() for coding in encoding.split(",")]
    packings = sum(coding in _ZLIB for coding in codings)
    if packings > _MOST_PACKINGS or not _UNREAD.isdisjoint(codings):
        raise ImageError(f"the answer is encoded as {encoding[:20]!r}, which was not requested")
    for _ in range(packings):
        if len(data) > limit:
            break
        try:
            data = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(data, limit + 1)
        except zlib.error as error:
            raise ImageError("the compressed answer is damaged") from error
    return data


def _announced_bytes(header: str) -> float:
    """The number in a Content-Length header, however long it is; 0 if there is none."""
    return float(header) if header.isascii() and header.isdecimal() else 0.0


def port_of(url: httpx.URL) -> int:
    """The port of ``url``, explicit or the default of its scheme."""
    return (443 if url.scheme == "https" else 80) if url.port is None else url.port


def _origin(url: httpx.URL) -> str:
    return f"{url.scheme}://{url.raw_host.decode('ascii').rstrip('.')}:{port_of(url)}"


def _silence_request_logs() -> None:
    """httpx logs whole URLs and Location headers, which contain signatures of presigned URLs."""
    for name in ("httpx", "httpcore"):
        chatty = logging.getLogger(name)
        if chatty.level == logging.NOTSET:
            chatty.setLevel(logging.WARNING)
