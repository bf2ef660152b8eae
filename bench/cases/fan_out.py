"""One topic, 2,000 streams, events that come one by one: what a delivery costs, beside what else would carry it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, TypeAlias

from bench.figures import RATIO, Figure, ratios
from bench.pacing import Run, paced_run
from bench.servers.litestar import litestar_sse
from bench.servers.nchan import nchan
from bench.servers.passline import passline
from bench.servers.yardstick import yardstick
from bench.sink import Sink, sink

if TYPE_CHECKING:
    from bench.bench import Bench
    from bench.servers import Server

    Start: TypeAlias = Callable[[Bench], AbstractAsyncContextManager[Server]]

STREAMS = 2000
QUICK_STREAMS = 500
RATE = 20.0
"""Events a second. One takes 10 to 20 ms to be delivered to all, so the next one never catches up with it."""

LITESTAR_RATE = 10.0
"""Likewise for a server that needs 60 ms."""

PAUSE_US = 1000
"""Where CPU is measured, clients look for events so often: no delivery pays for waking its reader."""


async def against_send(bench: Bench) -> AsyncIterator[Figure]:
    """CPU per delivery, Passline against a C loop of send()."""
    ours, bare = await _compared(bench, passline, yardstick, rate=RATE)
    yield Figure(name="CPU, Passline / send() loop", unit=RATIO, runs=_cpu_ratios(ours, bare), at_most=1.25)
    yield cpu_figure("Passline", ours)
    yield cpu_figure("send() loop", bare)


async def against_nchan(bench: Bench) -> AsyncIterator[Figure]:
    """CPU per delivery, Passline against nginx with nchan."""
    ours, theirs = await _compared(bench, passline, nchan, rate=RATE)
    yield Figure(name="CPU, Passline / nchan", unit=RATIO, runs=_cpu_ratios(ours, theirs), at_most=0.8)
    yield cpu_figure("Passline", ours)
    yield cpu_figure("nchan", theirs)


async def against_litestar(bench: Bench) -> AsyncIterator[Figure]:
    """CPU per delivery, Passline against Litestar's ServerSentEvent with a queue for each client."""
    ours, theirs = await _compared(bench, passline, litestar_sse, rate=LITESTAR_RATE)
    yield Figure(name="CPU, Passline / Litestar", unit=RATIO, runs=_cpu_ratios(ours, theirs), at_most=0.25)
    yield cpu_figure("Passline", ours)
    yield cpu_figure("Litestar", theirs)


async def _compared(bench: Bench, *starts: Start, rate: float) -> list[list[Run]]:
    async with AsyncExitStack() as stack:
        contenders = [await stack.enter_async_context(start(bench)) for start in starts]
        return await interleaved(bench, contenders, runs=bench.pick(9, 2), rate=rate)


def _cpu_ratios(ours: list[Run], theirs: list[Run]) -> tuple[float, ...]:
    return ratios([run.cpu_us for run in ours], [run.cpu_us for run in theirs])


def cpu_figure(who: str, runs: list[Run]) -> Figure:
    """What a delivery costs one of them."""
    first = runs[0]
    return Figure(
        name=f"CPU per delivery, {who}",
        unit="µs",
        runs=tuple(run.cpu_us for run in runs),
        note=f"{first.frame_bytes:.0f} bytes each; the clients took {first.sink_cpu_us:.1f} µs each",
    )


async def interleaved(bench: Bench, servers: Sequence[Server], *, runs: int, rate: float = RATE) -> list[list[Run]]:
    """Runs of each server in turn, all with their streams open all the time; in the order of `servers`."""
    streams, seconds = bench.pick(STREAMS, QUICK_STREAMS), bench.pick(3.0, 1.0)
    found: list[list[Run]] = [[] for _ in servers]
    async with AsyncExitStack() as stack:
        sinks: list[Sink] = []
        for index, server in enumerate(servers):
            clients = await stack.enter_async_context(
                sink(bench, server.port, [server.request], f"sink-{index}", pause_us=PAUSE_US)
            )
            await clients.open(streams)
            sinks.append(clients)
        for server, clients in zip(servers, sinks, strict=True):
            await paced_run(server, clients, events=5, rate=rate)  # what is done only once, is done
        for number in range(runs):
            for server, clients, into in zip(servers, sinks, found, strict=True):
                into.append(await paced_run(server, clients, events=round(seconds * rate), rate=rate))
            bench.progress(
                f"run {number + 1} of {runs}: "
                + ", ".join(f"{each.name} {into[-1].cpu_us:.2f} µs" for each, into in zip(servers, found, strict=True))
            )
    return found
