"""Over a cap: refused softly, and let in when there is room again. Over real sockets."""

from __future__ import annotations

import re
import resource
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import httpx
import pytest

from gateway.descriptors import stream_room
from tests.support.delivery import Clock
from tests.support.logs import append_order
from tests.support.nats import eventually
from tests.support.reconnecting import ReconnectingClient
from tests.support.sse_client import Ending, SseStream, open_stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.gateway import Passline, RunningGateway
    from tests.support.sse_client import StreamRequest

ON_BOTH_PATHS = pytest.mark.parametrize("http_protocol", ["handover", "asgi"], indirect=True)


@pytest.fixture
def database_kind() -> str:
    """What is counted stands in memory, so that one kind of database will do."""
    return "sqlite"


class Streams:
    """Streams that stay open, until they are left or the test ends."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def open(self, request: StreamRequest) -> SseStream:
        """One that the hub has taken in."""
        stream = await self._stack.enter_async_context(open_stream(request))
        await stream.next_event("stream.opened")
        return stream


@pytest.fixture
async def streams() -> AsyncIterator[Streams]:
    async with AsyncExitStack() as stack:
        yield Streams(stack)


async def assert_refused_softly(request: StreamRequest) -> None:
    """What browsers, npm's client and fetch clients all take as "come back later"."""
    async with open_stream(request) as stream:
        assert stream.status == 200
        assert stream.is_event_stream
        assert stream.head.header("transfer-encoding") == "chunked"
        assert await stream.read_to_end() is Ending.CUT
        assert re.fullmatch(rb"retry: \d+\n\n", stream.body), bytes(stream.body)
        assert 250 <= (stream.parser.retry_ms or 0) <= 750  # half more or less than what the tests set


async def left(gateway: RunningGateway, stream: SseStream) -> None:
    """The client leaves, and the hub has seen it."""
    before = len(gateway.gateway.hub)
    stream.close()
    await eventually(lambda: len(gateway.gateway.hub) == before - 1)


def as_owner(gateway: RunningGateway, subject: str, restaurant: str, *forwarded_for: str) -> StreamRequest:
    """A subject's request for a restaurant's stream, through a proxy if it was forwarded."""
    token = gateway.token(subject, restaurants={restaurant: "owner"})
    headers = {"X-Forwarded-For": ", ".join(forwarded_for)} if forwarded_for else {}
    return gateway.stream(f"restaurants/{restaurant}", token, headers=headers)


@ON_BOTH_PATHS
async def test_fifth_stream_of_a_subject_on_a_topic_is_refused_softly(passline: Passline, streams: Streams) -> None:
    gateway = await passline.gateway()
    mine = [await streams.open(as_owner(gateway, "ann", "r1")) for _ in range(4)]
    await assert_refused_softly(as_owner(gateway, "ann", "r1"))
    assert gateway.gateway.hub.refused["per_subject_topic"] == 1
    await streams.open(as_owner(gateway, "bob", "r1"))
    await streams.open(as_owner(gateway, "ann", "r2"))
    await left(gateway, mine[1])
    await streams.open(as_owner(gateway, "ann", "r1"))
    await assert_refused_softly(as_owner(gateway, "ann", "r1"))


async def test_who_is_refused_disturbs_no_stream_that_is_open(passline: Passline, streams: Streams) -> None:
    gateway = await passline.gateway(max_per_subject_topic=1)
    stream = await streams.open(as_owner(gateway, "ann", "r1"))
    for _ in range(3):
        await assert_refused_softly(as_owner(gateway, "ann", "r1"))
    await append_order(passline.nc, "live")
    block = await stream.next_event("ReceiveOrderStatusChanged")
    assert '"eventId":"live"' in (block.data or "")


async def test_subjects_streams_are_capped_over_all_topics(passline: Passline, streams: Streams) -> None:
    gateway = await passline.gateway(max_per_subject=2)
    first = await streams.open(as_owner(gateway, "ann", "r1"))
    await streams.open(as_owner(gateway, "ann", "r2"))
    await assert_refused_softly(as_owner(gateway, "ann", "r3"))
    await streams.open(as_owner(gateway, "bob", "r3"))
    await left(gateway, first)
    await streams.open(as_owner(gateway, "ann", "r3"))
    assert gateway.gateway.hub.refused["per_subject"] == 1


async def test_topics_streams_are_capped_over_all_subjects(passline: Passline, streams: Streams) -> None:
    gateway = await passline.gateway(max_per_topic=2)
    first = await streams.open(as_owner(gateway, "ann", "r1"))
    await streams.open(as_owner(gateway, "bob", "r1"))
    await assert_refused_softly(as_owner(gateway, "cid", "r1"))
    await streams.open(as_owner(gateway, "cid", "r2"))
    await left(gateway, first)
    await streams.open(as_owner(gateway, "cid", "r1"))
    assert gateway.gateway.hub.refused["per_topic"] == 1


@ON_BOTH_PATHS
async def test_full_process_takes_no_more_streams_and_answers_all_else(passline: Passline, streams: Streams) -> None:
    gateway = await passline.gateway(max_per_process=2)
    first = await streams.open(as_owner(gateway, "ann", "r1"))
    await streams.open(as_owner(gateway, "bob", "r2"))
    await assert_refused_softly(as_owner(gateway, "cid", "r3"))
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        assert (await http.get("/health/ready")).status_code == 200
    await left(gateway, first)
    await streams.open(as_owner(gateway, "cid", "r3"))
    assert gateway.gateway.hub.refused["per_process"] == 1


async def test_clients_behind_a_named_proxy_count_by_their_own_addresses(passline: Passline, streams: Streams) -> None:
    gateway = await passline.gateway(max_per_address=1, trusted_proxies=("127.0.0.1",))
    first = await streams.open(as_owner(gateway, "ann", "r1", "198.51.100.1"))
    await assert_refused_softly(as_owner(gateway, "bob", "r2", "198.51.100.1"))
    await assert_refused_softly(as_owner(gateway, "bob", "r2", "203.0.113.9", "198.51.100.1"))
    await streams.open(as_owner(gateway, "bob", "r2", "198.51.100.1", "198.51.100.2"))
    await streams.open(as_owner(gateway, "cid", "r3", "2001:db8:1:2::3"))
    await assert_refused_softly(as_owner(gateway, "dan", "r4", "2001:db8:1:2:ffff::4"))
    await left(gateway, first)
    await streams.open(as_owner(gateway, "bob", "r2", "198.51.100.1"))
    assert gateway.gateway.hub.refused["per_address"] == 3


async def test_what_an_unnamed_peer_says_of_its_address_is_ignored(passline: Passline, streams: Streams) -> None:
    gateway = await passline.gateway(max_per_address=1, trusted_proxies=("192.0.2.0/24",))
    first = await streams.open(as_owner(gateway, "ann", "r1", "198.51.100.1"))
    await assert_refused_softly(as_owner(gateway, "bob", "r2", "198.51.100.2"))
    await assert_refused_softly(as_owner(gateway, "bob", "r2"))
    await left(gateway, first)
    await streams.open(as_owner(gateway, "bob", "r2", "198.51.100.1"))


async def test_new_streams_beyond_the_rate_are_refused_softly(passline: Passline, streams: Streams) -> None:
    gateway = await passline.gateway(max_new_per_second=2)
    hub, clock = gateway.gateway.hub, Clock()
    clock.now = hub.clock()
    hub.clock = clock  # and it stands still
    for number in range(2):
        await streams.open(as_owner(gateway, f"ann-{number}", "r1"))
    for number in range(2):
        await assert_refused_softly(as_owner(gateway, f"bob-{number}", "r1"))
    clock.now += 0.5
    await streams.open(as_owner(gateway, "cid", "r1"))
    await assert_refused_softly(as_owner(gateway, "dan", "r1"))
    assert hub.refused["new_per_second"] == 3


async def test_caps_of_zero_are_none(passline: Passline, streams: Streams) -> None:
    gateway = await passline.gateway(
        max_per_subject_topic=0,
        max_per_subject=0,
        max_per_address=0,
        max_per_topic=0,
        max_per_process=0,
        max_new_per_second=0,
    )
    for _ in range(40):
        await streams.open(as_owner(gateway, "ann", "r1"))
    assert len(gateway.gateway.hub) == 40


@ON_BOTH_PATHS
async def test_client_that_comes_back_gets_in_when_there_is_room(passline: Passline, streams: Streams) -> None:
    gateway = await passline.gateway(max_per_topic=1)
    first = await streams.open(as_owner(gateway, "ann", "r1"))
    request = as_owner(gateway, "bob", "r1")
    async with ReconnectingClient("bob", request, [], pause_seconds=lambda retry_ms: retry_ms / 20_000) as waiting:
        await eventually(lambda: gateway.gateway.hub.refused["per_topic"] >= 3)
        assert not waiting.connected
        first.close()
        await waiting.until(lambda: waiting.connected)
        await append_order(passline.nc, "live")
        await waiting.until(lambda: "live" in waiting.seen)


async def test_process_caps_its_streams_by_its_descriptors(passline: Passline) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard))
    try:
        gateway = await passline.gateway()
        assert gateway.gateway.hub.limits.per_process == stream_room(2000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
