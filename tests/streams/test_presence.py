"""Who is connected: what the processes tell of each other and of their streams, on a real broker."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest

from streams import presence
from streams.departures import REMEMBERED_SECONDS, Departures
from streams.gathering import FORGOTTEN_AFTER, NobodyAnswered, Roster
from streams.presence import Presence, ask_attendance
from streams.subscriber import End
from streams.topics import customer_feed, guest_feed, order_feed, partner_feed, restaurant_feed
from tests.support.delivery import Delivery, order_entry
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
            await asyncio.sleep(0)
            await nc.flush()
            await eventually(lambda: all(len(each.presence.alive) >= count for each in running))
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
        for process, order in ((first, ("r1", "r2")), (second, ("r2", "r1"))):
            for restaurant, ago in zip(order, (30, 10), strict=True):
                one, _ = process.subscribe(restaurant_feed(restaurant))
                other, _ = process.subscribe(partner_feed(restaurant))
                one.close(End.GONE)
                process.clock.now += 5
                other.close(End.STALLED)
                process.clock.now += ago
        began = time.time()
        latest = await attendance(nats_server, "r1", "r2")
    for restaurant in ("r1", "r2"):
        assert began - 10 <= (latest[restaurant] or 0) <= time.time() - 10


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


async def test_answer_is_what_was_heard_in_time(nats_server: EmbeddedNats) -> None:
    """A process that hangs costs the time that there is, and nothing else."""
    async with processes(nats_server, 2) as (first, second):
        await second.presence._client.publish("passline.presence.alive", b'{"process":"hung"}')
        await eventually(lambda: "hung" in first.presence.alive)
        first.subscribe(restaurant_feed("r1"))
        async with asyncio.timeout(5):
            assert (await attendance(nats_server, "r1", "r2", seconds=0.3))["r2"] is None
            connected = await second.presence.of_restaurant("r1")
    assert (connected.count, connected.processes, connected.is_complete) == (1, 2, False)


async def test_process_that_hangs_is_forgotten(nats_server: EmbeddedNats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "ALIVE_SECONDS", 0.05)
    async with processes(nats_server, 1) as (first,):
        await first.presence._client.publish("passline.presence.alive", b'{"process":"hung"}')
        await eventually(lambda: len(first.presence.alive) == 2)
        await eventually(lambda: len(first.presence.alive) == 1)


async def test_process_that_begins_hears_of_all_at_once_and_one_that_ends_is_forgotten_at_once(
    nats_server: EmbeddedNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "ALIVE_SECONDS", 3600)
    async with processes(nats_server, 1) as (first,):
        async with processes(nats_server, 1) as (second,):
            await eventually(lambda: len(second.presence.alive) == 2)
            assert set(first.presence.alive) == set(second.presence.alive)
        await eventually(lambda: len(first.presence.alive) == 1)


async def test_what_is_no_question_is_passed_over(nats_server: EmbeddedNats) -> None:
    async with processes(nats_server, 1) as (process,):
        nc = process.presence._client
        for subject in ("alive", "attendance", "restaurant", "order", "later"):
            for body in (b"", b"{", b"[]", b'{"restaurant":1}'):
                await nc.publish(f"passline.presence.{subject}", body, reply="passline.answers.gateway.x")
        process.subscribe(restaurant_feed("r1"))
        assert (await process.presence.of_restaurant("r1")).count == 1


async def test_open_stream_is_told_with_its_beginning_and_how_far_behind_it_is(nats_server: EmbeddedNats) -> None:
    async with processes(nats_server, 2) as (first, second):
        began = time.time()
        live, _ = first.subscribe(
            restaurant_feed("r1"), order_feed("o1", "r1", "c1"), partner_feed("r1"), subject="ann"
        )
        first.clock.now += 30
        slow, connection = first.subscribe(partner_feed("r1"), subject="device:r1:d1")
        connection.full_after = 0
        first.dispatch(order_entry(1), order_entry(2, restaurant="r2"))
        first.dispatch(order_entry(3, restaurant="r2"), order_entry(4))
        connected = await second.presence.of_restaurant("r1")
        again = await first.presence.of_restaurant("r1")
        assert live.live
        assert slow.paused
    assert again == connected
    assert (connected.count, connected.processes, connected.is_complete) == (2, 2, True)
    one, other = connected.streams
    assert (one.subject, one.topics, one.behind, one.paused) == ("ann", ("restaurants/r1", "partners/r1"), 0, False)
    assert (other.subject, other.topics, other.behind, other.paused) == ("device:r1:d1", ("partners/r1",), 2, True)
    assert other.connected_since - one.connected_since == pytest.approx(30)
    assert one.connected_since == pytest.approx(began, abs=5)


async def test_no_answer_is_larger_than_a_message_may_be(
    nats_server: EmbeddedNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    restaurant = "r" * 64
    async with processes(nats_server, 2) as both:
        for process in both:
            process.hub.limits = msgspec.structs.replace(process.hub.limits, per_subject_topic=0, per_subject=0)
            for _ in range(800):
                feeds = restaurant_feed(restaurant), partner_feed(restaurant)
                process.subscribe(*feeds, subject=f"device:{restaurant}:{'d' * 64}")
                process.clock.now += 1e-7
        monkeypatch.setattr(presence, "ANSWER_SECONDS", 20)
        connected = await both[0].presence.of_restaurant(restaurant)
    assert (connected.count, len(connected.streams), connected.is_complete) == (1_600, presence.MAX_STREAMS, True)


async def test_watchers_of_an_order_are_counted_by_audience(nats_server: EmbeddedNats) -> None:
    order = ("o1", "r1", "c1")
    async with processes(nats_server, 2) as (first, second):
        for process in (first, second):
            process.subscribe(order_feed(*order))
            process.subscribe(order_feed("o2", "r1", "c1"))
            process.subscribe(guest_feed(*order))
        first.subscribe(restaurant_feed("r1"), partner_feed("r1"))
        second.subscribe(partner_feed("r1"))
        second.subscribe(partner_feed("r2"))
        first.subscribe(customer_feed("c1"), order_feed(*order))
        second.subscribe(customer_feed("c1"))
        second.subscribe(customer_feed("c2"))
        second.subscribe(guest_feed(*order))
        watchers = await first.presence.of_order(*order)
    assert (watchers.restaurant, watchers.customer, watchers.guests) == (2, 4, 3)
    assert (watchers.processes, watchers.is_complete) == (2, True)


# -- Without a broker --------------------------------------------------------------------------------------------------


def test_departures_are_remembered_for_a_while_and_only_so_many() -> None:
    departures = Departures(most=3)
    for number in range(10):
        departures.note(f"restaurants/r{number % 4}", 100.0 + number)
        departures.note("orders/o1@r1.c1", 100.0)
    assert len(departures) == 3
    assert [departures.seconds_ago(f"restaurants/r{number}", 110.0) for number in range(4)] == [2.0, 1.0, None, 3.0]
    assert departures.seconds_ago("restaurants/r0", 108.0 + REMEMBERED_SECONDS) == REMEMBERED_SECONDS
    assert departures.seconds_ago("restaurants/r0", 108.5 + REMEMBERED_SECONDS) is None


def test_departures_of_long_ago_make_room() -> None:
    departures = Departures()
    for number in range(20):
        departures.note(f"restaurants/r{number}", number * REMEMBERED_SECONDS)
    assert len(departures) == 2


def test_roster_forgets_nobody_while_the_broker_is_away() -> None:
    """Time does not count, but only how often the process has heard itself."""
    roster = Roster("me")
    roster.heard("other")
    for _ in range(FORGOTTEN_AFTER - 1):
        roster.heard("me")
    assert roster.alive == ("me", "other")
    roster.heard("other")
    roster.heard("third")
    roster.left("me")
    roster.left("third")
    for _ in range(FORGOTTEN_AFTER - 1):
        roster.heard("me")
    assert roster.alive == ("me", "other")
    roster.heard("me")
    assert "other" not in roster.alive
