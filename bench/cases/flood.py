"""One topic, 2,000 streams, and a publisher that does not wait: what a core delivers when events come in numbers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from bench.cases.fan_out import PAUSE_US, QUICK_STREAMS, STREAMS
from bench.figures import RATIO, Figure, ratios
from bench.messages import Message
from bench.processes import cpu_seconds
from bench.servers.nchan import Nchan, nchan, publish_by
from bench.servers.passline import Passline, passline
from bench.servers.posting import poster
from bench.sink import Sink, sink

if TYPE_CHECKING:
    from bench.bench import Bench
    from bench.servers import Server

CONNECTIONS = 16
"""That post to nchan at once, where it is given events at a rate of their own."""

ARRIVE_SECONDS = 60.0

TIMED = 20
"""Every so-manieth client's latencies are taken."""


class Flood(msgspec.Struct, frozen=True):
    """One run. `per_core` are deliveries for a second of the server's CPU time, `per_second` for one of the clock."""

    per_core: float
    per_second: float
    p99_ms: float
    offered: float


async def flood(bench: Bench) -> AsyncIterator[Figure]:
    """Deliveries per second and core at the log's own pace, against nchan's best."""
    ours: list[Flood] = []
    same: list[Flood] = []
    alone: list[Flood] = []
    many, few = bench.pick(5000, 1000), bench.pick(200, 50)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        log = await enter(passline(bench))
        log_clients = await enter(sink(bench, log.port, [log.request], "log-sink", pause_us=PAUSE_US, timed=TIMED))
        other = await enter(nchan(bench))
        clients = await enter(sink(bench, other.port, [other.request], "nchan-sink", pause_us=PAUSE_US, timed=TIMED))
        for each in (log_clients, clients):
            await each.open(bench.pick(STREAMS, QUICK_STREAMS))
        runs = bench.pick(5, 2)
        for number in range(runs):
            ours.append(await _flooded(log, log_clients, many, partial(_log_all, log)))
            same.append(await _flooded(other, clients, few, partial(_post_at, other, ours[-1].offered)))
            alone.append(await _flooded(other, clients, few, partial(_post_each, other)))
            bench.progress(
                f"run {number + 1} of {runs}: deliveries a core-second: {ours[-1].per_core:,.0f}, "
                f"nchan {same[-1].per_core:,.0f} at the same rate, {alone[-1].per_core:,.0f} at its own"
            )
    best = [max(pair) for pair in zip(_per_core(same), _per_core(alone), strict=True)]
    times = ratios(_per_core(ours), best)
    yield Figure(name="deliveries, Passline / nchan's best", unit=RATIO, runs=times, at_least=15)
    for who, flooded in (("Passline", ours), ("nchan, same rate", same), ("nchan, its own rate", alone)):
        yield Figure(name=f"deliveries, {who}", unit="/s and core", runs=tuple(_per_core(flooded)))
        yield Figure(name=f"deliveries, {who}", unit="/s", runs=tuple(run.per_second for run in flooded))
        yield Figure(name=f"p99 latency, {who}", unit="ms", runs=tuple(run.p99_ms for run in flooded))
        yield Figure(name=f"offered, {who}", unit="events/s", runs=tuple(run.offered for run in flooded))


def _per_core(runs: list[Flood]) -> list[float]:
    return [run.per_core for run in runs]


async def _flooded(server: Server, clients: Sink, count: int, publish: Callable[[int], Awaitable[float]]) -> Flood:
    """`publish` is asked for `count` events, and tells how many it published in a second."""
    await clients.reset()
    cpu, began_ns = cpu_seconds(server.pid), time.monotonic_ns()
    offered = await publish(count)
    stat = await clients.until_each_has(count, ARRIVE_SECONDS)
    cpu = cpu_seconds(server.pid) - cpu
    return Flood(
        per_core=stat.events / cpu,
        per_second=stat.events / ((stat.last_event_ns - began_ns) / 1e9),
        p99_ms=stat.latency.p99_ms,
        offered=offered,
    )


async def _log_all(server: Passline, count: int) -> float:
    """As fast as JetStream takes them."""
    return await server.publish_all(Message() for _ in range(count))


async def _post_at(server: Nchan, rate: float, count: int) -> float:
    """Each at its time, whether those before were taken or not: what waits, waits in CONNECTIONS' turn."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    due: asyncio.Queue[Message | None] = asyncio.Queue()

    async def post() -> None:
        async with poster(server.port) as connection:
            while (message := await due.get()) is not None:
                await publish_by(connection, message)

    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(post())
        for number in range(count):
            if (wait := begin + number / rate - loop.time()) > 0:
                await asyncio.sleep(wait)
            due.put_nowait(Message())
        for _ in range(CONNECTIONS):
            due.put_nowait(None)
    return rate


async def _post_each(server: Nchan, count: int) -> float:
    """One after the other, each as soon as the one before was taken."""
    began = time.monotonic()
    for _ in range(count):
        await server.publish(Message())
    return count / (time.monotonic() - began)
