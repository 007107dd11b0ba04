"""Decides from which addresses an image may be fetched.

Whoever imports tasks writes their URLs, and the worker that fetches them is inside the network. So a host
other than Label Studio is refused if its name resolves to an address that is not public, unless
CORESET_ALLOWED_HOSTS names it. The check is an allow list: an address not known to be public is refused.

The guard returns the addresses that it has checked, and the caller connects to those, not to the name: DNS
rebinding (a name that resolves differently the second time) gains nothing.
"""

import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from coreset_backend.errors import ConfigError, ImageError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Sequence[str]]

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Not routed, but missing in the tables of Python 3.11, which are older.
_DOCUMENTATION = ipaddress.IPv6Network("3fff::/20")
# Not public either, and missing in some tables of Python 3.11: protocol assignments (RFC 6890), and the
# anycast network of 6to4 relays, which RFC 7526 withdrew.
_SPECIAL = tuple(ipaddress.IPv4Network(network) for network in ("192.0.0.0/24", "192.88.99.0/24"))


class AddressRefused(ImageError):
    """The host is neither public nor allowed; nothing was sent to it."""


class HostUnknown(ImageError):
    """The name of the host does not resolve at the moment."""


def resolved_addresses(host: str, port: int) -> list[str]:
    """The addresses of ``host`` by the system's resolver; raises ``HostUnknown``."""
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        raise HostUnknown(
            f"the name of the host {host} cannot be resolved; check the name and the DNS"
        ) from error
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


def is_public(address: str) -> bool:
    """Whether ``address`` is reachable on the public internet and embeds no address that is not."""
    try:
        return _is_public(ipaddress.ip_address(address))
    except ValueError:
        return False


def _is_public(address: Address) -> bool:
    inner = carried_address(address)
    if inner is not None:
        return _is_public(inner)
    if isinstance(address, ipaddress.IPv6Address):
        if address not in _GLOBAL_UNICAST or address in _DOCUMENTATION:
            return False
    elif any(address in network for network in _SPECIAL):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def carried_address(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address embedded in an IPv6 address: mapped, 6to4, Teredo or NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.teredo is not None:
        return address.teredo[1]
    return address.ipv4_mapped or address.sixtofour


def _unmapped(address: str) -> Address:
    """The parsed address; ``::ffff:a.b.c.d`` becomes the IPv4 address."""
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed


@dataclass(frozen=True, slots=True)
class AddressGuard:
    """Decides to which addresses of a host this process may connect.

    ``names`` and ``networks`` are allowed although they are not public, each with a port or ``None`` for any
    port. Label Studio is one of the ``names``.
    """

    names: frozenset[tuple[str, int | None]]
    networks: tuple[tuple[Network, int | None], ...] = ()
    resolve: Resolve = resolved_addresses

    def checked_addresses(self, host: str, port: int) -> list[str]:
        """All addresses of ``host``, all allowed; raises ``AddressRefused`` or ``HostUnknown``.

        A host with one address that is not allowed is refused: an honest host does not mix public and private
        addresses, and the caller cannot choose which one a connection uses.
        """
        addresses = list(self.resolve(host, port))
        if not addresses:
            raise HostUnknown(f"the host {host} has no address; check the name and the DNS")
        if self._has_name(host, port):
            return addresses
        for address in addresses:
            if not (is_public(address) or self._has_network(address, port)):
                raise AddressRefused(
                    f"the host {host} has the address {address}, which is not public. If images may be "
                    f"read from it, add {host}:{port} to CORESET_ALLOWED_HOSTS"
                )
        return addresses

    def is_allowed(self, host: str, port: int) -> bool:
        """Whether ``host``, a name or an address, is allowed as it is written, without a DNS lookup."""
        try:
            return self._has_name(host, port) or self._has_network(host, port)
        except ValueError:
            return False

    def _has_name(self, host: str, port: int) -> bool:
        name = plain_name(host)
        return (name, None) in self.names or (name, port) in self.names

    def _has_network(self, address: str, port: int) -> bool:
        found = _unmapped(address)
        return any(found in network and only in (None, port) for network, only in self.networks)


def address_guard(
    label_studio: tuple[str, int], allowed_hosts: Iterable[str], resolve: Resolve = resolved_addresses
) -> AddressGuard:
    """The guard that allows Label Studio's (host, port), public hosts and ``allowed_hosts``.

    An entry is a name (``images.lan``), an address or a network (``10.0.0.0/8``, ``fd00::/8``); a name or
    an address may carry a port (``images.lan:9000``, ``[fd00::1]:9000``). Raises ``ConfigError``.
    """
    names: set[tuple[str, int | None]] = {(plain_name(label_studio[0]), label_studio[1])}
    networks: list[tuple[Network, int | None]] = []
    for entry in allowed_hosts:
        host, port = host_and_port(entry.strip(), "CORESET_ALLOWED_HOSTS")
        try:
            networks.append((ipaddress.ip_network(host, strict=False), port))
        except ValueError:
            names.add((_checked_name(host, entry), port))
    return AddressGuard(frozenset(names), tuple(networks), resolve)


def plain_name(host: str) -> str:
    """``host`` in the spelling used for comparisons: lower case, ASCII, no brackets, no final dot."""
    name = host.strip("[]").rstrip(".").lower()
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError:
        return name


def is_loopback(host: str) -> bool:
    """Whether ``host``, as it is written, means this machine."""
    name = plain_name(host)
    if name in ("localhost", "ip6-localhost") or name.endswith(".localhost"):
        return True
    try:
        address = _unmapped(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def host_and_port(entry: str, setting: str) -> tuple[str, int | None]:
    """The parts of an entry of ``setting``, ``host:port`` or ``[address]:port``; raises ``ConfigError``."""
    bracketed = entry.startswith("[")
    host, colon, port = entry.rpartition(":")
    if not colon or (bracketed and not host.endswith("]")) or (not bracketed and ":" in host):
        return entry.strip("[]"), None
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"{setting} contains {entry!r}, whose port is not a number from 1 to 65535")
    return host.strip("[]"), int(port)


def _checked_name(host: str, entry: str) -> str:
    letters = host.replace("-", "").replace(".", "").replace("_", "")
    if not letters.isalnum():
        raise ConfigError(
            f"CORESET_ALLOWED_HOSTS contains {entry!r}; expected a host name, an address or a network, "
            "each without scheme and path: images.lan, images.lan:9000, 10.0.0.0/8"
        )
    return plain_name(host)
