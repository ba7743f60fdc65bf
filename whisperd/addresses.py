"""Which addresses a user may have us call: those of the public internet, and what the operator allows.

Pure: no look-up, no connection. What is not known to be public is refused, so that a range that is set apart
one day is not open until somebody adds it here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Beyond what ipaddress calls private, multicast or reserved, on every Python from 3.11 on.
_CLOSED_4 = [
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this host
        "100.64.0.0/10",  # carriers' NAT; Alibaba's metadata are in it
        "168.63.129.16/32",  # Azure's host, in every virtual machine of it
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata
        "192.88.99.0/24",  # 6to4 relays
        "198.18.0.0/15",  # benchmarks
    )
]
_OPEN_6 = IPv6Network("2000::/3")  # global unicast: nothing else is
_CLOSED_6 = [
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, with Teredo
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation
    )
]
_NAT64 = IPv6Network("64:ff9b::/96")


def is_open(text: str, allowed: Sequence[Network] = ()) -> bool:
    """Whether a connection to this address may be made. What is no address may not be called."""
    address = _plain(text)
    if address is None:
        return False
    return _is_in(address, allowed) or _is_public(address, allowed)


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Raises ValueError for what is no network: "10.0.0.0/8", "fd00::/8", or a single address."""
    return tuple(ip_network(text) for text in texts)


def _plain(text: str) -> Address | None:
    """The address, an IPv4 one where it only stands in IPv6's clothes. None for one within a zone."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return None if address.scope_id else address.ipv4_mapped or address
    return address


def _is_in(address: Address, nets: Iterable[Network]) -> bool:
    return any(address in net for net in nets)  # False where one is IPv4 and the other IPv6


def _is_public(address: Address, allowed: Sequence[Network]) -> bool:
    if isinstance(address, IPv4Address):
        special = address.is_multicast or address.is_reserved or not address.is_global
        return not special and not _is_in(address, _CLOSED_4)
    if inner := _carried(address):
        return _is_in(inner, allowed) or _is_public(inner, allowed)
    return address in _OPEN_6 and not _is_in(address, _CLOSED_6) and address.is_global


def _carried(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that a gateway on the way would make of it: 6to4 (RFC 3056), NAT64 (RFC 6052)."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour
