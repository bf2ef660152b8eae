"""Everybody returns in the same moment, with cursors that the window covers: as after a restart, or a broken line.

A client is live when it has had all that it missed; that it then gets what is published next is seen to as well. They
return to a process that has just started and knows none of them, and to one that they were connected to before.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import msgspec

from bench.errors import DeliveryMissing, StreamsMissing
from bench.figures import Figure
from bench.population import Event, Population, make_known
from bench.processes import cpu_seconds
from bench.servers.counting import Asked, Counting
from bench.servers.passline import passline
from bench.settling import closed, sockets
from bench.sink import Sink, sink
from bench.verdict import check_verdict

if TYPE_CHECKING:
    from bench.bench import Bench
    from bench.servers.passline import Passline

MISSED = 5
"""Events that everybody of a restaurant's staff has missed; so many of its customers have missed one."""

AT_ONCE = 64
"""So many connect at a time where there is no storm."""

STORM_SECONDS = 60.0
LIVE_SECONDS = 10.0
NOISE = 10
"""Statements or requests in all: what a process asks by itself comes a little sooner or later."""

STARTED, KNOWN = "gateway just started", "gateway knew them"


class Storm(msgspec.Struct, frozen=True):
    """One storm: how long it took, what it cost for each client, what the gateway asked meanwhile; and what it asks
    while nothing happens, for as long.
    """

    seconds: float
    cpu_us: float
    asked: Asked
    idle: Asked


async def all_at_once(bench: Bench) -> AsyncIterator[Figure]:
    """10,000 clients return at once: time until all are live, and what is asked of SQL and JetStream for it."""
    people = bench.pick(Population(100, 50, 5000), Population(50, 10, 500))
    counting = Counting(bench)
    published = MISSED
    known: list[Storm] = []
    async with passline(bench, counting.environment) as server:
        cursor = str(await make_known(server, people.founding()))
        await make_known(server, _missed(people))
        requests = people.requests(server, cursor=cursor)
        await check_verdict(server.port, requests[0], "resumed")
        async with sink(bench, server.port, requests) as clients:
            await clients.open(len(people), at_once=AT_ONCE)
            await _close(server, clients, len(people))
            for _ in range(bench.pick(3, 1)):
                known.append(await _storm(bench, server, clients, people, counting, published))
                published += 1
    for figure in _figures(people, KNOWN, known, at_most=6.0, noise=NOISE / len(people)):
        yield figure
    unknown: list[Storm] = []
    for _ in range(bench.pick(2, 1)):
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(passline(bench, counting.environment))
            requests = people.requests(server, cursor=cursor)
            clients = await stack.enter_async_context(sink(bench, server.port, requests))
            unknown.append(await _storm(bench, server, clients, people, counting, published))
            published += 1
    for figure in _figures(people, STARTED, unknown):
        yield figure


def _figures(
    people: Population, gateway: str, storms: list[Storm], at_most: float | None = None, noise: float | None = None
) -> Iterator[Figure]:
    cpu = statistics.median(each.cpu_us for each in storms)
    yield Figure(
        name=f"until all are live, {gateway}",
        unit="s",
        runs=tuple(each.seconds for each in storms),
        at_most=at_most,
        note=(
            f"{people.restaurants * people.staff:,} people of {people.restaurants} restaurants, {people.orders:,} "
            f"customers, a token each; {cpu:.0f} µs of CPU each"
        ),
    )
    sql = [(each.asked.sql, each.idle.sql) for each in storms]
    sent = [(each.asked.sent, each.idle.sent) for each in storms]
    yield _asked(f"SQL statements per client, {gateway}", sql, len(people), noise)
    yield _asked(f"messages to JetStream per client, {gateway}", sent, len(people), noise)


def _asked(name: str, counts: list[tuple[int, int]], clients: int, at_most: float | None) -> Figure:
    """What was asked in the storm, beyond what an idle process asks."""
    return Figure(
        name=name,
        unit="",
        runs=tuple(max(0, asked - idle) / clients for asked, idle in counts),
        at_most=at_most,
        note="in all " + ", ".join(f"{asked} (idle {idle})" for asked, idle in counts),
    )


async def _storm(
    bench: Bench, server: Passline, clients: Sink, people: Population, counting: Counting, published: int
) -> Storm:
    """Everybody returns; in each restaurant so many events were published since, and one more is now.

    Raises StreamsMissing, DeliveryMissing, NotSettled.
    """
    # Each stream's opening; what the staff have missed; and each of it is one of its customer's, too.
    events = len(people) + published * people.restaurants * (people.staff + 1)
    await clients.reset()
    asked, cpu = await counting.asked(server), cpu_seconds(server.pid)
    began = await clients.begin_open(len(people), at_once=len(people))
    stat = await clients.until(lambda stat: stat.lost > 0 or stat.events >= events, STORM_SECONDS)
    if stat.lost or stat.open != len(people):
        raise StreamsMissing(f"not all of {len(people)} streams were open: {stat}")
    if stat.events != events:
        raise DeliveryMissing(f"{stat.events} events came instead of {events}: {stat}")
    cpu = cpu_seconds(server.pid) - cpu
    seconds = (stat.last_event_ns - began.began_ns) / 1e9
    after = await counting.asked(server)
    await asyncio.sleep(seconds)
    idle = (await counting.asked(server)).since(after)
    storm = Storm(seconds, cpu / len(people) * 1e6, after.since(asked), idle)
    bench.progress(f"all are live after {storm.seconds:.2f} s, {storm.cpu_us:.0f} µs of CPU a client")
    await _publish_one_more(server, clients, people, published)
    await _close(server, clients, len(people))
    return storm


async def _close(server: Passline, clients: Sink, count: int) -> None:
    open_ones = sockets(server.pid)
    await clients.close()
    await closed(server.pid, open_ones - count)


async def _publish_one_more(server: Passline, clients: Sink, people: Population, number: int) -> None:
    """An event in each restaurant comes to all its staff and to a customer: they are live. Raises DeliveryMissing."""
    await clients.reset()
    more = [people.order_event("OrderPreparing", order, f"-{number}") for order in range(people.restaurants)]
    await server.publish_all(more)
    events = people.restaurants * (people.staff + 1)
    stat = await clients.until(lambda stat: stat.lost > 0 or stat.events >= events, LIVE_SECONDS)
    if stat.lost or stat.events != events:
        raise DeliveryMissing(f"of what was published after the storm, {stat.events} came instead of {events}: {stat}")


def _missed(people: Population) -> Iterator[Event]:
    return (people.order_event("OrderAccepted", order) for order in range(people.restaurants * MISSED))
