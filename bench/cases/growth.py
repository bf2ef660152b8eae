"""More streams: what a delivery and a stream cost at each number of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from bench.cases.fan_out import PAUSE_US
from bench.figures import RATIO, Figure, flatness, ratios
from bench.pacing import paced_run
from bench.processes import rss_bytes
from bench.servers.passline import passline
from bench.servers.yardstick import yardstick
from bench.sink import sink

if TYPE_CHECKING:
    from bench.bench import Bench

SIZES = (500, 2000, 8000, 15_000)
QUICK_SIZES = (500, 1000, 1500)
DELIVERIES_PER_SECOND = 40_000
"""At every size, so that what a process costs by itself and for each event is shared out among as many."""


async def growth(bench: Bench) -> AsyncIterator[Figure]:
    """CPU per delivery and memory per stream, at 500 to 15,000 streams."""
    sizes, seconds = bench.pick(SIZES, QUICK_SIZES), bench.pick(2.5, 0.5)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        ours, bare = await enter(passline(bench)), await enter(yardstick(bench))
        clients = await enter(sink(bench, ours.port, [ours.request], "passline-sink", pause_us=PAUSE_US))
        others = await enter(sink(bench, bare.port, [bare.request], "send-sink", pause_us=PAUSE_US))
        cpu, bare_cpu = [], []
        steps: list[float] = []
        open_streams = 0
        for size in sizes:
            before = rss_bytes(ours.pid)
            await clients.open(size - open_streams)
            steps.append((rss_bytes(ours.pid) - before) / (size - open_streams))
            await others.open(size - open_streams)
            open_streams = size
            rate = DELIVERIES_PER_SECOND / size
            runs: list[float] = []
            bare_runs: list[float] = []
            for _ in range(bench.pick(5, 2)):
                for server, its, into in ((ours, clients, runs), (bare, others, bare_runs)):
                    into.append((await paced_run(server, its, events=round(seconds * rate), rate=rate)).cpu_us)
            cpu.append(median(runs))
            bare_cpu.append(median(bare_runs))
            yield Figure(name=f"CPU per delivery, {size:,} streams", unit="µs", runs=tuple(runs))
            yield Figure(name=f"CPU, Passline / send(), {size:,} streams", unit=RATIO, runs=ratios(runs, bare_runs))
    yield Figure(
        name="CPU per delivery, dearest / cheapest size",
        unit=RATIO,
        runs=(flatness(cpu),),
        at_most=1.2,
        note=f"for the send() loop it is {flatness(bare_cpu):.2f}",
    )
    beside_bare = [one / other for one, other in zip(cpu, bare_cpu, strict=True)]
    yield Figure(name="Passline / send(), dearest / cheapest size", unit=RATIO, runs=(flatness(beside_bare),))
    # The first streams are those for which a process takes what it needs only once.
    for (fewer, size), step in zip(pairwise(sizes), steps[1:], strict=True):
        yield Figure(name=f"memory per stream, from {fewer:,} to {size:,}", unit="bytes", runs=(step,))
    name = "memory per stream, dearest / cheapest step"
    yield Figure(name=name, unit=RATIO, runs=(flatness(steps[1:]),), at_most=1.2)
