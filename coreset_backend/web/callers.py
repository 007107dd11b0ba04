"""One name for each caller, however its address is written."""

import ipaddress
import re

from coreset_backend.network.addresses import carried_address

# Proxies write ports behind addresses: 192.0.2.7:443, [2001:db8::7]:443, ::ffff:192.0.2.7:443.
_BRACKETED = re.compile(r"\[([^\]]*)\](?::\d{1,5})?")
_PORT = re.compile(r"([\d.]+|.*:\d+\.\d+\.\d+\.\d+):\d{1,5}")


def caller_of(address: str) -> str:
    """The caller at ``address``: an IPv4 address, or the /64 network of an IPv6 address (one customer).

    Ports and zones are dropped. An IPv4 address embedded in an IPv6 address is returned itself, because
    NAT64 and ::ffff:0:0/96 put all callers into one network. Empty if ``address`` is invalid.
    """
    written = address.strip().strip('"')
    for form in (_BRACKETED, _PORT):
        if found := form.fullmatch(written):
            written = found[1]
    try:
        parsed = ipaddress.ip_address(written.partition("%")[0])
    except ValueError:
        return ""
    parsed = carried_address(parsed) or parsed
    return str(parsed) if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))
