"""The demo's town: what can happen to its orders, at which pace, and what it does while the broker is away."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import UNSET

from gateway.commands.context import broker_over
from gateway.demo import TownAtWork, command_of
from gateway.order_service import Order, OrderService, decide
from gateway.town import CUSTOMERS, RESTAURANTS, WAYS, Town, Wanted
from gateway.town import Order as TownOrder
from streams.command_consumer import CommandConsumer
from streams.commands import Capacity
from streams.cursor import Cursor
from streams.events import (
    AnyEvent,
    Command,
    CommandExpired,
    CommandRejected,
    NotificationTarget,
    OrderCancelled,
    OrderEvent,
    OrderPaymentSucceeded,
    OrderPlaced,
    Role,
    StaffAssigned,
    decode,
    encode,
)
from streams.history import OrderHistory
from streams.log import Log
from tests.support.nats import client, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from streams.embedded import EmbeddedNats

NOW = dt.datetime(2026, 11, 20, 10, tzinfo=dt.UTC)


def town(*, seed: int = 1, restaurants: int = 3, orders_per_minute: float = 60) -> Town:
    return Town(seed=seed, restaurants=restaurants, orders_per_minute=orders_per_minute)


class Service:
    """An order service that answers at once."""

    def __init__(self) -> None:
        self.orders: dict[str, Order] = defaultdict(Order)

    def answer(self, wanted: Wanted) -> OrderEvent:
        return decide(command_of(wanted, Cursor("abc", 0), NOW), self.orders[wanted.order.id], NOW)


def minutes(of: Town, count: float, *, step_seconds: float = 0.5, service: Service | None = None) -> list[OrderEvent]:
    """What the log says after `count` minutes."""
    service = service or Service()

    def happened() -> Iterator[OrderEvent]:
        for _ in range(round(count * 60 / step_seconds)):
            for each in of.advance(step_seconds, NOW):
                event = service.answer(each) if isinstance(each, Wanted) else each
                assert isinstance(event, OrderEvent)
                service.orders[event.order_id].apply(event)
                of.heard(event)
                yield event

    return list(happened())


def by_order(events: Sequence[OrderEvent]) -> dict[str, list[OrderEvent]]:
    orders: dict[str, list[OrderEvent]] = defaultdict(list)
    for event in events:
        orders[event.order_id].append(event)
    return orders


def event_of(order: TownOrder, kind: type[OrderEvent], **more: Any) -> OrderEvent:
    """Something that somebody else has done."""
    return kind(
        event_id=f"of-another-{kind.__name__}",
        occurred_on_utc=NOW,
        order_id=order.id,
        restaurant_id=order.restaurant.id,
        customer_id=order.customer.identity,
        **more,
    )


@pytest.mark.parametrize("seed", range(5))
def test_every_order_takes_one_of_the_ways_from_placed_on_and_nothing_wanted_is_refused(seed: int) -> None:
    for events in by_order(minutes(town(seed=seed), 10)).values():
        assert type(events[0]) is OrderPlaced
        for before, after in pairwise(events):
            assert type(after) in {way.event for way in WAYS[type(before)]}
        assert len({(event.restaurant_id, event.customer_id, event.order_number) for event in events}) == 1
        assert not [event for event in events if isinstance(event, CommandRejected)]


def test_all_ways_are_taken_in_an_evening() -> None:
    taken = {
        (type(before), type(after))
        for events in by_order(minutes(town(), 60)).values()
        for before, after in pairwise(events)
    }
    assert taken == {(kind, way.event) for kind, ways in WAYS.items() for way in ways}


def test_every_order_comes_to_its_end() -> None:
    quiet = town(orders_per_minute=1)
    orders = by_order(minutes(quiet, 30))
    finished = [events for events in orders.values() if type(events[-1]) not in WAYS]
    assert len(finished) >= len(orders) - 3  # the last ones are on their way, and one waits


def test_same_seed_gives_the_same_events_and_another_one_others() -> None:
    events = [encode(event) for event in minutes(town(seed=7), 2)]
    assert events == [encode(event) for event in minutes(town(seed=7), 2)]
    others = minutes(town(seed=8), 2)
    assert not {event.event_id for event in minutes(town(seed=7), 2)} & {event.event_id for event in others}


@pytest.mark.parametrize("rate", [1, 30, 600])
def test_orders_are_placed_at_the_rate_that_was_asked_for(rate: int) -> None:
    placed = [event for event in minutes(town(orders_per_minute=rate), 20) if isinstance(event, OrderPlaced)]
    assert len(placed) == pytest.approx(20 * rate, rel=0.1, abs=2)


def test_every_event_can_be_published() -> None:
    events = [*town().staff(NOW), *minutes(town(), 10)]
    assert all(decode(encode(event)) == event for event in events)
    assert len({event.event_id for event in events}) == len(events)


def test_first_order_is_placed_at_once_and_spared_all_mishaps() -> None:
    for seed in range(20):
        simulated = town(seed=seed)
        service = Service()
        placed = minutes(simulated, 0.001, step_seconds=0.06, service=service)[0]
        assert isinstance(placed, OrderPlaced)
        assert placed.order_id == simulated.first_order.id
        assert (placed.restaurant_id, placed.customer_id) == (RESTAURANTS[0].id, CUSTOMERS[0].identity)
        events = by_order(minutes(simulated, 6, service=service))[placed.order_id]
        assert [event.type_name() for event in events] == [
            *("OrderPaymentSucceeded", "OrderAccepted", "OrderPreparing", "OrderReadyForDelivery", "OrderDelivered")
        ]


def test_waiting_order_is_accepted_by_nobody_of_the_town_and_goes_on_when_somebody_has() -> None:
    simulated, service = town(), Service()
    waiting = simulated.waiting_order
    events = by_order(minutes(simulated, 10, service=service))[waiting.id]
    assert [event.type_name() for event in events] == ["OrderPlaced", "OrderPaymentSucceeded"]
    wanted = Wanted("mine", Command.ACCEPT, waiting, "marco", Capacity.STAFF, UNSET)
    accepted = service.answer(wanted)
    service.orders[waiting.id].apply(accepted)
    simulated.heard(accepted)
    events = by_order(minutes(simulated, 2, service=service))[waiting.id]
    assert [event.type_name() for event in events] == ["OrderPreparing", "OrderReadyForDelivery", "OrderDelivered"]


def test_what_somebody_else_has_done_before_is_not_wanted_any_more() -> None:
    simulated = town(orders_per_minute=0.01)
    first = simulated.first_order
    for each in simulated.advance(0, NOW):
        assert isinstance(each, OrderPlaced)
        simulated.heard(each)
    [paid] = [each for each in simulated.advance(15, NOW) if isinstance(each, OrderEvent) and each.order_id == first.id]
    simulated.heard(paid)  # from now on the kitchen means to accept
    simulated.heard(event_of(first, OrderCancelled))
    assert [each for each in simulated.advance(600, NOW) if isinstance(each, Wanted)] == []


def test_what_nobody_has_done_is_wanted_again() -> None:
    simulated = town(orders_per_minute=0.01)
    first = simulated.first_order
    for each in simulated.advance(0, NOW):
        assert isinstance(each, OrderPlaced)
    simulated.heard(event_of(first, OrderPlaced))
    simulated.heard(event_of(first, OrderPaymentSucceeded))
    for _ in range(3):
        [wanted] = [each for each in simulated.advance(60, NOW) if isinstance(each, Wanted)]
        assert wanted.command is Command.ACCEPT
        told = {"command_id": wanted.command_id, "command": wanted.command, "target": NotificationTarget.RESTAURANT}
        simulated.heard(event_of(first, CommandExpired, **told))


def test_staff_of_the_towns_restaurants_is_assigned() -> None:
    assigned = [event for event in town(restaurants=2).staff(NOW) if isinstance(event, StaffAssigned)]
    assert {(event.restaurant_id, event.subject) for event in assigned if event.role is Role.OWNER} == {
        ("pizzeria-roma", "giulia"),
        ("sushi-kumo", "haruki"),
    }
    assert {event.restaurant_id for event in assigned} == {"pizzeria-roma", "sushi-kumo"}


@pytest.mark.parametrize(("restaurants", "rate"), [(0, 1), (len(RESTAURANTS) + 1, 1), (1, 0), (1, -1)])
def test_town_without_restaurants_or_orders_is_refused(restaurants: int, rate: float) -> None:
    with pytest.raises(ValueError, match="restaurants and orders"):
        town(restaurants=restaurants, orders_per_minute=rate)


# -- At work ---------------------------------------------------------------------------------------------------------


async def test_town_at_work_puts_staff_before_orders_and_each_event_once_through_an_outage(
    log_server: EmbeddedNats,
) -> None:
    busy = town(orders_per_minute=1200)
    async with client(log_server, "gateway") as nc, client(log_server, "orders") as services:
        log = Log(nc)
        work = TownAtWork(busy, broker_over(nc))
        service = OrderService(CommandConsumer(services, ack_wait_seconds=1), OrderHistory(services, Log(services)))
        running = [asyncio.create_task(work.run()), asyncio.create_task(service.run())]

        async def some_are_prepared() -> bool:
            return await log.next_match(before, "orders.*.*.*.OrderPreparing") is not None

        try:
            await asyncio.wait_for(work.first_stored.wait(), 5)
            await log_server.restart()
            before = (await log.state()).last
            await eventually(some_are_prepared, within=25)
            assert not any(task.done() for task in running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)
        assert work.orders_last_minute > 10
        events = await _events(log)
    staff = len(town().staff(NOW))
    assert all(isinstance(event, StaffAssigned) for event in events[:staff])
    orders = [event for event in events[staff:] if isinstance(event, OrderEvent)]
    assert len(orders) == len(events) - staff
    assert len({event.event_id for event in events}) == len(events)
    for each in by_order(orders).values():
        assert type(each[0]) is OrderPlaced
        for before_it, after_it in pairwise(each):
            assert type(after_it) in {way.event for way in WAYS[type(before_it)]}


async def _events(log: Log) -> list[AnyEvent]:
    found = []
    for sequence in range(1, (await log.state()).last + 1):
        stored = await log.get(sequence)
        assert stored is not None
        found.append(decode(stored.data))
    return found
