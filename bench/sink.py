"""The clients: bench/native/sink.c and what it counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from bench.errors import DeliveryMissing, StreamsMissing
from bench.processes import Running, cpu_seconds, running

if TYPE_CHECKING:
    from bench.bench import Bench

OPEN_SECONDS = 60.0
ARRIVE_SECONDS = 30.0
SOFT_REFUSALS = 5
COME_BACK_SECONDS = 1.0

_POLL_SECONDS = 0.005


class Times(msgspec.Struct, frozen=True):
    """A distribution of durations, exact to 2 %."""

    count: int
    p50_ns: int
    p99_ns: int
    p999_ns: int
    max_ns: int

    @property
    def p50_ms(self) -> float:
        return self.p50_ns / 1e6

    @property
    def p99_ms(self) -> float:
        return self.p99_ns / 1e6

    @property
    def p999_ms(self) -> float:
        return self.p999_ns / 1e6


class Stat(msgspec.Struct, frozen=True):
    """What the sink has counted. Times are nanoseconds of CLOCK_MONOTONIC, 0 for never.

    Attributes:
        to_open, connecting, waiting: not asked for yet; without a connection; without a response's head.
        open, stalled: streams with a head; those of them that have stopped reading.
        without_event: of all that were begun and have not ended, those without their first event.
        refused, ended, failed: another status than 200; ended by the server after the head; before it. Since the last
            `open`.
        bytes, events: since the last reset. An event is a block with data, the opening one included.
        min_events, max_events: of the one open, reading stream with the fewest, and with the most.
        began_ns: when the last `open` was asked for.
        segments: see `Sink.segments`; 0 otherwise.
        latency: from the stamp in an event (see `bench.messages`) to its reading.
        first_event: from connect() to a stream's first event.
    """

    now_ns: int
    to_open: int
    connecting: int
    waiting: int
    open: int
    stalled: int
    without_event: int
    refused: int
    ended: int
    failed: int
    bytes: int
    events: int
    min_events: int
    max_events: int
    began_ns: int
    first_head_ns: int
    last_head_ns: int
    last_event_ns: int
    segments: float
    latency: Times
    first_event: Times

    @property
    def lost(self) -> int:
        """Streams that were asked for and are not open, or no more."""
        return self.refused + self.ended + self.failed


_decode = msgspec.json.Decoder(Stat).decode


class Sink:
    """Clients of one server. Made by `sink`."""

    def __init__(self, process: Running) -> None:
        self._process = process

    @property
    def cpu_seconds(self) -> float:
        """What the clients themselves have cost."""
        return cpu_seconds(self._process.pid)

    async def stat(self) -> Stat:
        """The counts now."""
        return _decode(await self._process.ask("stat"))

    async def begin_open(self, count: int, *, rate: int = 0, at_once: int = 64, stalled: bool = False) -> Stat:
        """Begin to open `count` more streams: `rate` a second (0: no limit), and no more than `at_once` of them
        without their first event. Those that are `stalled` read no further than that.
        """
        return _decode(await self._process.ask(f"open {count} {rate} {at_once}" + (" stalled" if stalled else "")))

    async def open(
        self, count: int, *, rate: int = 0, at_once: int = 64, stalled: bool = False, within: float = OPEN_SECONDS
    ) -> Stat:
        """The same, and wait until each has had its first event. Raises StreamsMissing.

        One that is cut before the others are open, as a soft refusal is, is asked for again: so would a client.
        """
        deadline = asyncio.get_running_loop().time() + within
        missing = count
        for _ in range(SOFT_REFUSALS):
            await self.begin_open(missing, rate=rate, at_once=at_once, stalled=stalled)
            left = deadline - asyncio.get_running_loop().time()
            stat = await self.until(lambda stat: stat.to_open + stat.without_event == 0, left)
            missing = stat.ended
            if not missing or stat.lost > stat.ended or stat.to_open + stat.without_event:
                break
            await asyncio.sleep(COME_BACK_SECONDS)
        if stat.lost or stat.to_open or stat.without_event:
            raise StreamsMissing(f"after {within:g} s not all of {count} streams were open: {stat}")
        return stat

    async def reset(self) -> Stat:
        """Begin anew to count events, bytes and times. What is on its way is counted later: wait for it before."""
        return _decode(await self._process.ask("reset"))

    async def segments(self) -> float:
        """How many pieces came for each stream since the last reset, in the mean: as many as the server wrote."""
        return _decode(await self._process.ask("segments")).segments

    async def resume(self) -> Stat:
        """Let the stalled ones read again."""
        return _decode(await self._process.ask("resume"))

    async def close(self) -> Stat:
        """Reset all connections, and forget them."""
        return _decode(await self._process.ask("close"))

    async def until(self, condition: Callable[[Stat], bool], within: float) -> Stat:
        """The counts as soon as they are as wanted, or after `within` seconds as they are then: look at them."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        while True:
            stat = await self.stat()
            if condition(stat) or loop.time() >= deadline:
                return stat
            await asyncio.sleep(_POLL_SECONDS)

    async def until_each_has(self, events: int, within: float = ARRIVE_SECONDS) -> Stat:
        """Wait until each reading stream has had exactly `events` since the last reset.

        Raises DeliveryMissing: one has more, has fewer after `within` seconds, or was lost.
        """
        stat = await self.until(lambda stat: stat.min_events >= events or stat.lost > 0, within)
        if stat.lost or (stat.min_events, stat.max_events) != (events, events):
            raise DeliveryMissing(f"not every stream has had each of {events} events: {stat}")
        return stat


@asynccontextmanager
async def sink(
    bench: Bench, port: int, requests: Iterable[bytes], name: str = "sink", *, pause_us: int = 0, timed: int = 1
) -> AsyncIterator[Sink]:
    """Clients of the server at `port`. Each stream that is opened sends the next request; after the last one comes the
    first again. `name` must be another one for each sink that runs at the same time.

    With `pause_us` they look for what has come only so often. Without it they are woken by it, which makes latencies
    exact; but on one machine the waking is done, and paid, by who sends, the more often the slower that is.

    Latencies are taken at every `timed`-th stream: for floods, where looking for stamps is most of what a client does.
    """
    path = bench.directory / f"{name}.requests"
    path.write_bytes(b"".join(requests))
    command = (bench.program("sink"), "127.0.0.1", str(port), path, str(pause_us), str(timed))
    async with running(name, command, directory=bench.directory, cores=bench.cores.others) as process:
        yield Sink(process)
