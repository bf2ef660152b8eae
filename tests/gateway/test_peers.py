"""The address that a client counts for: its socket's, or the one that a named proxy tells."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.peers import Peers, read_networks

PROXY = "10.0.0.7"
PEERS = Peers(read_networks("10.0.0.0/24,2001:db8:7::/48"))


def scope(peer: str | None, *forwarded_for: str, **others: str) -> dict[str, Any]:
    """A request from `peer`, with each text in a header of its own."""
    headers = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in others.items()]
    headers += [(b"x-forwarded-for", text.encode("latin-1")) for text in forwarded_for]
    return {"client": None if peer is None else (peer, 4711), "headers": headers}


@pytest.mark.parametrize("peer", ["192.0.2.1", "127.0.0.1", "10.0.1.7"])
def test_peer_that_is_not_named_is_itself_whatever_it_says(peer: str) -> None:
    assert PEERS.client_address(scope(peer)) == peer
    assert PEERS.client_address(scope(peer, "198.51.100.1")) == peer


def test_where_no_proxy_is_named_nobody_is_believed() -> None:
    assert Peers().client_address(scope("127.0.0.1", "198.51.100.1")) == "127.0.0.1"


@pytest.mark.parametrize(
    ("forwarded_for", "client"),
    [
        (["198.51.100.1"], "198.51.100.1"),
        (["203.0.113.9, 198.51.100.1"], "198.51.100.1"),  # the left one is only what the client said
        (["unknown, 198.51.100.1"], "198.51.100.1"),
        (["198.51.100.1, 10.0.0.3"], "198.51.100.1"),  # through two of our proxies
        (["198.51.100.1,10.0.0.3 ,  2001:db8:7::1"], "198.51.100.1"),
        (["198.51.100.1", "10.0.0.3"], "198.51.100.1"),  # several headers are one list
        (["203.0.113.9", "198.51.100.1"], "198.51.100.1"),
        ([", 198.51.100.1, ,"], "198.51.100.1"),
        (["198.51.100.1:51234"], "198.51.100.1"),
        (["[2001:db8:1:2::3]:443"], "2001:db8:1:2::/64"),
        (["[2001:db8:1:2::3]"], "2001:db8:1:2::/64"),
        (["2001:db8:1:2::3"], "2001:db8:1:2::/64"),
        (["::ffff:198.51.100.1"], "198.51.100.1"),
        (["10.0.0.4"], "10.0.0.4"),  # a proxy asks for itself
        (["10.0.0.5, 10.0.0.4"], "10.0.0.5"),
    ],
)
def test_named_proxy_is_believed_for_whom_it_has_the_request_from(forwarded_for: list[str], client: str) -> None:
    assert PEERS.client_address(scope(PROXY, *forwarded_for)) == client
    assert PEERS.client_address(scope("::ffff:10.0.0.7", *forwarded_for)) == client
    assert PEERS.client_address(scope("2001:db8:7::9", *forwarded_for)) == client


@pytest.mark.parametrize(
    "forwarded_for",
    [
        "",
        " , ,",
        "unknown",
        "_hidden",
        "client.example",
        "198.51.100.1, unknown",
        "198.51.100.1 10.0.0.3",
        "198.51.100.300",
        "198.51.100.1:",
        "198.51.100.1:http",
        "198.51.100.1:1:1",
        "[198.51.100.1]",
        "[2001:db8::1",
        "[2001:db8::1]443",
        '"198.51.100.1"',
        "for=198.51.100.1",
        "0x7f.1",
        "1",
        "\u00b2",
        "1" * 10_000,
    ],
)
def test_what_is_no_address_leaves_the_proxys_own(forwarded_for: str) -> None:
    assert PEERS.client_address(scope(PROXY, forwarded_for)) == PROXY


def test_only_one_header_is_believed() -> None:
    """A proxy adds to the one that it knows, and hands on what the client wrote into the others."""
    others = {"forwarded": "for=198.51.100.1", "x_real_ip": "198.51.100.1", "x_client_ip": "198.51.100.1"}
    assert PEERS.client_address(scope(PROXY, **others)) == PROXY


@pytest.mark.parametrize("peer", [PROXY, f"::ffff:{PROXY}", "2001:db8:7::9"])
def test_named_proxy_is_known_by_its_socket_however_its_address_is_written(peer: str) -> None:
    assert PEERS.is_named_proxy(scope(peer))


@pytest.mark.parametrize("peer", [None, "", "/run/passline.sock", "198.51.100.1", "2001:db8:8::9"])
def test_nothing_that_a_stranger_writes_makes_it_a_named_proxy(peer: str | None) -> None:
    assert not PEERS.is_named_proxy(scope(peer, PROXY, forwarded=f"for={PROXY}", x_real_ip=PROXY))
    assert not Peers().is_named_proxy(scope(peer))


def test_who_has_no_address_counts_for_none() -> None:
    assert PEERS.client_address(scope(None, "198.51.100.1")) == ""
    assert PEERS.client_address(scope("", "198.51.100.1")) == ""
    assert PEERS.client_address(scope("/run/passline.sock")) == ""
    assert PEERS.client_address({"client": None, "headers": []}) == ""


@given(st.ip_addresses(v=6, network="2001:db8:1::/48"), st.integers(0, 2**64 - 1))
def test_one_machine_counts_once_however_many_ipv6_addresses_it_takes(address: IPv6Address, other: int) -> None:
    same_network = IPv6Address(int(address) >> 64 << 64 | other)
    counted = PEERS.client_address(scope(str(address)))
    assert PEERS.client_address(scope(str(same_network))) == counted
    assert PEERS.client_address(scope(f"{address}%eth0")) == counted
    next_network = IPv6Address(int(address) ^ 1 << 64)
    assert PEERS.client_address(scope(str(next_network))) != counted


@given(st.ip_addresses(v=4))
def test_ipv4_address_counts_as_itself_however_it_is_written(address: IPv4Address) -> None:
    peers = Peers()
    assert peers.client_address(scope(str(address))) == str(address)
    assert peers.client_address(scope(f"::ffff:{address}")) == str(address)


@given(st.lists(st.text(st.characters(codec="latin-1"), max_size=40), max_size=5))
def test_whatever_stands_there_is_no_error(forwarded_for: list[str]) -> None:
    assert PEERS.client_address(scope(PROXY, *forwarded_for))


@given(
    st.text(st.characters(codec="latin-1", exclude_characters=","), max_size=20).map(lambda text: f"{text},"),
    st.ip_addresses(v=4, network="198.51.100.0/24"),
)
def test_nothing_that_a_client_writes_changes_how_it_counts(written: str, client: IPv4Address) -> None:
    assert PEERS.client_address(scope(PROXY, f"{written} {client}")) == str(client)


def test_no_more_than_a_bounded_number_of_addresses_is_remembered() -> None:
    peers = Peers()
    for number in range(10_000):
        peers.client_address(scope(str(IPv4Address(number))))
    assert peers._hop.cache_info().currsize <= 4096
