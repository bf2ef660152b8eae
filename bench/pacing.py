"""Publishing at a pace, and what that costs a server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from bench.errors import EventsCoalesced
from bench.messages import Message
from bench.processes import cpu_seconds
from bench.sink import Stat

if TYPE_CHECKING:
    from bench.servers import Server
    from bench.sink import Sink

ATTEMPTS = 4
TOGETHER = 0.02
"""So much of the events may have gone out together with another one."""


class Run(msgspec.Struct, frozen=True):
    """One measured run. `cpu_us` are microseconds of the server's CPU time for each delivery, `sink_cpu_us` of the
    clients', `frame_bytes` is what a delivery has on the wire.
    """

    deliveries: int
    cpu_us: float
    sink_cpu_us: float
    frame_bytes: float
    stat: Stat


async def paced_run(server: Server, sink: Sink, *, events: int, rate: float) -> Run:
    """Publish `events` at `rate` a second, and see that each reading stream gets each of them, in a write of its own.

    A run on a machine so busy that events met is no run, and is repeated. Raises DeliveryMissing, EventsCoalesced.
    """
    for _ in range(ATTEMPTS):
        run = await _run(server, sink, events=events, rate=rate)
        written = await sink.segments()
        if written >= events * (1 - TOGETHER):
            return run
    raise EventsCoalesced(f"{server.name} delivered {events} events in {written:.1f} writes, {ATTEMPTS} times")


async def _run(server: Server, sink: Sink, *, events: int, rate: float) -> Run:
    await sink.reset()
    cpu, sink_cpu = cpu_seconds(server.pid), sink.cpu_seconds
    await publish_paced(server, events=events, rate=rate)
    stat = await sink.until_each_has(events)
    cpu, sink_cpu = cpu_seconds(server.pid) - cpu, sink.cpu_seconds - sink_cpu
    return Run(
        deliveries=stat.events,
        cpu_us=cpu / stat.events * 1e6,
        sink_cpu_us=sink_cpu / stat.events * 1e6,
        frame_bytes=stat.bytes / stat.events,
        stat=stat,
    )


async def publish_paced(server: Server, *, events: int, rate: float) -> None:
    """Publish so many, each at its time and not before the one before it was taken."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    for number in range(events):
        await asyncio.sleep(begin + number / rate - loop.time())
        await server.publish(Message())
