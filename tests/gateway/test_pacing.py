"""Clients that read slowly, or not at all, or have vanished: what they may take of time and memory, on real sockets."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import resource
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from gateway import handover
from gateway.descriptors import raise_descriptor_limit
from gateway.handover import StreamConnection
from streams.subscriber import WRITE_BYTES, End
from tests.gateway.test_handover import RawClient, head_of
from tests.gateway.test_streams import applied, event_ids, opened
from tests.gateway.ways import ON_BOTH_LOOPS
from tests.support.logs import append_order
from tests.support.nats import eventually
from tests.support.sse_client import Ending, open_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streams.hub import Hub
    from streams.subscriber import Subscriber
    from tests.support.gateway import Passline, RunningGateway

LARGE = [{"name": "x" * 500, "quantity": 1}] * 20
LARGE_BYTES = 11_000
"""The block of an event with these items is a little shorter."""

SMALL_BUFFER = 4096
UNCAPPED = dict.fromkeys(
    ("max_per_subject_topic", "max_per_subject", "max_per_address", "max_per_topic", "max_new_per_second"), 0
)


async def publish_large(passline: Passline, begin: int, end: int) -> None:
    for number in range(begin, end):
        await append_order(passline.nc, f"e{number}", kind="OrderPlaced", items=LARGE)


async def reader(gateway: RunningGateway) -> tuple[RawClient, Subscriber]:
    """A client with small buffers whose stream has begun, and its subscriber."""
    client = RawClient(gateway, receive_buffer=SMALL_BUFFER)
    await client.connect()
    before = set(gateway.gateway.hub._subscribers)
    await client.send(head_of(gateway))
    await client.until(b"event: snapshot")
    (subscriber,) = set(gateway.gateway.hub._subscribers) - before
    return client, subscriber


def connection_of(subscriber: Subscriber) -> StreamConnection:
    assert isinstance(subscriber.connection, StreamConnection)
    return subscriber.connection


def is_forgotten(connection: StreamConnection, hub: Hub) -> bool:
    return connection not in connection._server_state.connections and len(hub) == 0


async def test_client_that_reads_a_little_now_and_then_is_not_cut_and_misses_nothing(passline: Passline) -> None:
    """It takes much longer than the limit for what waits for it, but never stops."""
    gateway = await passline.gateway(progress_seconds=1.5, heartbeat_seconds=0.3)
    client, subscriber = await reader(gateway)
    await publish_large(passline, 0, 40)
    await eventually(lambda: subscriber.paused)
    loop = asyncio.get_running_loop()
    begin = paused_since = loop.time()
    longest = 0.0
    while loop.time() < begin + 4.5:
        await client.read_some(512)
        await asyncio.sleep(0.025)
        paused_since = paused_since if subscriber.paused else loop.time()
        longest = max(longest, loop.time() - paused_since)
    assert longest > 1.5
    await client.until(b'"eventId":"e39"')
    assert re.findall(rb'"eventId":"(e\d+)"', client.received) == [b"e%d" % number for number in range(40)]
    await eventually(lambda: subscriber.live)
    client.close()


@ON_BOTH_LOOPS
async def test_client_that_stops_reading_is_cut_after_the_limit_and_harms_nobody(passline: Passline) -> None:
    gateway = await passline.gateway(progress_seconds=0.5)
    async with (
        open_stream(gateway.kitchen("r1", receive_buffer=SMALL_BUFFER)) as stalled,
        open_stream(gateway.kitchen("r1")) as other,
    ):
        await opened(stalled)
        await opened(other)
        with capture_logs() as logs:
            await publish_large(passline, 0, 120)
            assert await event_ids(other, 120) == [f"e{number}" for number in range(120)]
            await eventually(lambda: gateway.gateway.hub.ended[End.STALLED] == 1)
        assert len(gateway.gateway.hub) == 1
        assert [line["keys"] for line in logs if line["event"] == "stream.stalled"] == [("restaurants/r1",)]
        assert await stalled.read_to_end() is Ending.RESET


@ON_BOTH_LOOPS
async def test_peer_that_vanished_without_a_word_is_forgotten(passline: Passline) -> None:
    """Nothing but heartbeats is written to it: its buffers would take minutes to be full."""
    gateway = await passline.gateway(progress_seconds=0.5, heartbeat_seconds=0.1)
    client, subscriber = await reader(gateway)
    connection = connection_of(subscriber)
    client.vanish()
    await eventually(lambda: is_forgotten(connection, gateway.gateway.hub))
    assert subscriber.closed is End.STALLED
    assert not subscriber.paused
    client.close()


@ON_BOTH_LOOPS
async def test_client_that_takes_all_it_is_sent_outlives_the_limit_in_silence(passline: Passline) -> None:
    gateway = await passline.gateway(progress_seconds=0.2, heartbeat_seconds=0.6)
    client, subscriber = await reader(gateway)
    for _ in range(2):
        client.received = b""
        await client.until(b"id: ")
    assert not subscriber.closed
    client.close()


@ON_BOTH_LOOPS
async def test_stream_that_ended_under_a_client_that_does_not_read_is_cut_in_time(
    passline: Passline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of its last words waits in this process, where nothing else would ever end it."""
    monkeypatch.setattr(handover, "LAST_BYTES_SECONDS", 0.3)
    gateway = await passline.gateway()
    client, subscriber = await reader(gateway)
    connection = connection_of(subscriber)
    connection.subscriber = None
    subscriber.close(End.GONE)
    connection.finish(b"x" * 1024 * 1024)
    assert connection._transport.get_write_buffer_size() > 0
    await eventually(lambda: is_forgotten(connection, gateway.gateway.hub))
    client.close()


@ON_BOTH_LOOPS
async def test_last_words_reach_a_client_that_reads_late(passline: Passline) -> None:
    gateway = await passline.gateway()
    client, subscriber = await reader(gateway)
    await publish_large(passline, 0, 20)
    await eventually(lambda: subscriber.paused)
    subscriber.close(End.REVOKED)
    await client.until(b'{"reason":"revoked"}')
    assert await client.ended()
    client.close()


@pytest.fixture
def _many_descriptors() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    raise_descriptor_limit()
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.usefixtures("_many_descriptors")
async def test_thousand_stalled_readers_take_so_much_memory_and_no_more(passline: Passline) -> None:
    """Each catches up from the window, so that what it is written is its own and shared with nobody."""
    gateway = await passline.gateway(**UNCAPPED)
    hub = gateway.gateway.hub
    await publish_large(passline, 0, 30)
    await applied(gateway, 30)
    request = head_of(gateway).replace(b"\r\n\r\n", f"\r\nLast-Event-ID: {hub.frames.epoch}-0\r\n\r\n".encode())
    async with open_stream(gateway.kitchen("r1")) as other:
        await opened(other)
        warm = await stalled_readers(gateway, request, 10)
        gc.collect()
        before = resident_bytes()
        clients = await stalled_readers(gateway, request, 1000)
        growth = resident_bytes() - before
        held = [connection_of(each)._transport.get_write_buffer_size() for each in hub._subscribers if each.paused]
        assert len(held) == 1010
        write = WRITE_BYTES + LARGE_BYTES
        # What waits is the rest of one write.
        assert min(held) > 0
        assert max(held) <= write
        assert growth <= 1000 * (write + 8 * 1024)
        await append_order(passline.nc, "live")
        assert await event_ids(other, 1) == ["live"]
    for client in warm + clients:
        client.close()
    await eventually(lambda: len(hub) == 0)


async def stalled_readers(gateway: RunningGateway, request: bytes, count: int) -> list[RawClient]:
    """So many more clients that ask and read nothing, once all of them are paused."""
    hub = gateway.gateway.hub
    expected = sum(each.paused for each in hub._subscribers) + count
    clients = [RawClient(gateway, receive_buffer=SMALL_BUFFER) for _ in range(count)]
    for client in clients:
        await client.connect()
        await client.send(request)
    await eventually(lambda: sum(each.paused for each in hub._subscribers) == expected, within=20)
    return clients


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
