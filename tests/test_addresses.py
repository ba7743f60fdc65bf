"""Which addresses a user may have us call."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.addresses import is_open, networks

PUBLIC = ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450:4001:830::200e"]
CLOSED = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3"),
    *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    *("169.254.0.1", "169.254.169.254"),  # link-local, with the metadata of most clouds
    *("100.64.0.1", "100.100.100.200", "100.127.255.255"),  # carriers' NAT, Alibaba's metadata
    *("168.63.129.16", "192.0.0.192"),  # Azure's host, Oracle's metadata
    *("192.0.0.8", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.7", "203.0.113.9"),
    *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "ff0e::1"),
    *("100::1", "2001::1", "2001:2::1", "2001:10::1", "2001:db8::1", "3fff::1", "5f00::1", "4000::1"),
    "64:ff9b:1::808:808",  # NAT64 of one's own network
    "::127.0.0.1",  # IPv4-compatible, long gone
    "::ffff:0:7f00:1",  # IPv4-translated
]
# Of one and the same IPv4 address: mapped, 6to4, NAT64.
WRAPPED = ["::ffff:{0}.{1}.{2}.{3}", "2002:{0:02x}{1:02x}:{2:02x}{3:02x}::1", "64:ff9b::{0}.{1}.{2}.{3}"]


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_may_be_called(address):
    assert is_open(address)


@pytest.mark.parametrize("address", CLOSED)
def test_what_is_not_public_may_not_be_called(address):
    assert not is_open(address)


@pytest.mark.parametrize("wrapped", WRAPPED)
@pytest.mark.parametrize("address", [address for address in CLOSED if ":" not in address])
def test_no_ipv6_address_hides_a_closed_ipv4_one(wrapped, address):
    assert not is_open(wrapped.format(*map(int, address.split("."))))


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_an_ipv6_address_of_an_open_ipv4_one_is_open(wrapped):
    assert is_open(wrapped.format(8, 8, 8, 8))


def test_teredo_is_closed_whatever_it_carries():
    assert not is_open("2001:0:808:808::f7f7:f7f7")


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "0x7f000001", "fe80::1%eth0", "1.2.3"])
def test_what_is_no_plain_address_is_closed(text):
    assert not is_open(text, networks(["0.0.0.0/0", "::/0"]))


@pytest.mark.parametrize(
    ("allowed", "address"),
    [
        ("127.0.0.0/8", "127.0.0.1"),
        ("127.0.0.0/8", "::ffff:127.0.0.1"),
        ("10.1.0.0/16", "10.1.2.3"),
        ("10.1.0.0/16", "64:ff9b::10.1.2.3"),
        ("192.168.1.7", "192.168.1.7"),
        ("fd00::/8", "fd00:ec2::254"),
    ],
)
def test_the_operator_may_open_a_network(allowed, address):
    assert is_open(address, networks([allowed]))


@pytest.mark.parametrize(
    ("allowed", "address"),
    [
        ("10.1.0.0/16", "10.2.0.1"),
        ("192.168.1.7", "192.168.1.8"),
        ("fd00::/8", "fc00::1"),
        ("::1", "127.0.0.1"),
    ],
)
def test_a_network_that_is_opened_opens_no_other(allowed, address):
    assert not is_open(address, networks([allowed]))


@given(st.ip_addresses())
def test_every_address_has_an_answer(address):
    assert is_open(str(address)) in (True, False)
    assert is_open(str(address), networks(["0.0.0.0/0", "::/0"]))


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "lan", ""])
def test_what_is_no_network_is_told(text):
    with pytest.raises(ValueError, match=r"host bits|does not appear"):
        networks([text])
