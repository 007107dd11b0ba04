"""Which addresses an image may be fetched from.

A task's URL is written by whoever imports tasks, and the worker that fetches it stands inside the network.
So a host other than Label Studio is refused when its name resolves to an address that is not public,
unless a project lead has allowed it. The rule is positive: what is not known to be public is refused.

The guard returns the addresses it has checked and the caller connects to those, not to the name: a name
that answers differently the second time (DNS rebinding) gains nothing.
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
# Not routed, and newer than the tables of Python 3.11.
_DOCUMENTATION = ipaddress.IPv6Network("3fff::/20")
# Not public either, and not in every table of Python 3.11: protocol assignments (RFC 6890), and the anycast
# of 6to4 relays that RFC 7526 withdrew.
_SPECIAL = tuple(ipaddress.IPv4Network(network) for network in ("192.0.0.0/24", "192.88.99.0/24"))


class AddressRefused(ImageError):
    """The host is not public and not allowed; no byte was sent to it."""


class HostUnknown(ImageError):
    """The name of the host does not resolve, at least not now."""


def resolved_addresses(host: str, port: int) -> list[str]:
    """The addresses of ``host`` as the system sees them; raises ``HostUnknown``."""
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        raise HostUnknown(f"the host {host} is not known here; check its name and the DNS") from error
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


def is_public(address: str) -> bool:
    """True when ``address`` is reachable on the open Internet and hides no other address in it."""
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
    """The IPv4 address that an IPv6 one leads to: mapped, 6to4, Teredo or NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.teredo is not None:
        return address.teredo[1]
    return address.ipv4_mapped or address.sixtofour


def _unmapped(address: str) -> Address:
    """``address`` parsed, with ``::ffff:a.b.c.d`` taken for the IPv4 address it is."""
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed


@dataclass(frozen=True, slots=True)
class AddressGuard:
    """Says which addresses of a host may be connected to.

    ``names`` and ``networks`` hold what is allowed though not public, each with a port or ``None`` for
    any port. Label Studio itself is one of the ``names``.
    """

    names: frozenset[tuple[str, int | None]]
    networks: tuple[tuple[Network, int | None], ...] = ()
    resolve: Resolve = resolved_addresses

    def checked_addresses(self, host: str, port: int) -> list[str]:
        """All addresses of ``host``, each of them allowed; raises ``AddressRefused`` or ``HostUnknown``.

        One address that is not allowed refuses the host: an honest host does not mix public and private
        answers, and which of them a connection takes is not ours to choose.
        """
        addresses = list(self.resolve(host, port))
        if not addresses:
            raise HostUnknown(f"the host {host} has no address; check its name and the DNS")
        if self._has_name(host, port):
            return addresses
        for address in addresses:
            if not (is_public(address) or self._has_network(address, port)):
                raise AddressRefused(
                    f"the host {host} is at {address}, which is not a public address. If images may be "
                    f"read from it, add {host}:{port} to CORESET_ALLOWED_HOSTS"
                )
        return addresses

    def is_allowed(self, host: str, port: int) -> bool:
        """Whether ``host``, a name or an address, is allowed as it is written, without asking the DNS."""
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
    """The guard that lets through Label Studio's (host, port), public hosts and ``allowed_hosts``.

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
    """``host`` in the one spelling that is compared: lower case, ASCII, no brackets, no last dot."""
    name = host.strip("[]").rstrip(".").lower()
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError:
        return name


def is_loopback(host: str) -> bool:
    """Whether ``host``, as it is written, is this machine."""
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
        raise ConfigError(f"{setting} holds {entry!r}, whose port is no number from 1 to 65535")
    return host.strip("[]"), int(port)


def _checked_name(host: str, entry: str) -> str:
    letters = host.replace("-", "").replace(".", "").replace("_", "")
    if not letters.isalnum():
        raise ConfigError(
            f"CORESET_ALLOWED_HOSTS holds {entry!r}; expected a host name, an address or a network, "
            "each without scheme and path: images.lan, images.lan:9000, 10.0.0.0/8"
        )
    return plain_name(host)
