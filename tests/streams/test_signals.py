"""Signals: to the live streams of their order in every process, and to nobody else; on a real broker."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from streams.errors import BrokerUnavailable
from streams.signals import AUDIENCES, CourierPosition, Sender, Signal, Signals, Typing, Viewing
from streams.snapshots import OrderOwner
from streams.topics import Audience, customer_feed, guest_feed, order_feed, partner_feed, restaurant_feed
from tests.support.delivery import Delivery, Recorder, order_entry
from tests.support.nats import client, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.client import Client

    from streams.embedded import EmbeddedNats

OWNER = OrderOwner("r1", "c1")
ORDER = ("o1", "r1", "c1")
POSITION = CourierPosition(lat=52.5, lon=13.4)


class Process(Delivery):
    """A gateway process's hub, and its signals."""

    def __init__(self, nc: Client, *, fan_out_pause: int = 1000) -> None:
        super().__init__(fan_out_pause=fan_out_pause)
        self.signals = Signals(nc, self.hub)

    async def send(self, signal: Signal, order: str = "o1", owner: OrderOwner = OWNER) -> None:
        await self.signals.send(order, owner, Sender.RESTAURANT, signal)


@asynccontextmanager
async def processes(server: EmbeddedNats, count: int, **options: Any) -> AsyncIterator[list[Process]]:
    async with client(server, "gateway") as nc:
        running = [Process(nc, **options) for _ in range(count)]
        tasks = [asyncio.create_task(each.signals.run()) for each in running]
        await asyncio.sleep(0)
        await nc.flush()
        try:
            yield running
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


def told(connection: Recorder) -> list[Any]:
    """The signals that came, which is all that came."""
    blocks = connection.received.decode().split("\n\n")
    assert blocks.pop() == ""
    prefix = "event: ReceiveSignal\ndata: "
    assert all(block.startswith(prefix) and block.count("\n") == 1 for block in blocks)
    return [json.loads(block.removeprefix(prefix)) for block in blocks]


async def test_signal_reaches_the_orders_streams_in_every_process(nats_server: EmbeddedNats) -> None:
    async with processes(nats_server, 2) as (first, second):
        mine = [process.subscribe(order_feed(*ORDER))[1] for process in (first, second)]
        others = (("o2", "r1", "c1"), ("o1", "r2", "c1"), ("o1", "r1", "c2"))
        unconcerned = [first.subscribe(order_feed(*other))[1] for other in others]
        unconcerned += [second.subscribe(feed)[1] for feed in (restaurant_feed("r1"), partner_feed("r1"))]
        unconcerned.append(second.subscribe(customer_feed("c1"))[1])
        await first.send(Typing(role="chef"))
        await eventually(lambda: all(connection.received for connection in mine))
        assert [told(connection) for connection in mine] == [told(mine[0])] * 2
        (signal,) = told(mine[0])
        assert signal.pop("at").startswith("20")
        assert signal == {
            "topic": "orders/o1",
            "orderId": "o1",
            "type": "typing",
            "from": "restaurant",
            "role": "chef",
        }
        assert not any(connection.received for connection in unconcerned)


async def test_guest_is_shown_where_the_courier_is_and_nothing_else(nats_server: EmbeddedNats) -> None:
    async with processes(nats_server, 1) as (process,):
        _, guest = process.subscribe(guest_feed(*ORDER))
        _, customer = process.subscribe(order_feed(*ORDER))
        for signal in (Typing(role="chef"), Viewing(), POSITION):
            await process.send(signal)
        await eventually(lambda: len(told(customer)) == 3)
        assert [signal["type"] for signal in told(guest)] == ["courier_position"]
        assert {"lat": 52.5, "lon": 13.4}.items() <= told(guest)[0].items()


async def test_signal_is_for_who_is_live_at_that_moment(nats_server: EmbeddedNats) -> None:
    async with processes(nats_server, 1) as (process,):
        _, live = process.subscribe(order_feed(*ORDER))
        paused, slow = process.subscribe(order_feed(*ORDER))
        paused.pause()
        await process.send(Viewing())
        await eventually(lambda: bool(live.received))
        paused.resume()
        _, late = process.subscribe(order_feed(*ORDER))
        assert slow.received == late.received == b""
        await process.send(Viewing())
        await eventually(lambda: bool(late.received))
        assert len(told(slow)) == 1


async def test_signal_moves_no_cursor_and_puts_no_heartbeat_off(nats_server: EmbeddedNats) -> None:
    """A courier that tells its position each second would else keep a quiet order's stream at its old position."""
    async with processes(nats_server, 1) as (process,):
        subscriber, connection = process.subscribe(order_feed(*ORDER))
        process.dispatch(order_entry(1, order="o2"))
        for _ in range(3):
            process.clock.now += process.hub.heartbeat_seconds / 3
            await process.send(POSITION)
            await eventually(lambda: bool(connection.received))
            assert b"id:" not in connection.taken()
        assert subscriber.position == 1
        process.hub.tick()
        assert connection.taken() == b"id: e-1\n\n"


async def test_signal_to_many_lets_others_run(nats_server: EmbeddedNats) -> None:
    async with processes(nats_server, 1, fan_out_pause=2) as (process,):
        connections = [process.subscribe(order_feed(*ORDER))[1] for _ in range(7)]
        steps = process.hub.signal(order_feed(*ORDER).lane, {order_feed(*ORDER).key}, b"x")
        assert [sum(bool(each.received) for each in connections) for _ in steps] == [2, 4, 6]
        assert all(each.received == b"x" for each in connections)


async def test_signal_that_nobody_here_watches_is_not_kept(nats_server: EmbeddedNats) -> None:
    async with processes(nats_server, 1) as (process,):
        process.subscribe(restaurant_feed("r1"))
        _, customer = process.subscribe(order_feed("o2", "r1", "c1"))
        for _ in range(10):
            await process.send(Viewing())
        await process.send(Viewing(), "o2")
        await eventually(lambda: bool(customer.received))
        assert not process.signals._arrived


@pytest.mark.parametrize("subject", ["later.r1.c1.o1", "typing.r1.c1", "typing.r1.c1.o1.more", "typing.*.c1.o1", "x"])
async def test_what_is_no_signal_is_passed_over(nats_server: EmbeddedNats, subject: str) -> None:
    async with processes(nats_server, 1) as (process,):
        _, customer = process.subscribe(order_feed(*ORDER))
        await process.signals._client.publish(f"passline.signals.{subject}", b"{}")
        await process.send(Viewing())
        await eventually(lambda: bool(customer.received))
        assert [signal["type"] for signal in told(customer)] == ["viewing"]


async def test_signal_that_can_not_be_sent_now_is_refused(nats_server: EmbeddedNats) -> None:
    """It would be sent later, when it is worth nothing."""
    async with client(nats_server, "gateway") as nc:
        process = Process(nc)
    with pytest.raises(BrokerUnavailable):
        await process.send(Viewing())


def test_every_type_of_signal_says_who_is_shown_it() -> None:
    types = {kind.__struct_config__.tag for kind in (Typing, Viewing, CourierPosition)}
    assert set(AUDIENCES) == types
    assert {kind for kind, audiences in AUDIENCES.items() if Audience.GUEST in audiences} == {"courier_position"}
