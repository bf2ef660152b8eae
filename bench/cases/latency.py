"""From publishing to client, at an everyday rate; and what of it is the gateway's part.

A bare subscriber of the broker stands beside the clients, in the same process and by the same clock. It reads as a
gateway reads, by a push consumer without acknowledgements. What a client gets later than that, event by event, is what
the gateway adds. The time before is the broker's, which waits for the disk.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec

from bench.errors import DeliveryMissing
from bench.figures import Figure
from bench.messages import Message
from bench.processes import Running, running, waited_seconds
from bench.servers.passline import Passline, passline
from streams.discovery import find_running

if TYPE_CHECKING:
    from bench.bench import Bench

TOPICS = 50
STREAMS = 10
"""On each topic."""

RATE = 200.0
"""Events a second, on all topics together, in turn."""

PARTS = 3
"""The time is cut into so many; each is a run of the figures."""

WARM_UP = 200
"""Events at the start that don't count."""

ARRIVE_SECONDS = 5.0

_RECORD = struct.Struct("=IxxxxQQ")  # see bench/native/arrivals.c
_SUBSCRIBER = 0xFFFFFFFF


class Arrivals(msgspec.Struct, frozen=True):
    """By the time of publishing: when the subscriber had the event, and when each stream that had it."""

    subscriber: dict[int, int]
    streams: dict[int, list[int]]

    @classmethod
    def read(cls, records: bytes) -> Self:
        """What bench/native/arrivals.c has written."""
        subscriber: dict[int, int] = {}
        streams: dict[int, list[int]] = {}
        for who, stamp, at in _RECORD.iter_unpack(records):
            if who == _SUBSCRIBER:
                subscriber[stamp] = at
            else:
                streams.setdefault(stamp, []).append(at)
        return cls(subscriber, streams)

    def has_all(self, stamps: Sequence[int]) -> bool:
        """Whether each event came to the subscriber and, once, to each stream of its topic."""
        return all(each in self.subscriber and len(self.streams.get(each, ())) == STREAMS for each in stamps)


async def everyday(bench: Bench) -> AsyncIterator[Figure]:
    """Publish → client at 200 events/s on 50 topics: p50, p99, p99.9; and what the gateway adds."""
    async with passline(bench) as server, _clients(bench, server) as clients:
        await _publish(server, WARM_UP)
        waited = waited_seconds(server.pid)
        stamps = await _publish(server, int(RATE * bench.pick(60, 5)))
        waited = waited_seconds(server.pid) - waited
        arrivals = await _arrivals(bench, clients, stamps)
    size = len(stamps) // PARTS
    parts = [stamps[number * size : (number + 1) * size] for number in range(PARTS)]
    bare = [_sorted((arrivals.subscriber[each] - each) for each in part) for part in parts]
    whole = [_sorted(at - each for each in part for at in arrivals.streams[each]) for part in parts]
    added = [
        _sorted(at - arrivals.subscriber[each] for each in part for at in arrivals.streams[each]) for part in parts
    ]
    note = (
        f"{len(stamps):,} events, {len(stamps) * STREAMS:,} deliveries, in {PARTS} parts; for "
        f"{waited / (len(stamps) / RATE):.1%} of the time the gateway was ready to run and others had its core"
    )
    for share, at_most in ((0.99, 2.0), (0.5, None), (0.999, None)):
        yield _figure("added by the gateway", added, share, at_most, note)
    for share in (0.5, 0.99, 0.999):
        yield _figure("publish → client", whole, share)
    for share in (0.5, 0.99, 0.999):
        yield _figure("publish → bare subscriber", bare, share)


@asynccontextmanager
async def _clients(bench: Bench, server: Passline) -> AsyncIterator[Running]:
    broker = find_running(server.data_dir)
    requests = bench.directory / "arrivals.requests"
    requests.write_bytes(b"".join(_requests(server)))
    arguments = (str(server.port), requests, str(broker.port), broker.passwords["gateway"], _records(bench))
    command = (bench.program("arrivals"), *arguments)
    async with running("arrivals", command, directory=bench.directory, cores=bench.cores.others) as process:
        await process.line_with("ready")
        yield process


def _requests(server: Passline) -> Iterator[bytes]:
    for number in range(TOPICS):
        token = server.token(f"owner-{number}", restaurants={f"r{number}": "owner"})
        yield from [server.stream(f"restaurants/r{number}", token)] * STREAMS


def _records(bench: Bench) -> Path:
    return bench.directory / "arrivals.records"


async def _publish(server: Passline, count: int) -> list[int]:
    """Each at its time, whether those before were acknowledged or not; when each was published."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    stamps = []
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            await asyncio.sleep(max(0.0, begin + number / RATE - loop.time()))
            restaurant = number % TOPICS
            message = Message(f"r{restaurant}", f"order-{restaurant}", f"customer-{restaurant}")
            stamps.append(message.stamp_ns)
            group.create_task(server.publish(message))
    return stamps


async def _arrivals(bench: Bench, clients: Running, stamps: Sequence[int]) -> Arrivals:
    """As soon as all are there. Raises DeliveryMissing."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + ARRIVE_SECONDS
    while True:
        await clients.ask("write")
        arrivals = Arrivals.read(_records(bench).read_bytes())
        if arrivals.has_all(stamps):
            return arrivals
        if loop.time() > deadline:
            wrong = sum(abs(STREAMS - len(arrivals.streams.get(each, ()))) for each in stamps)
            raise DeliveryMissing(f"{wrong} of {len(stamps) * STREAMS} deliveries did not come, or came twice")
        await asyncio.sleep(0.2)


def _sorted(nanoseconds: Iterable[int]) -> list[float]:
    return sorted(each / 1e6 for each in nanoseconds)


def _figure(
    name: str, parts: Sequence[Sequence[float]], share: float, at_most: float | None = None, note: str = ""
) -> Figure:
    runs = tuple(part[int(share * len(part))] for part in parts)
    return Figure(name=f"{name}, p{share * 100:g}", unit="ms", runs=runs, at_most=at_most, note=note if at_most else "")
