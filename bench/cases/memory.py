"""Memory of open streams on which nothing happens: all on one topic, and each on its own; the same for nchan.

Counted is what the measured process has resident above what it had before they were opened. Others were opened and
closed by then: what is loaded at the first stream and stays does not count. The kernel's buffers count on neither side.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from bench.errors import StreamsMissing
from bench.figures import RATIO, Figure, ratios
from bench.messages import Message
from bench.population import Population, make_known
from bench.processes import rss_bytes
from bench.servers.nchan import nchan, publish_by
from bench.servers.passline import passline
from bench.servers.posting import poster
from bench.settling import closed, sockets
from bench.sink import sink

if TYPE_CHECKING:
    from bench.bench import Bench

WARM_UP = 200
STAFF = 100
"""Who watch the one topic, each with a token of their own and several streams."""

AT_ONCE = 16
"""Streams that are being opened at a time: requests on their way take memory, too."""

OPEN_SECONDS = 300.0
SETTLE_SECONDS = 0.5


NEW = "own topics, new clients with a snapshot"


async def idle(bench: Bench) -> AsyncIterator[Figure]:
    """Resident bytes per idle stream: one topic, own topics, against nchan."""
    streams, runs = bench.pick(10_000, 1_000), bench.pick(2, 1)
    shared = await _made(bench, "shared", Population(1, STAFF, 0))
    own = await _made(bench, "own", Population(100, 0, streams + WARM_UP))
    found: dict[str, list[float]] = {}
    for number in range(runs):
        for name, measure in (
            ("one topic", partial(_passline, bench, shared, streams)),
            ("one topic, nchan", partial(_nchan, bench, streams, 1)),
            ("own topics", partial(_passline, bench, own, streams)),
            ("own topics, nchan", partial(_nchan, bench, streams, streams + WARM_UP)),
        ):
            found.setdefault(name, []).append(await measure())
        bench.progress(
            f"run {number + 1} of {runs}: {', '.join(f'{name} {each[-1]:.0f}' for name, each in found.items())}"
        )
    if not bench.quick:
        found[NEW] = [await _passline(bench, own, streams, fresh=True)]
    for figure in _figures(found, streams):
        yield figure


def _figures(found: dict[str, list[float]], streams: int) -> list[Figure]:
    def memory(name: str, note: str, at_most: float | None = None) -> Figure:
        return Figure(
            name=name, unit="bytes", runs=tuple(found[name]), at_most=at_most, note=f"{streams:,} streams; {note}"
        )

    def ratio(name: str, at_most: float | None = None) -> Figure:
        runs = ratios(found[name], found[f"{name}, nchan"])
        return Figure(name=f"{name}, Passline / nchan", unit=RATIO, runs=runs, at_most=at_most)

    nginx = "of nginx's one worker, its shared memory included"
    each = "each is another order's, of another customer with another token"
    figures = [
        ratio("one topic", at_most=1 / 3),
        ratio("own topics"),
        memory("one topic", f"{STAFF} people with a token each", at_most=2500),
        memory("one topic, nchan", nginx),
        memory("own topics", each, at_most=4000),
        memory("own topics, nchan", nginx),
    ]
    return [*figures, memory(NEW, each, at_most=4000)] if NEW in found else figures


class Made(msgspec.Struct, frozen=True):
    """A log that every Passline of this name goes on with, of these people; `cursor` is its end."""

    name: str
    people: Population
    cursor: str


async def _made(bench: Bench, name: str, people: Population) -> Made:
    async with passline(bench, name=name) as server:
        return Made(name, people, str(await make_known(server, people.founding())))


async def _passline(bench: Bench, log: Made, streams: int, *, fresh: bool = False) -> float:
    """Each stream has had a heartbeat when it is measured, which by default would come after 15 s."""
    heartbeat = bench.pick(2, 1)
    async with passline(bench, {"PASSLINE_HEARTBEAT_SECONDS": str(heartbeat)}, log.name) as server:
        requests = log.people.requests(server, cursor=None if fresh else log.cursor, snapshot=fresh)
        return await _per_stream(bench, server.pid, server.port, requests, streams, settle=heartbeat + SETTLE_SECONDS)


async def _nchan(bench: Bench, streams: int, channels: int) -> float:
    """Each channel has one message already, which each subscriber gets: so much is sent to Passline's, too."""
    async with nchan(bench) as server, poster(server.port) as publisher:
        names = [f"channel-{number}" for number in range(channels)]
        for name in names:
            await publish_by(publisher, Message(), name)
        requests = [server.stream(name) for name in names]
        return await _per_stream(bench, server.pid, server.port, requests, streams, settle=SETTLE_SECONDS)


async def _per_stream(
    bench: Bench, pid: int, port: int, requests: Sequence[bytes], streams: int, *, settle: float
) -> float:
    """The last of the requests are for the warm-up, where there are so many."""
    before = sockets(pid)
    async with sink(bench, port, requests[-WARM_UP:], "warm-up") as clients:
        await clients.open(WARM_UP, at_once=AT_ONCE)
        await clients.close()
    await closed(pid, before)
    await asyncio.sleep(SETTLE_SECONDS)
    empty = rss_bytes(pid)
    async with sink(bench, port, requests) as clients:
        await clients.open(streams, at_once=AT_ONCE, within=OPEN_SECONDS)
        await asyncio.sleep(settle)
        stat = await clients.reset()
        if stat.open != streams:
            raise StreamsMissing(f"not all of {streams} streams are open still: {stat}")
        return (rss_bytes(pid) - empty) / streams
