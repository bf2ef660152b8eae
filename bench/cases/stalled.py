"""Readers that stop reading: what the others notice, and what it costs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from bench.errors import StreamsMissing
from bench.figures import RATIO, Figure, ratios
from bench.messages import Message
from bench.pacing import paced_run
from bench.processes import rss_bytes, tcp_buffer_bytes
from bench.servers.passline import Passline, passline
from bench.sink import Sink, sink

if TYPE_CHECKING:
    from bench.bench import Bench

READERS = 1000
QUICK_READERS = 300
RATE = 20.0

FILLING = 24
FILLING_BYTES = 16_000
"""So many events of this size fill what a stalled reader's server and kernel hold for it, several times over."""

FRAME_BYTES = 17_000
LEAST_NOISE = 0.1

USER_BUFFER_BYTES = 64 * 1024
"""What may wait for a stalled reader in the process, beside one frame."""


async def stalled(bench: Bench) -> AsyncIterator[Figure]:
    """1,000 of 2,000 readers stop reading: p99 latency of the others, and memory."""
    with_them: list[float] = []
    without: list[float] = []
    memory: list[float] = []
    kernel: list[float] = []
    # As long as this case lasts nobody is ended for reading nothing.
    count = bench.pick(READERS, QUICK_READERS)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(passline(bench, {"PASSLINE_PROGRESS_SECONDS": "600"}))
        readers = await stack.enter_async_context(sink(bench, server.port, [server.request], "readers"))
        idle = await stack.enter_async_context(sink(bench, server.port, [server.request], "stalled"))
        await readers.open(count)
        events = bench.pick(100, 30)
        await _fill(server, readers)  # what it takes for itself to hold such events in its window
        for number in range(bench.pick(5, 2)):
            without.append((await paced_run(server, readers, events=events, rate=RATE)).stat.latency.p99_ms)
            await idle.open(count, stalled=True)
            before, kernel_before = rss_bytes(server.pid), tcp_buffer_bytes()
            await _fill(server, readers)
            memory.append((rss_bytes(server.pid) - before) / count)
            kernel.append((tcp_buffer_bytes() - kernel_before) / count)
            with_them.append((await paced_run(server, readers, events=events, rate=RATE)).stat.latency.p99_ms)
            await _check_stalled(idle, count)
            await idle.close()
            bench.progress(
                f"run {number + 1}: p99 {without[-1]:.1f} ms without, {with_them[-1]:.1f} ms with them, "
                f"{memory[-1]:,.0f} bytes for each"
            )
    alone = Figure(name=f"p99 of {count:,} readers", unit="ms", runs=tuple(without))
    yield Figure(
        name=f"p99 of the others, with / without {count:,} stalled",
        unit=RATIO,
        runs=ratios(with_them, without),
        at_most=1 + max(alone.spread, LEAST_NOISE),
        note="noise is how far the runs without them are apart, and 10 % at least",
    )
    yield alone
    yield Figure(name=f"p99 of them beside {count:,} stalled", unit="ms", runs=tuple(with_them))
    yield Figure(
        name="memory of the process per stalled reader",
        unit="bytes",
        runs=tuple(memory),
        at_most=USER_BUFFER_BYTES + FRAME_BYTES,
        note="bound: the buffer of 64 KiB and one frame",
    )
    yield Figure(name="memory of the kernel per stalled reader", unit="bytes", runs=tuple(kernel))


async def _fill(server: Passline, readers: Sink) -> None:
    """Publish until who does not read is paused. The readers get all of it."""
    await readers.reset()
    for _ in range(FILLING):
        await server.publish(Message(item_bytes=FILLING_BYTES))
    await readers.until_each_has(FILLING)


async def _check_stalled(idle: Sink, count: int) -> None:
    """Raises StreamsMissing: they are gone, or have read."""
    stat = await idle.stat()
    if stat.stalled != count or stat.lost:
        raise StreamsMissing(f"not all of {count} readers are stalled: {stat}")
