"""Whose connection it is: the socket's peer, or the client that a named proxy speaks for.

What a request says of its own origin is believed from peers that are named in the settings, and from nobody else.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

Network: TypeAlias = IPv4Network | IPv6Network

# As some proxies write them: `192.0.2.1:4711`, `[2001:db8::1]:4711`, `[2001:db8::1]`.
_WITH_PORT = re.compile(r"([^:]+):[0-9]+|\[([^]]*:[^]]*)\](?::[0-9]+)?")
_IPV4_MAPPED = IPv6Network("::ffff:0:0/96")
_IPV6_SITE_BITS = 64
_MAX_LENGTH = 64  # of what is looked at; the longest address has 45 characters
_CACHED = 4096  # addresses, of some 0.3 KB each


class _Hop(msgspec.Struct, frozen=True, gc=False):
    """An address on the way of a request: how it counts, and whether it is a named proxy."""

    address: str
    is_named: bool


class Peers:
    """Tells clients apart, where connections may come through the `proxies`."""

    def __init__(self, proxies: Iterable[Network] = ()) -> None:
        self._proxies = tuple(proxies)
        self._hop = lru_cache(_CACHED)(self._read)

    def client_address(self, scope: Mapping[str, Any]) -> str:
        """The address that a request counts for, empty where it has none, as on a Unix socket.

        An IPv4 address counts as it is, also where it is written as an IPv6 one. Of an IPv6 address the first 64 bits
        count: the rest is chosen by the client's own machine, which may take a new one for each connection (RFC 4291
        section 2.5.1, RFC 8981).

        A named proxy is asked for whom it speaks, by `X-Forwarded-For`: each proxy adds, at the right, whom it has the
        request from. So from the right the first address that is not a named proxy's is the client; what stands further
        left is only what the client says. Where all are named, it is the left-most. Where what stands there is no
        address, the proxy's own counts.
        """
        client = scope.get("client")
        peer = self._hop(client[0]) if client else None
        if peer is None:
            return ""
        found = peer
        if peer.is_named:
            for text in reversed(_forwarded_for(scope["headers"])):
                hop = self._hop(_without_port(text[:_MAX_LENGTH]))
                if hop is None:
                    return peer.address
                found = hop
                if not hop.is_named:
                    break
        return found.address

    def is_named_proxy(self, scope: Mapping[str, Any]) -> bool:
        """Whether the socket's peer itself is one of the named proxies."""
        client = scope.get("client")
        hop = self._hop(client[0]) if client else None
        return hop is not None and hop.is_named

    def _read(self, text: str) -> _Hop | None:
        try:
            address = ip_address(text.partition("%")[0])  # without the zone, a name that only this machine knows
        except ValueError:
            return None
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return _Hop(_counted(address), any(address in network for network in self._proxies))


def read_networks(text: str) -> tuple[Network, ...]:
    """Addresses and networks, with commas between.

    Raises:
        ValueError: with what is wrong and what would be right.
    """
    return tuple(_network(each.strip()) for each in text.split(",") if each.strip())


def _network(text: str) -> Network:
    shown = repr(text if len(text) <= 60 else f"{text[:60]}…")
    wrong = ValueError(f"{shown} is neither an address nor a network, as 10.0.0.7 or 10.0.0.0/24")
    if "%" in text:
        raise wrong
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise wrong from None
    if network.prefixlen == 0:
        raise ValueError(f"{shown} is everybody, and anybody could then say who they are; name your proxies")
    if network.network_address != ip_address(text.partition("/")[0]):
        raise ValueError(f"{shown} is not where a network begins; is {network} meant?")
    if isinstance(network, IPv6Network) and network.subnet_of(_IPV4_MAPPED):
        mapped = network.network_address.ipv4_mapped
        assert mapped is not None
        return IPv4Network((mapped, network.prefixlen - _IPV4_MAPPED.prefixlen))
    return network


def _counted(address: IPv4Address | IPv6Address) -> str:
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((int(address) >> _IPV6_SITE_BITS << _IPV6_SITE_BITS, _IPV6_SITE_BITS)))


def _forwarded_for(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """All headers of that name are one list (RFC 9110 section 5.3), and its empty places nothing (section 5.6.1)."""
    values = b",".join([value for name, value in headers if name == b"x-forwarded-for"]).decode("latin-1")
    return [each for each in map(str.strip, values.split(",")) if each]


def _without_port(text: str) -> str:
    found = _WITH_PORT.fullmatch(text)
    return text if found is None else found[1] or found[2]
