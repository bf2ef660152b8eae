"""The benchmark's clients count what they are sent, wherever the bytes are cut. Needs a C compiler."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bench.bench import Bench
from bench.errors import DeliveryMissing, StreamsMissing
from bench.processes import Cores
from bench.sink import sink

pytestmark = pytest.mark.system

HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Fri, 20 Nov 2026 18:04:11 GMT\r\ncontent-type: text/event-stream\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
REQUESTS = (b"GET /a HTTP/1.1\r\n\r\n", b"GET /b HTTP/1.1\r\n\r\n")


class Streams:
    """A server of streams that are written to by the test."""

    def __init__(self) -> None:
        self.port = 0
        self.paths: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.opening = chunk(b'event: stream.opened\ndata: {"a":"b"}\nid: e-1\n\n')

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.paths.append((await reader.readuntil(b"\r\n\r\n")).split()[1])
        self.writers.append(writer)
        writer.write(HEAD + self.opening)


@pytest.fixture
async def streams() -> AsyncIterator[Streams]:
    streams = Streams()
    server = await asyncio.start_server(streams.accept, "127.0.0.1", 0)
    streams.port = server.sockets[0].getsockname()[1]
    yield streams
    for writer in streams.writers:
        writer.close()
    server.close()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    everywhere = frozenset(os.sched_getaffinity(0))
    return Bench(tmp_path, Cores(everywhere, everywhere), quick=True, progress=lambda _: None)


def chunk(block: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(block), block)


def stamped_event(number: int) -> bytes:
    stamp = time.monotonic_ns()
    return chunk(b'event: E\ndata: {"orderNumber":"t%d","n":%d}\nid: e-%d\n\n' % (stamp, number, number))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 31, 10_000])
async def test_events_are_counted_once_wherever_reads_end(streams: Streams, bench: Bench, size: int) -> None:
    async with sink(bench, streams.port, REQUESTS) as clients:
        await clients.open(1)
        await clients.reset()
        [writer] = streams.writers
        data = b"".join(stamped_event(number) for number in range(3)) + chunk(b"id: e-9\n\n")  # and a heartbeat
        for at in range(0, len(data), size):
            writer.write(data[at : at + size])
            read_upto = min(at + size, len(data))
            stat = await clients.until(lambda stat, upto=read_upto: stat.bytes == upto, 5)  # type: ignore[misc]
        assert (stat.bytes, stat.events, stat.latency.count) == (len(data), 3, 3)
        assert 0 < stat.latency.p50_ns <= stat.latency.max_ns < 5e9


async def test_writes_are_told_from_events(streams: Streams, bench: Bench) -> None:
    async with sink(bench, streams.port, REQUESTS) as clients:
        await clients.open(1)
        await clients.reset()
        for number, together in enumerate((1, 3, 1)):
            streams.writers[0].write(stamped_event(number) * together)
            await clients.until_each_has((1, 4, 5)[number])
        assert await clients.segments() == 3


async def test_each_stream_sends_the_next_request(streams: Streams, bench: Bench) -> None:
    async with sink(bench, streams.port, REQUESTS) as clients:
        stat = await clients.open(3)
        assert sorted(streams.paths) == [b"/a", b"/a", b"/b"]
        assert (stat.open, stat.events, stat.first_event.count) == (3, 3, 3)


async def test_a_stream_that_misses_an_event_is_noticed(streams: Streams, bench: Bench) -> None:
    async with sink(bench, streams.port, REQUESTS) as clients:
        await clients.open(2)
        await clients.reset()
        for writer in streams.writers[:1]:
            writer.write(stamped_event(1))
        with pytest.raises(DeliveryMissing):
            await clients.until_each_has(1, within=0.5)


async def test_a_stream_that_gets_an_event_twice_is_noticed(streams: Streams, bench: Bench) -> None:
    async with sink(bench, streams.port, REQUESTS) as clients:
        await clients.open(2)
        await clients.reset()
        for writer, times in zip(streams.writers, (1, 2), strict=True):
            writer.write(stamped_event(1) * times)
        await clients.until(lambda stat: stat.events == 3, 5)
        with pytest.raises(DeliveryMissing):
            await clients.until_each_has(1)


async def test_a_stream_that_is_cut_is_noticed(streams: Streams, bench: Bench) -> None:
    async with sink(bench, streams.port, REQUESTS) as clients:
        await clients.open(2)
        await clients.reset()
        streams.writers[0].close()
        with pytest.raises(DeliveryMissing):
            await clients.until_each_has(1)


async def test_a_stream_that_is_refused_is_noticed(streams: Streams, bench: Bench) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with sink(bench, server.sockets[0].getsockname()[1], REQUESTS) as clients:
        with pytest.raises(StreamsMissing):
            await clients.open(1)
    server.close()


async def test_stalled_ones_read_no_further_until_they_resume(streams: Streams, bench: Bench) -> None:
    async with sink(bench, streams.port, REQUESTS) as clients:
        await clients.open(1, stalled=True)
        await clients.reset()
        [writer] = streams.writers
        event = chunk(b'event: E\ndata: {"text":"%b"}\n\n' % (b"x" * 100_000))
        writer.write(event * 100)  # more than buffers hold
        drained = asyncio.create_task(writer.drain())
        stat = await clients.until(lambda stat: stat.bytes > 0, 0.3)
        assert (stat.stalled, stat.bytes) == (1, 0)
        assert not drained.done()
        await clients.resume()
        stat = await clients.until(lambda stat: stat.bytes == 100 * len(event), 5)
        assert (stat.stalled, stat.bytes, stat.events) == (0, 100 * len(event), 100)
        await drained


async def test_the_date_in_the_head_is_no_event(streams: Streams, bench: Bench) -> None:
    assert b"\ndate: " in HEAD
    async with sink(bench, streams.port, REQUESTS) as clients:
        assert (await clients.open(1)).events == 1
