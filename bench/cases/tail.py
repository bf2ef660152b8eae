"""The tail by itself: how fast a process reads the log when it has fallen behind, and what an event costs it.

The broker is away for a while, and comes back with that many events more. What the gateway reads then, for its window
and its facts, is measured from end to end; the worker, which would read the same beside it, is stopped. One stream that
gets two of all the events says where the reading has come to. Then the same with one topic in a hundred watched.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING

import msgspec

from bench.errors import DeliveryMissing
from bench.figures import Figure
from bench.population import Event, Population, make_known
from bench.processes import cpu_seconds, descendant
from bench.servers.broker import Broker
from bench.servers.passline import passline
from bench.sink import Sink, sink

if TYPE_CHECKING:
    from bench.bench import Bench
    from bench.servers.passline import Passline

PEOPLE = Population(500, 1, 8001)
"""The customer of the last order is the one who says where the reading has come to."""

LAST = PEOPLE.orders - 1
WATCHED_RESTAURANTS = PEOPLE.restaurants // 100
WATCHED_ORDERS = LAST // 100
KINDS = ("OrderPaymentSucceeded", "OrderAccepted", "OrderPreparing", "OrderReadyForDelivery", "OrderDelivered")
BEGUN = 20
"""Of the events, the one at a 20th is the first that the one stream gets: by then the reading is in full swing."""

READ_SECONDS = 120.0


class Reading(msgspec.Struct, frozen=True):
    """What was read at once: so many events a second of the clock, and the gateway's CPU time for each."""

    per_second: float
    cpu_us: float


async def reading(bench: Bench) -> AsyncIterator[Figure]:
    """The tail: events per second and µs per event, nobody watching, and 1 % of the topics watched."""
    unwatched: list[Reading] = []
    watched: list[Reading] = []
    count, runs = bench.pick(200_000, 50_000), bench.pick(3, 1)
    broker = Broker(bench)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        presence = await enter(AsyncExitStack())
        await presence.enter_async_context(broker.running())
        server = await enter(passline(bench, broker.environment))
        await make_known(server, PEOPLE.founding())
        marker = await enter(sink(bench, server.port, [PEOPLE.order_topic(server, LAST)], "marker"))
        await marker.open(1)
        watchers = await enter(sink(bench, server.port, _watching(server), "watchers"))
        stack.enter_context(_stopped(descendant(server.supervisor_pid, "gateway.child worker")))
        for number in range(runs):
            for into in (unwatched, watched):
                await presence.aclose()
                await broker.fill(_events(count, f"-{number}-{len(watched)}-{len(unwatched)}"))
                await marker.reset()
                await watchers.reset()
                cpu = cpu_seconds(server.pid)
                await presence.enter_async_context(broker.running())
                rate = await _rate(marker, count)
                cpu = cpu_seconds(server.pid) - cpu
                into.append(Reading(rate, cpu / count * 1e6))
                if into is unwatched:
                    await watchers.open(WATCHED_RESTAURANTS + WATCHED_ORDERS)
                else:
                    await _check(watchers, count)
                    await watchers.close()
            bench.progress(f"run {number + 1} of {runs}: {_told(unwatched[-1])}; 1 % watched: {_told(watched[-1])}")
    for who, found in (("nobody watching", unwatched), ("1 % of topics watched", watched)):
        yield Figure(name=f"CPU per event, {who}", unit="µs", runs=tuple(each.cpu_us for each in found), at_most=10)
        yield Figure(
            name=f"events, {who}",
            unit="/s",
            runs=tuple(each.per_second for each in found),
            at_least=100_000,
            note=f"{count:,} events of {LAST:,} orders in {PEOPLE.restaurants} restaurants, {_body_bytes()} bytes each",
        )


def _told(one: Reading) -> str:
    return f"{one.per_second:,.0f}/s, {one.cpu_us:.1f} µs"


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _watching(server: Passline) -> list[bytes]:
    restaurants = [PEOPLE.restaurant_topic(server, number, 0) for number in range(WATCHED_RESTAURANTS)]
    return restaurants + [PEOPLE.order_topic(server, number) for number in range(WATCHED_ORDERS)]


def _events(count: int, mark: str) -> Iterator[Event]:
    """Of each order one, then of each the next; and two for the marker."""
    for number in range(count):
        turn, order = divmod(number, LAST)
        if number in (count // BEGUN, count - 1):
            order = LAST
        yield _event(turn, order, f"{mark}-{number}")


def _event(turn: int, order: int, mark: str) -> Event:
    return PEOPLE.order_event(
        KINDS[turn % len(KINDS)],
        order,
        mark,
        orderNumber="A-1234",
        customerName="Ada Lovelace",
        total={"amount": "19.00", "currency": "EUR"},
        estimatedDeliveryTime="2026-11-20T18:30:00Z",
    )


def _body_bytes() -> int:
    return len(_event(0, 0, "").body)


async def _rate(marker: Sink, count: int) -> float:
    """Events a second, between the marker's two. Raises DeliveryMissing."""
    begun = await marker.until(lambda stat: stat.events > 0 or stat.lost > 0, READ_SECONDS)
    ended = await marker.until(lambda stat: stat.events > 1 or stat.lost > 0, READ_SECONDS)
    if (begun.events, ended.events) != (1, 2):
        raise DeliveryMissing(f"the stream that was to get two events got {ended.events}: {ended}")
    return (count - 1 - count // BEGUN) / ((ended.last_event_ns - begun.last_event_ns) / 1e9)


async def _check(watchers: Sink, count: int) -> None:
    """Raises DeliveryMissing: those who watch did not get all that was for them."""
    orders = [event.subject.split(".")[1:4:2] for event in _events(count, "")]
    wanted = sum(
        (int(restaurant[1:]) < WATCHED_RESTAURANTS) + (int(order.rpartition("-")[2]) < WATCHED_ORDERS)
        for restaurant, order in orders
    )
    stat = await watchers.until(lambda stat: stat.events >= wanted, READ_SECONDS)
    if stat.lost or stat.events != wanted:
        raise DeliveryMissing(f"of {wanted} events for those who watch, {stat.events} came: {stat}")
