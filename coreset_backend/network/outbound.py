"""How this process reaches servers: through which proxy, with which certificates, after which Retry-After.

One rule for Label Studio's API and for images: this machine and Label Studio are reached directly, Label
Studio through a proxy only if CORESET_LABEL_STUDIO_PROXY says so; all other hosts as HTTPS_PROXY, HTTP_PROXY,
ALL_PROXY and NO_PROXY say.
"""

import base64
import email.utils
import ipaddress
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from urllib.parse import unquote
from urllib.request import getproxies_environment

import httpx

from coreset_backend.errors import ConfigError
from coreset_backend.network.addresses import host_and_port, is_loopback, plain_name
from coreset_backend.redaction import keep_secret

AS_THE_ENVIRONMENT = "environment"
"""The value of CORESET_LABEL_STUDIO_PROXY with which Label Studio is reached like all other hosts."""

TRUST_ADVICE = (
    "Set SSL_CERT_FILE to a PEM file with the certificates of all trusted authorities, including this "
    "server's; or, if nobody can intercept the connection, set VERIFY_SSL=false."
)


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy and its Proxy-Authorization header, which is never printed."""

    scheme: str
    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    def for_httpx(self) -> httpx.Proxy:
        """The proxy as an argument of ``httpx.Client``."""
        login = {"Proxy-Authorization": self.authorization} if self.authorization else None
        return httpx.Proxy(str(self), headers=login)


@dataclass(frozen=True, slots=True)
class Proxies:
    """Which proxy is used for which host.

    ``environment``: scheme, ``all`` or ``no`` -> the value of its variable, as urllib reads them.
    ``label_studio``: Label Studio's (scheme, host, port). ``label_studio_proxy``: an address, ``environment``
    or ``None``.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    label_studio: tuple[str, str, int] = ("", "", 0)
    label_studio_proxy: str | None = None

    def leading_to(self, scheme: str, host: str, port: int) -> Proxy | None:
        """The proxy for ``host`` and ``port``, or ``None``; raises ConfigError."""
        _, its_host, its_port = self.label_studio
        if (plain_name(host), port) == (plain_name(its_host), its_port):
            if self.label_studio_proxy != AS_THE_ENVIRONMENT:
                return _parsed("CORESET_LABEL_STUDIO_PROXY", self.label_studio_proxy)
        elif is_loopback(host):
            return None
        if self._is_exempt(host, port):
            return None
        name = scheme if self.environment.get(scheme) else "all"
        return _parsed(f"{name.upper()}_PROXY", self.environment.get(name))

    def leading_to_label_studio(self) -> Proxy | None:
        """The proxy for Label Studio, or ``None``; raises ConfigError."""
        return self.leading_to(*self.label_studio)

    def description(self) -> str | None:
        """A sentence on the proxies for hosts other than Label Studio; ``None`` if all are reached directly.

        Raises ConfigError if a variable is not the address of an HTTP proxy.
        """
        found = {
            name: _parsed(f"{name.upper()}_PROXY", self.environment.get(name))
            for name in ("https", "http", "all")
        }
        named = ", ".join(f"{proxy} ({name.upper()}_PROXY)" for name, proxy in found.items() if proxy)
        exempt = self.environment.get("no")
        but = f", except NO_PROXY={exempt}" if exempt else ""
        return f"Images of other hosts are fetched through the proxy {named}{but}." if named else None

    def _is_exempt(self, host: str, port: int) -> bool:
        entries = self.environment.get("no", "").split(",")
        return any(_covers(entry.strip(), plain_name(host), port) for entry in entries if entry.strip())


def read_proxies(label_studio_url: str, label_studio_proxy: str | None) -> Proxies:
    """The proxies in this process's environment, lower-case variables first."""
    try:
        url = httpx.URL(label_studio_url)
        host = url.host and url.raw_host.decode("ascii")
    except (httpx.InvalidURL, ValueError) as error:
        raise ConfigError(
            f"LABEL_STUDIO_URL is {label_studio_url!r}, which is not a valid address ({error}); expected "
            "http(s)://host[:port][/path], with an IPv6 address in brackets."
        ) from None
    port = url.port or (443 if url.scheme == "https" else 80)
    label_studio = (url.scheme, host, port)
    return Proxies(getproxies_environment(), label_studio, label_studio_proxy)


def _covers(entry: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY covers ``host``: a name, its domain, an address or a network."""
    name, only = host_and_port(entry, "NO_PROXY")
    if only not in (None, port):
        return False
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False)
    except ValueError:
        domain = plain_name(name.lstrip("*."))
        return name == "*" or (bool(domain) and f".{host}".endswith(f".{domain}"))


def _parsed(variable: str, text: str | None) -> Proxy | None:
    if not text:
        return None
    try:
        url = httpx.URL(text if "://" in text else f"http://{text}")
        host, port = url.host, url.port or (443 if url.scheme == "https" else 80)
    except (httpx.InvalidURL, ValueError):
        raise ConfigError(f"{variable} is not the address of a proxy; expected http://host:port") from None
    if url.scheme.startswith("socks"):
        raise ConfigError(
            f"{variable} names a SOCKS proxy ({url.scheme}://{host}), but only HTTP proxies are supported. "
            "Name one in HTTPS_PROXY and HTTP_PROXY, or list in NO_PROXY the hosts that need no proxy."
        )
    if url.scheme not in ("http", "https") or not host:
        raise ConfigError(f"{variable} is not the address of an HTTP proxy; expected http://host:port")
    if not url.userinfo:
        return Proxy(url.scheme, host, port)
    keep_secret(url.password)
    login = base64.b64encode(unquote(url.userinfo.decode()).encode()).decode()
    return Proxy(url.scheme, host, port, f"Basic {login}")


def tls_context(verify: bool) -> ssl.SSLContext:
    """The trusted authorities: those in SSL_CERT_FILE or SSL_CERT_DIR if set, else those of certifi."""
    try:
        return httpx.create_ssl_context(verify=verify)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"The certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read ({error}). Expected: "
            "a PEM file, or a folder of PEM files."
        ) from None


def retry_after(header: str | None) -> float | None:
    """Seconds to wait by a Retry-After header, at least 0; None if the header is malformed."""
    text = (header or "").strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        until = email.utils.parsedate_to_datetime(text)
        # A date in the zone "-0000" is UTC, but is parsed to one without a zone.
        until = until if until.tzinfo else until.replace(tzinfo=UTC)
        return max(0.0, until.timestamp() - time.time())
    except (ValueError, OverflowError, TypeError, LookupError):
        return None
