"""Opens the images of a pool by settings."""

import ssl
from collections.abc import Sequence
from pathlib import Path

import httpx

from coreset_backend.errors import ConfigError
from coreset_backend.images.cache import PixelCache
from coreset_backend.images.download import NO_PROXIES, Downloader, Limits, checked_url, port_of
from coreset_backend.images.fetch import REVISIONS, Images
from coreset_backend.images.own_addresses import OwnAddresses
from coreset_backend.images.revisions import Revisions
from coreset_backend.images.sources import Site, shown_uri
from coreset_backend.network.addresses import Resolve, address_guard, resolved_addresses
from coreset_backend.network.outbound import Proxies


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
    """The ``Images`` for these settings; nothing is fetched yet.

    ``auth`` must be safe to use from several threads. ``allowed_hosts``: names and networks that may be read
    although they are not public. ``local_files_root``: Label Studio's LOCAL_FILES_DOCUMENT_ROOT if this
    machine shares it. ``verify``: False for no check of certificates, or an ``ssl.SSLContext``.
    ``browser_url``: Label Studio's address in browsers, which tasks may contain. ``cache_dir`` grows to at
    most ``cache_bytes``, and ``spare_bytes`` of its disk stay free. A fetch fails if more than
    ``max_failed_share`` of the images do. Raises ``ConfigError``.
    """
    limits = limits or Limits()
    url = _label_studio_url("LABEL_STUDIO_URL", label_studio_url)
    shown = _label_studio_url("CORESET_LABEL_STUDIO_BROWSER_URL", browser_url) if browser_url else url
    guard = address_guard((url.raw_host.decode("ascii"), port_of(url)), allowed_hosts, resolve)
    downloader = Downloader(url, auth, guard, limits, verify, threads, proxies)
    site = Site(OwnAddresses(url, shown, guard.is_allowed), local_files_root, downloader, limits.max_bytes)
    cache, revisions = PixelCache(cache_dir, cache_bytes, spare_bytes), Revisions(cache_dir / REVISIONS)
    return Images(site, cache, revisions, limits, threads, max_failed_share)


def _label_studio_url(setting: str, text: str) -> httpx.URL:
    try:
        url = checked_url(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise ConfigError(f"{setting} is {text!r}, which is not a valid address") from error
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query:
        raise ConfigError(f"{setting} is {shown_uri(text)!r}; expected http(s)://host[:port][/path]")
    return url
