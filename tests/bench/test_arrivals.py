"""Arrivals at streams and at a bare subscriber of the broker: what is complete, and that each is noted once."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Iterable
from pathlib import Path

import pytest

from bench.bench import Bench
from bench.cases.latency import STREAMS, Arrivals
from bench.processes import Cores, running
from streams.embedded import EmbeddedNats
from tests.support.nats import client, publish

SUBSCRIBER = 0xFFFFFFFF
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


def records(arrivals: Iterable[tuple[int, int, int]]) -> bytes:
    return b"".join(struct.pack("=IxxxxQQ", *each) for each in arrivals)


def test_an_event_is_complete_when_the_subscriber_and_each_stream_had_it_once() -> None:
    everywhere = [(SUBSCRIBER, 7, 10), *((stream, 7, 11 + stream) for stream in range(STREAMS))]
    assert Arrivals.read(records(everywhere)).has_all([7])
    assert not Arrivals.read(records(everywhere[1:])).has_all([7])
    assert not Arrivals.read(records(everywhere[:-1])).has_all([7])
    assert not Arrivals.read(records([*everywhere, everywhere[-1]])).has_all([7])
    assert not Arrivals.read(records(everywhere)).has_all([7, 8])


def event(stamp: int) -> bytes:
    return b'{"orderNumber":"t%d"}' % stamp


@pytest.mark.system  # needs a C compiler
@pytest.mark.parametrize("size", [1, 5, 10_000])
async def test_arrivals_are_noted_wherever_reads_end(log_server: EmbeddedNats, tmp_path: Path, size: int) -> None:
    everywhere = frozenset(os.sched_getaffinity(0))
    bench = Bench(tmp_path, Cores(everywhere, everywhere), quick=True, progress=lambda _: None)
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writers.append(writer)
        writer.write(HEAD)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    requests, noted = tmp_path / "requests", tmp_path / "noted"
    requests.write_bytes(b"GET / HTTP/1.1\r\n\r\n" * 2)
    port, password = server.sockets[0].getsockname()[1], log_server.address.passwords["gateway"]
    command = (bench.program("arrivals"), str(port), requests, str(log_server.port), password, noted)
    stamps = [12_345_678_901_234 + number for number in range(3)]
    async with (
        running("arrivals", command, directory=tmp_path, cores=everywhere) as process,
        client(log_server, "publisher") as nc,
    ):
        await process.line_with("ready")
        for stamp in stamps:
            await publish(nc, data=event(stamp), headers={"Nats-Msg-Id": str(stamp)})
        told = b"".join(b"data: " + event(stamp) + b"\n\n" for stamp in stamps)
        for at in range(0, len(told), size):
            for writer in writers:
                writer.write(told[at : at + size])
                await writer.drain()
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            while True:
                await process.ask("write")
                found = Arrivals.read(noted.read_bytes())
                if all(stamp in found.subscriber and len(found.streams.get(stamp, ())) == 2 for stamp in stamps):
                    break
                await asyncio.sleep(0.01)
    assert list(found.subscriber) == stamps
    assert {stamp: len(at) for stamp, at in found.streams.items()} == dict.fromkeys(stamps, 2)
    for writer in writers:
        writer.close()
    server.close()
