"""The demo's town: what can happen to its orders, at which pace, and what it does while the broker is away."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from gateway.demo import TownAtWork
from gateway.town import CUSTOMERS, RESTAURANTS, WAYS, Town
from streams.events import (
    AnyEvent,
    OrderEvent,
    OrderPlaced,
    Role,
    StaffAssigned,
    decode,
    encode,
)
from streams.log import Log
from streams.publisher import Publisher
from tests.support.nats import client, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from streams.embedded import EmbeddedNats

NOW = dt.datetime(2026, 11, 20, 10, tzinfo=dt.UTC)


def town(*, seed: int = 1, restaurants: int = 3, orders_per_minute: float = 60) -> Town:
    return Town(seed=seed, restaurants=restaurants, orders_per_minute=orders_per_minute)


def minutes(of: Town, count: float, *, step_seconds: float = 0.5) -> list[OrderEvent]:
    def happened() -> Iterator[AnyEvent]:
        for _ in range(round(count * 60 / step_seconds)):
            yield from of.advance(step_seconds, NOW)

    return [event for event in happened() if isinstance(event, OrderEvent)]


def by_order(events: Sequence[OrderEvent]) -> dict[str, list[OrderEvent]]:
    orders: dict[str, list[OrderEvent]] = defaultdict(list)
    for event in events:
        orders[event.order_id].append(event)
    return orders


@pytest.mark.parametrize("seed", range(5))
def test_every_order_takes_one_of_the_ways_from_placed_on(seed: int) -> None:
    for events in by_order(minutes(town(seed=seed), 10)).values():
        assert type(events[0]) is OrderPlaced
        for before, after in pairwise(events):
            assert type(after) in {way.event for way in WAYS[type(before)]}
        assert len({(event.restaurant_id, event.customer_id, event.order_number) for event in events}) == 1


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
    assert len(finished) >= len(orders) - 2  # the last ones are on their way


def test_same_seed_gives_the_same_events_and_another_one_others() -> None:
    events = [encode(event) for event in minutes(town(seed=7), 2)]
    assert events == [encode(event) for event in minutes(town(seed=7), 2)]
    others = minutes(town(seed=8), 2)
    assert not {event.event_id for event in minutes(town(seed=7), 2)} & {event.event_id for event in others}


def test_length_of_the_steps_changes_nothing_in_the_order_of_things() -> None:
    coarse = minutes(town(), 5, step_seconds=10)
    assert coarse == minutes(town(), 5, step_seconds=0.1)


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
        [placed] = simulated.advance(0, NOW)
        assert isinstance(placed, OrderPlaced)
        assert placed.order_id == simulated.first_order.id
        assert (placed.restaurant_id, placed.customer_id) == (RESTAURANTS[0].id, CUSTOMERS[0].identity)
        events = by_order(minutes(simulated, 6))[placed.order_id]
        assert [event.type_name() for event in events] == [
            *("OrderPaymentSucceeded", "OrderAccepted", "OrderPreparing", "OrderReadyForDelivery", "OrderDelivered")
        ]


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
    busy = town(orders_per_minute=3000)
    async with client(log_server, "gateway") as nc:
        log = Log(nc)

        def publisher(known_owner: Any) -> Publisher:
            return Publisher(nc, log, known_owner)

        work = TownAtWork(busy, publisher)
        running = asyncio.create_task(work.run())
        try:
            await asyncio.wait_for(work.first_stored.wait(), 5)
            before = (await log.state()).last
            await log_server.restart()
            await eventually(lambda: _has_grown(log, before + 100), within=15)
        finally:
            running.cancel()
            await asyncio.wait({running})
        assert work.orders_last_minute > 10
        events = await _events(log)
    staff = len(town().staff(NOW))
    assert all(isinstance(event, StaffAssigned) for event in events[:staff])
    orders = [event for event in events[staff:] if isinstance(event, OrderEvent)]
    assert len(orders) == len(events) - staff
    assert len({event.event_id for event in events}) == len(events)
    for each in by_order(orders).values():
        assert type(each[0]) is OrderPlaced


async def _has_grown(log: Log, beyond: int) -> bool:
    return (await log.state()).last > beyond


async def _events(log: Log) -> list[AnyEvent]:
    found = []
    for sequence in range(1, (await log.state()).last + 1):
        stored = await log.get(sequence)
        assert stored is not None
        found.append(decode(stored.data))
    return found
