"""Who is connected: what the processes tell of each other and of their streams, on a real broker."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from streams.gathering import NobodyAnswered
from streams.presence import Presence, ask_attendance
from streams.subscriber import End
from streams.topics import order_feed, partner_feed, restaurant_feed
from tests.support.delivery import Delivery
from tests.support.nats import client, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.client import Client

    from streams.embedded import EmbeddedNats


class Process(Delivery):
    """A gateway process's hub, and what it answers."""

    def __init__(self, nc: Client) -> None:
        super().__init__()
        self.presence = Presence(nc, self.hub)


@asynccontextmanager
async def processes(server: EmbeddedNats, count: int) -> AsyncIterator[list[Process]]:
    """So many that have heard of each other."""
    async with client(server, "gateway") as nc:
        running = [Process(nc) for _ in range(count)]
        tasks = [asyncio.create_task(each.presence.run()) for each in running]
        try:
            await eventually(lambda: all(len(each.presence.alive) == count for each in running))
            yield running
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def attendance(server: EmbeddedNats, *restaurants: str, seconds: float = 5.0) -> dict[str, float | None]:
    """As the worker asks."""
    async with client(server, "worker") as worker:
        return await ask_attendance(worker, restaurants, seconds=seconds)


async def test_open_stream_anywhere_is_attendance_now(nats_server: EmbeddedNats) -> None:
    async with processes(nats_server, 2) as (first, second):
        first.subscribe(restaurant_feed("r1"))
        second.subscribe(partner_feed("r2"))
        second.subscribe(order_feed("o1", "r3", "c1"), restaurant_feed("r4"))
        begin = time.time()
        latest = await attendance(nats_server, "r1", "r2", "r3", "r4", "r5")
    assert latest["r3"] is latest["r5"] is None
    assert all(begin <= (latest[each] or 0) <= time.time() for each in ("r1", "r2", "r4"))


async def test_attendance_is_when_the_last_stream_ended(nats_server: EmbeddedNats) -> None:
    async with processes(nats_server, 2) as (first, second):
        for process, ago in ((first, 40), (second, 20)):
            one, _ = process.subscribe(restaurant_feed("r1"))
            other, _ = process.subscribe(partner_feed("r1"))
            one.close(End.GONE)
            process.clock.now += 5
            other.close(End.STALLED)
            process.clock.now += ago
        began = time.time()
        latest = await attendance(nats_server, "r1")
    assert began - 20 <= (latest["r1"] or 0) <= time.time() - 20


async def test_attendance_of_more_restaurants_than_fit_in_a_question(nats_server: EmbeddedNats) -> None:
    ids = [f"{number:064}" for number in range(2_500)]
    async with processes(nats_server, 1) as (process,):
        for each in ids[::2]:
            process.subscribe(restaurant_feed(each))
        latest = await attendance(nats_server, *ids)
    assert list(latest) == ids
    assert [latest[each] is None for each in ids] == [False, True] * 1_250


async def test_nobody_who_answers_is_not_nobody_who_looks(nats_server: EmbeddedNats) -> None:
    """Without waiting: the broker says that nobody listens."""
    async with asyncio.timeout(5):
        with pytest.raises(NobodyAnswered):
            await attendance(nats_server, "r1", seconds=60)
