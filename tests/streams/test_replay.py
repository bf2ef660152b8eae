"""Pages of the deeper past, from a real log: whole or refused, shared, and never kept for one that does not read."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest

from streams.errors import BrokerUnavailable
from streams.frames import Broadcast
from streams.log import Log
from streams.provision import provision
from streams.reader import EpochChanged, PositionExpired
from streams.replay import Page, Replay, Wanted, read_page
from streams.subscriber import End, Grant, Subscriber
from streams.topics import order_feed, restaurant_feed
from tests.support.delivery import Delivery, Recorder, accepted_block, order_entry
from tests.support.logs import SMALL, append_order, append_orders
from tests.support.nats import client, eventually, publish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.client import Client

    from streams.embedded import EmbeddedNats

R1, O1 = restaurant_feed("r1"), order_feed("o1", "r1", "c1")


async def page_of(nc: Client, filters: tuple[str, ...], after: int, fence: int, *, limit: int = 500) -> list[int]:
    """The sequences of a page and, last, the position that it is good for."""
    log = Log(nc)
    page = await read_page(nc, log, Wanted((await log.state()).epoch, filters, after), fence, limit=limit)
    return [*(each.sequence for each in page.broadcasts), page.upto]


async def test_page_holds_what_the_filters_find_up_to_the_fence(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as nc:
        for index in range(20):
            await append_order(nc, f"e{index}", restaurant=f"r{index % 3}", order=f"o{index % 3}")
        assert await page_of(nc, ("orders.r1.>",), 0, 20) == [2, 5, 8, 11, 14, 17, 20, 20]
        assert await page_of(nc, ("orders.r1.>",), 5, 10) == [8, 10]
        assert await page_of(nc, ("orders.r9.>",), 0, 20) == [20]
        assert await page_of(nc, ("orders.r1.>",), 20, 20) == [20]


async def test_page_of_several_topics_is_in_the_logs_order_and_bears_contained_filters(
    log_server: EmbeddedNats,
) -> None:
    async with client(log_server, "gateway") as nc:
        for index in range(9):
            await append_order(nc, f"e{index}", restaurant=f"r{index % 3}", order=f"o{index % 3}")
        filters = ("orders.r1.>", "orders.r1.c1.o1.>", "orders.r2.c1.o2.>")
        assert await page_of(nc, filters, 0, 9) == [2, 3, 5, 6, 8, 9, 9]


async def test_long_past_comes_in_several_pages(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as nc:
        await append_orders(nc, 1200)
        after, seen = 0, []
        while after < 1200:
            *sequences, after = await page_of(nc, ("orders.r1.>",), after, 1200, limit=100)
            seen += sequences
        assert seen == list(range(1, 1201))


async def test_page_is_refused_where_retention_has_taken_of_it(nats_server: EmbeddedNats) -> None:
    async with client(nats_server, "admin") as admin:
        await provision(admin, SMALL)
    async with client(nats_server, "gateway") as nc:
        for _ in range(8):
            await publish(nc, data=b"x" * 60_000)
        with pytest.raises(PositionExpired):
            await page_of(nc, ("orders.r1.>",), 1, 8)


async def test_page_of_another_epoch_is_refused(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as nc:
        with pytest.raises(EpochChanged):
            await read_page(nc, Log(nc), Wanted("other", ("orders.r1.>",), 0), 0)


class Shelf:
    """Stands where the log would: pages that a test lets go when it wants to."""

    def __init__(self) -> None:
        self.asked: list[tuple[Wanted, int]] = []
        self.answers: asyncio.Queue[Page | Exception] = asyncio.Queue()
        self.reading = 0
        self.most_at_once = 0

    async def read(self, wanted: Wanted, fence: int) -> Page:
        self.asked.append((wanted, fence))
        self.reading += 1
        self.most_at_once = max(self.most_at_once, self.reading)
        try:
            answer = await self.answers.get()
        finally:
            self.reading -= 1
        if isinstance(answer, Exception):
            raise answer
        return answer


@asynccontextmanager
async def replaying(delivery: Delivery, shelf: Shelf, *, max_pages: int = 64) -> AsyncIterator[Replay]:
    hub = delivery.hub
    replay = Replay(shelf.read, lambda: hub.frames.epoch, lambda: hub.head, max_pages=max_pages)
    hub.behind = replay.wants
    task = asyncio.create_task(replay.run())
    try:
        yield replay
    finally:
        task.cancel()
        await asyncio.wait({task})


def at_three() -> Delivery:
    """A hub at position 3 whose window holds only the last entry."""
    delivery = Delivery(max_entries=1)
    delivery.dispatch(*(order_entry(sequence) for sequence in (1, 2, 3)))
    return delivery


def whole() -> Page:
    return Page([Broadcast.of(order_entry(sequence)) for sequence in (1, 2, 3)], 3)


async def test_clients_that_need_the_same_share_one_page() -> None:
    delivery, shelf = at_three(), Shelf()
    async with replaying(delivery, shelf):
        clients = [delivery.subscribe(R1, at=0) for _ in range(50)]
        await shelf.answers.put(whole())
        await eventually(lambda: all(subscriber.live for subscriber, _ in clients))
        assert len(shelf.asked) == 1
        expected = b"".join(accepted_block(sequence, "restaurants/r1") for sequence in (1, 2, 3))
        assert {connection.received for _, connection in clients} == {expected}


async def test_few_pages_are_read_at_once() -> None:
    delivery, shelf = at_three(), Shelf()
    async with replaying(delivery, shelf, max_pages=3) as replay:
        clients = [delivery.subscribe(order_feed(f"o{index}", "r1", "c1"), at=0) for index in range(10)]
        await eventually(lambda: shelf.reading == 3)
        for _ in range(10):
            await shelf.answers.put(Page([], 3))
        await eventually(lambda: all(subscriber.live for subscriber, _ in clients))
        assert shelf.most_at_once == 3
        assert len(replay) == 0


async def test_page_is_not_kept_for_a_client_that_stopped_reading() -> None:
    delivery, shelf = at_three(), Shelf()
    async with replaying(delivery, shelf) as replay:
        subscriber, connection = delivery.subscribe(R1, at=0)
        await eventually(lambda: shelf.reading == 1)
        subscriber.pause()
        await shelf.answers.put(whole())
        await eventually(lambda: len(replay) == 0)
        assert connection.received == b""
        subscriber.resume()
        await shelf.answers.put(whole())
        await eventually(lambda: subscriber.live)
        assert len(shelf.asked) == 2


async def test_place_that_is_lost_ends_the_stream_with_lagged() -> None:
    delivery, shelf = at_three(), Shelf()
    async with replaying(delivery, shelf):
        subscriber, connection = delivery.subscribe(R1, at=0)
        await shelf.answers.put(PositionExpired(0, 3))
        await eventually(lambda: subscriber.closed is not None)
        assert subscriber.closed is End.LAGGED
        assert b'{"reason":"lagged"}' in connection.received


async def test_stream_stays_open_while_the_broker_is_away_and_goes_on_after() -> None:
    delivery, shelf = at_three(), Shelf()
    async with replaying(delivery, shelf):
        subscriber, connection = delivery.subscribe(R1, at=0)
        await shelf.answers.put(BrokerUnavailable("a page", 2.0, "not connected"))
        await eventually(lambda: len(shelf.asked) == 2)
        assert not subscriber.closed
        subscriber.heartbeat()
        assert connection.taken() == b"id: e-0\n\n"
        await shelf.answers.put(whole())
        await eventually(lambda: subscriber.live)


async def test_client_of_an_order_catches_up_from_the_log_itself(log_server: EmbeddedNats) -> None:
    delivery = Delivery(max_entries=2)
    async with client(log_server, "gateway") as nc:
        log = Log(nc)
        delivery.hub.window.frames.epoch = (await log.state()).epoch
        for index in range(30):
            await append_order(nc, str(index + 1), order=f"o{index % 3}")
        delivery.dispatch(*(order_entry(index + 1, order=f"o{index % 3}") for index in range(30)))
        hub = delivery.hub
        replay = Replay(partial(read_page, nc, log), lambda: hub.frames.epoch, lambda: hub.head)
        hub.behind = replay.wants
        task = asyncio.create_task(replay.run())
        connection = Recorder()
        subscriber = Subscriber(connection, (O1,), 4, Grant(hub.frames.epoch, hub.head))
        hub.subscribe(subscriber, b"")
        await eventually(lambda: subscriber.live)
        task.cancel()
        await asyncio.wait({task})
        ids = [line.split(b"-")[1] for line in connection.received.split(b"\n") if line.startswith(b"id: ")]
        assert ids == [b"5", b"8", b"11", b"14", b"17", b"20", b"23", b"26", b"29"]
