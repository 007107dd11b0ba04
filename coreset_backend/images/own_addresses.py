"""Recognizes addresses of Label Studio in tasks even if their host or sub-path differs from LABEL_STUDIO_URL.

Label Studio writes the addresses at which browsers reach it: with the sub-path of its proxy and, in storages
of local files, with a host, often http://localhost:8080. This process may reach it at another address. The
path shows that an address belongs to a Label Studio; the host shows whether it may be this one. Reading it
from this Label Studio gives nobody more access: the task could have contained the path without a host.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import httpx

from coreset_backend.images.download import checked_url, port_of
from coreset_backend.network.addresses import is_loopback, plain_name

_FILE = re.compile(
    r"/data/upload/|/data/local-files/?\?|/storage-data/uploaded/|/(?:tasks|projects)/\d+/(?:presign|resolve)/"
)
_HOST_OF_CONTAINERS = "host.docker.internal"


def _nothing_is_allowed(_host: str, _port: int) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class OwnAddresses:
    """Label Studio's addresses: ``url`` for this process, ``browser_url`` for browsers.

    ``is_allowed(host, port)``: whether images may be read there directly.
    """

    url: httpx.URL
    browser_url: httpx.URL
    is_allowed: Callable[[str, int], bool] = _nothing_is_allowed

    def path_of(self, uri: str) -> str | None:
        """Path and query of ``uri`` below ``url``; ``None`` if it names another server."""
        if uri.startswith("/"):
            return None if uri.startswith("//") else self._below_prefix(uri)
        start = _place_of_file(uri)
        return uri[start:] if start and _begins_at(self, uri[:start]) else None

    def looks_like(self, uri: str) -> str | None:
        """The start of ``uri`` (another server) if the rest is the path of a Label Studio file, else None."""
        start = _place_of_file(uri)
        return uri[:start] if start and self.path_of(uri) is None else None

    def _below_prefix(self, path: str) -> str:
        for prefix in (self.url.path.rstrip("/"), self.browser_url.path.rstrip("/")):
            if prefix and path.startswith(prefix + "/"):
                return path[len(prefix) :]
        start = _place_of_file(path)
        return path[start or 0 :]

    def begins_at(self, address: str) -> bool:
        """Whether ``address``, a URL up to the path of a file, is Label Studio's."""
        try:
            url = checked_url(address)
        except (httpx.InvalidURL, ValueError):
            return False
        if url.scheme not in ("http", "https") or url.userinfo:
            return False
        host = plain_name(url.host)
        if any(_are_one_server(url, known) for known in (self.url, self.browser_url)):
            return True
        # On another machine or in another container than the one that wrote it, it would mean this one.
        return (is_loopback(host) or host == _HOST_OF_CONTAINERS) and not self.is_allowed(host, port_of(url))


@lru_cache(maxsize=1024)
def _begins_at(own: OwnAddresses, address: str) -> bool:
    """The method, cached: a pool of 100,000 addresses has few hosts."""
    return own.begins_at(address)


def _place_of_file(uri: str) -> int | None:
    """The position in ``uri``, before its query, where the path of a Label Studio file begins."""
    found = _FILE.search(uri)
    return found.start() if found and not {"?", "#"} & set(uri[: found.start()]) else None


def _are_one_server(one: httpx.URL, other: httpx.URL) -> bool:
    if plain_name(one.host) != plain_name(other.host):
        return False
    return port_of(one) == port_of(other) or {port_of(one), port_of(other)} == {80, 443}
