import pytest

from coreset_backend.errors import ConfigError
from coreset_backend.network.addresses import (
    AddressRefused,
    HostUnknown,
    address_guard,
    is_public,
    plain_name,
    resolved_addresses,
)

NOT_PUBLIC = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.127.255.254",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:7f00:1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2002:c0a8:101::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "not an address",
    "",
]
PUBLIC = ["1.1.1.1", "8.8.8.8", "100.63.0.1", "172.32.0.1", "2606:4700::1111", "64:ff9b::808:808"]

# Spellings of a host that the system's resolver turns into a private address by itself.
TRICKS = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "0",
    "0.0.0.0",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "017700000001",
    "0177.0.0.1",
    "0xa9fea9fe",
    "2852039166",
    "169.254.169.254",
    "0251.0376.0251.0376",
    "10.1",
    "3232235521",
    "::1",
    "::",
    "::ffff:127.0.0.1",
    "::ffff:a9fe:a9fe",
    "localhost",
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("host", TRICKS)
def test_spellings_of_private_hosts_are_refused(host: str) -> None:
    guard = address_guard(("labels.example", 8080), ())
    with pytest.raises((AddressRefused, HostUnknown)):
        guard.checked_addresses(host, 80)


def test_one_private_answer_refuses_the_host() -> None:
    guard = address_guard(("ls", 80), (), resolve=lambda host, port: ["8.8.8.8", "10.0.0.1"])
    with pytest.raises(
        AddressRefused, match=r"mixed\.example has the address 10\.0\.0\.1.*CORESET_ALLOWED_HOSTS"
    ):
        guard.checked_addresses("mixed.example", 443)


def test_label_studio_is_let_through_on_its_port_only() -> None:
    guard = address_guard(("LS.lan.", 8080), (), resolve=lambda host, port: ["10.0.0.1"])
    assert guard.checked_addresses("ls.lan", 8080) == ["10.0.0.1"]
    with pytest.raises(AddressRefused):
        guard.checked_addresses("ls.lan", 6379)


@pytest.mark.parametrize(
    ("entry", "host", "address", "port"),
    [
        ("images.lan", "images.lan", "10.0.0.1", 80),
        ("IMAGES.lan.", "images.LAN", "10.0.0.1", 9000),
        ("images.lan:9000", "images.lan", "10.0.0.1", 9000),
        ("bücher.lan", "xn--bcher-kva.lan", "10.0.0.1", 80),
        ("10.0.0.0/8", "anything.lan", "10.9.8.7", 80),
        ("10.0.0.0/8", "anything.lan", "::ffff:10.9.8.7", 80),
        ("10.0.0.1", "10.0.0.1", "10.0.0.1", 80),
        ("10.0.0.1:9000", "images.lan", "10.0.0.1", 9000),
        ("fd00::/8", "v6.lan", "fd00::1", 80),
        ("[fd00::1]:9000", "v6.lan", "fd00::1", 9000),
        ("[fd00::1]", "v6.lan", "fd00::1", 80),
        ("::1", "localhost", "::1", 80),
    ],
)
def test_what_a_lead_allows_is_let_through(entry: str, host: str, address: str, port: int) -> None:
    guard = address_guard(("ls", 80), [entry], resolve=lambda *_: [address])
    assert guard.checked_addresses(host, port) == [address]


@pytest.mark.parametrize(
    ("entry", "host", "address", "port"),
    [
        ("images.lan:9000", "images.lan", "10.0.0.1", 9001),
        ("images.lan", "evil.images.lan", "10.0.0.1", 80),
        ("images.lan", "images.lan.evil.example", "10.0.0.1", 80),
        ("10.0.0.0/24", "images.lan", "10.0.1.1", 80),
        ("10.0.0.1:9000", "images.lan", "10.0.0.1", 80),
    ],
)
def test_what_is_near_an_allowed_host_is_not_allowed(entry: str, host: str, address: str, port: int) -> None:
    guard = address_guard(("ls", 80), [entry], resolve=lambda *_: [address])
    with pytest.raises(AddressRefused):
        guard.checked_addresses(host, port)


@pytest.mark.parametrize(
    "entry", ["http://images.lan", "images.lan/path", "images.lan:port", "images.lan:0", "*", "", "a b"]
)
def test_a_malformed_entry_is_named(entry: str) -> None:
    with pytest.raises(ConfigError, match="CORESET_ALLOWED_HOSTS"):
        address_guard(("ls", 80), [entry])


def test_a_host_without_any_address_is_unknown() -> None:
    with pytest.raises(HostUnknown):
        address_guard(("ls", 80), (), resolve=lambda *_: []).checked_addresses("nowhere.example", 80)


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 64 + ".example", ".leading.example", "a..b"])
def test_names_that_do_not_resolve(host: str) -> None:
    with pytest.raises(HostUnknown):
        resolved_addresses(host, 80)


def test_one_spelling_of_a_name() -> None:
    assert plain_name("[::1]") == "::1"
    assert plain_name("Labels.Example.") == "labels.example"
    assert plain_name("a" * 70) == "a" * 70
