"""Publishing on real brokers: order, duplicates, conflicts, races for an order's first event, and brokers that fail."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from streams.broker import ATTEMPT_SECONDS, connect
from streams.credentials import inbox_prefix
from streams.events import (
    MAX_EVENT_BYTES,
    OrderAccepted,
    OrderEvent,
    OrderItem,
    OrderPlaced,
    OrderPreparing,
    Role,
    StaffAssigned,
    StaffRevoked,
    encode,
)
from streams.flights import WINDOW, Acknowledgements, Flight, Flights
from streams.log import Log
from streams.publisher import ProblemKind, Publisher, Result, Status
from streams.snapshots import OrderOwner
from tests.support.nats import api, client, eventually, publish
from tests.support.pausing import pause

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from nats.aio.client import Client

    from streams.embedded import EmbeddedNats
    from streams.events import Event
    from streams.log import Stored

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
ANSWER_SECONDS = 4.5
"""Within these a caller has its answer, whatever the broker does."""

# Of each conflict, by its kind and what it says.
OTHER_OWNER = (Status.FAILED, ProblemKind.CONFLICT, "the order belongs to another restaurant or customer")
OTHER_CONTENT = (Status.FAILED, ProblemKind.CONFLICT, "the log has another event with this eventId")


def placed(order_id: str, event_id: str, **fields: Any) -> OrderPlaced:
    return OrderPlaced(**order_fields(order_id, event_id, fields))


def accepted(order_id: str, event_id: str, **fields: Any) -> OrderAccepted:
    return OrderAccepted(**order_fields(order_id, event_id, fields))


def order_fields(order_id: str, event_id: str, fields: dict[str, Any]) -> dict[str, Any]:
    fixed = {"order_id": order_id, "event_id": event_id, "occurred_on_utc": NOW}
    return {**fixed, "restaurant_id": "r1", "customer_id": "c1", **fields}


def assigned(event_id: str, restaurant_id: str, role: Role = Role.STAFF) -> StaffAssigned:
    return StaffAssigned(
        event_id=event_id, occurred_on_utc=NOW, restaurant_id=restaurant_id, subject="auth0|5f", role=role
    )


def revoked(event_id: str, restaurant_id: str) -> StaffRevoked:
    return StaffRevoked(event_id=event_id, occurred_on_utc=NOW, restaurant_id=restaurant_id, subject="auth0|5f")


async def nobody_knows(order_id: str) -> OrderOwner | None:
    return None


async def all_known(order_id: str) -> OrderOwner | None:
    return OrderOwner("r1", "c1")


@pytest.fixture
async def gateway(log_server: EmbeddedNats) -> AsyncIterator[Client]:
    async with client(log_server, "gateway") as nc:
        yield nc


@pytest.fixture
def log(gateway: Client) -> Log:
    return Log(gateway)


@pytest.fixture
def publisher(gateway: Client, log: Log) -> Publisher:
    return Publisher(gateway, log, nobody_knows)


async def entries(log: Log) -> list[Stored]:
    found: list[Stored] = []
    while (entry := await log.next_match(found[-1].sequence if found else 0, ">")) is not None:
        found.append(entry)
    return found


async def event_ids(log: Log) -> list[str]:
    return [entry.headers["Nats-Msg-Id"] for entry in await entries(log)]


def statuses(results: Sequence[Result]) -> list[Status]:
    return [result.status for result in results]


def outcome(result: Result) -> tuple[Status, ProblemKind | None, str | None]:
    return result.status, result.kind, result.problem


async def timed_publish(publisher: Publisher, events: Sequence[Event]) -> list[Result]:
    started = time.monotonic()
    results = await publisher.publish(events)
    assert time.monotonic() - started < ANSWER_SECONDS
    return results


# -- What is stored --------------------------------------------------------------------------------------------------


async def test_events_are_stored_as_they_are_and_their_places_told(publisher: Publisher, log: Log) -> None:
    events = [placed("o1", "a", customer_id="auth0|5f"), assigned("b", "r1")]
    assert await publisher.publish(events) == [Result("a", Status.STORED, 1), Result("b", Status.STORED, 2)]
    first, second = await entries(log)
    assert (first.subject, first.data) == (events[0].log_subject(), encode(events[0]))
    assert (second.subject, second.data) == ("access.r1.StaffAssigned", encode(events[1]))
    assert (first.headers["Nats-Msg-Id"], second.headers) == ("a", {"Nats-Msg-Id": "b"})


async def test_no_events_are_no_results(publisher: Publisher) -> None:
    assert await publisher.publish([]) == []


@pytest.mark.parametrize("seed", range(4))
async def test_log_has_the_events_in_their_order(gateway: Client, log: Log, seed: int) -> None:
    """Orders that are known and orders that are not, few and many of the same, staff in between."""
    chance = random.Random(seed)
    orders = [f"o{number}" for number in range(chance.choice([2, 30, 400]))]

    async def half_known(order_id: str) -> OrderOwner | None:
        return OrderOwner("r1", "c1") if int(order_id[1:]) % 2 else None

    events: list[Event] = [
        assigned(f"e{number}", f"r{number % 3}")
        if chance.random() < 0.1
        else accepted(chance.choice(orders), f"e{number}")
        for number in range(400)
    ]
    results = await Publisher(gateway, log, half_known).publish(events)
    assert [outcome(result) for result in results] == [(Status.STORED, None, None)] * len(events)
    assert [result.sequence for result in results] == list(range(1, len(events) + 1))
    assert await event_ids(log) == [event.event_id for event in events]


async def test_calls_at_the_same_time_each_keep_their_order(publisher: Publisher, log: Log) -> None:
    calls = [
        [placed(f"o{call}-{number % 7}", f"{call}-{number}", reason=str(number)) for number in range(40)]
        for call in range(12)
    ]
    for results in await asyncio.gather(*(publisher.publish(events) for events in calls)):
        assert set(statuses(results)) == {Status.STORED}
    stored = await event_ids(log)
    assert len(stored) == 12 * 40
    for call, events in enumerate(calls):
        assert [each for each in stored if each.startswith(f"{call}-")] == [event.event_id for event in events]


# -- Duplicates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known_owner", [nobody_knows, all_known])
async def test_duplicates_are_told_and_stored_once(gateway: Client, log: Log, known_owner: Any) -> None:
    publisher = Publisher(gateway, log, known_owner)
    events = [
        placed("o1", "a"),
        accepted("o1", "b"),
        *(placed(f"o{each}", f"c{each}") for each in range(2, 3 * WINDOW)),
    ]
    first = await publisher.publish(events)
    second = await publisher.publish([*events, accepted("o2", "d")])
    assert set(statuses(first)) == {Status.STORED}
    assert second[:-1] == [Result(each.event_id, Status.DUPLICATE, each.sequence) for each in first]
    assert second[-1] == Result("d", Status.STORED, len(events) + 1)
    assert await event_ids(log) == [*(event.event_id for event in events), "d"]


async def test_event_that_stands_twice_in_one_call_is_stored_once(publisher: Publisher) -> None:
    events = [placed("o1", "a"), placed("o1", "a"), assigned("b", "r1"), assigned("b", "r1")]
    assert statuses(await publisher.publish(events)) == [Status.STORED, Status.DUPLICATE] * 2


async def test_duplicate_may_be_written_otherwise_than_what_is_stored(gateway: Client, publisher: Publisher) -> None:
    """Compared is what it says, not how: another service may have written it to the log itself."""
    event = placed("o1", "a")
    body = encode(event).replace(b"12:00:00Z", b"13:00:00+01:00").replace(b"{", b'{ "internal": 1, ', 1)
    await publish(gateway, event.log_subject(), body, {"Nats-Msg-Id": "a"})
    assert statuses(await publisher.publish([event])) == [Status.DUPLICATE]


@pytest.mark.parametrize("known_owner", [nobody_knows, all_known])
@pytest.mark.parametrize(
    "stored", [placed("o1", "a", reason="another"), accepted("o1", "a"), placed("o2", "a"), assigned("a", "r1")]
)
async def test_same_id_with_another_content_is_a_conflict(
    gateway: Client, log: Log, known_owner: Any, stored: Event
) -> None:
    publisher = Publisher(gateway, log, known_owner)
    await publisher.publish([stored])
    events = [placed("o1", "a"), accepted("o1", "b"), placed("o3", "c")]
    conflict, later, other = await publisher.publish(events)
    assert outcome(conflict) == OTHER_CONTENT
    assert outcome(later) == (
        Status.NOT_ATTEMPTED,
        ProblemKind.CONFLICT,
        "an earlier event of the same order failed",
    )
    assert other.status is Status.STORED
    assert await event_ids(log) == ["a", "c"]


async def test_id_that_stands_over_what_is_no_event_is_a_conflict(gateway: Client, log: Log) -> None:
    event = placed("o1", "a")
    await publish(gateway, "orders.r2.c2.o1.OrderPlaced", encode(event), {"Nats-Msg-Id": "a"})
    (result,) = await Publisher(gateway, log, all_known).publish([event])
    assert outcome(result) == OTHER_CONTENT


# -- Whose an order is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [{"restaurant_id": "r2"}, {"customer_id": "c2"}, {"customer_id": "auth0|5f"}])
async def test_event_against_the_known_owner_is_not_published(gateway: Client, log: Log, other: dict[str, Any]) -> None:
    publisher = Publisher(gateway, log, all_known)
    events = [accepted("o1", "a", **other), accepted("o1", "b"), accepted("o2", "c")]
    results = await publisher.publish(events)
    assert outcome(results[0]) == OTHER_OWNER
    assert statuses(results[1:]) == [Status.NOT_ATTEMPTED, Status.STORED]
    assert await event_ids(log) == ["c"]


@pytest.mark.parametrize("other", [{"restaurant_id": "r2"}, {"customer_id": "c2"}])
async def test_event_against_the_owner_by_the_log_is_not_published(
    publisher: Publisher, log: Log, other: dict[str, Any]
) -> None:
    await publisher.publish([placed("o1", "a")])
    results = await publisher.publish([accepted("o1", "b", **other), accepted("o1", "c"), accepted("o2", "d")])
    assert outcome(results[0]) == OTHER_OWNER
    assert statuses(results[1:]) == [Status.NOT_ATTEMPTED, Status.STORED]
    assert await event_ids(log) == ["a", "d"]


async def test_contradiction_inside_one_call_is_a_conflict(publisher: Publisher, log: Log) -> None:
    results = await publisher.publish([placed("o1", "a"), accepted("o1", "b", restaurant_id="r2")])
    assert results[0].status is Status.STORED
    assert outcome(results[1]) == OTHER_OWNER
    assert await event_ids(log) == ["a"]


async def test_order_of_which_only_the_log_knows_goes_on(publisher: Publisher, log: Log) -> None:
    await publisher.publish([placed("o1", "a"), accepted("o1", "b")])
    results = await publisher.publish([OrderPreparing(**order_fields("o1", "c", {})), accepted("o1", "b")])
    assert statuses(results) == [Status.STORED, Status.DUPLICATE]
    assert await event_ids(log) == ["a", "b", "c"]


async def test_orders_of_which_only_the_log_knows_keep_their_places(publisher: Publisher, log: Log) -> None:
    """The broker refuses their events at first, and later ones must not overtake them."""
    await publisher.publish([placed(f"o{number}", f"a{number}") for number in range(0, 100, 3)])
    events = [accepted(f"o{number}", f"b{number}") for number in range(100)]
    assert set(statuses(await publisher.publish(events))) == {Status.STORED}
    assert (await event_ids(log))[-100:] == [event.event_id for event in events]


async def test_what_is_no_event_owns_no_order(gateway: Client, publisher: Publisher, log: Log) -> None:
    unusable = [
        ("orders.r2.c2.o1.OrderPlaced", b"{}"),
        ("orders.r2.c2.o1.OrderPlaced", encode(placed("o1", "x"))),
        ("orders.r2.c2.o1.OrderTeleported", encode(placed("o1", "x")).replace(b"OrderPlaced", b"OrderTeleported")),
    ]
    for number, (subject, body) in enumerate(unusable):
        await publish(gateway, subject, body, {"Nats-Msg-Id": f"x{number}"})
    assert statuses(await publisher.publish([placed("o1", "a"), accepted("o1", "b")])) == [Status.STORED] * 2
    (refused,) = await publisher.publish([accepted("o1", "c", restaurant_id="r2")])
    assert outcome(refused) == OTHER_OWNER
    assert await event_ids(log) == ["x0", "x1", "x2", "a", "b"]


async def test_late_facts_do_not_hold_up_publishing(gateway: Client, log: Log) -> None:
    async def never(order_id: str) -> OrderOwner | None:
        await asyncio.Event().wait()
        return None

    results = await timed_publish(
        Publisher(gateway, log, never), [placed(f"o{each}", f"a{each}") for each in range(20)]
    )
    assert set(statuses(results)) == {Status.STORED}


@asynccontextmanager
async def two_publishers(server: EmbeddedNats) -> AsyncIterator[tuple[Publisher, Publisher]]:
    """As two gateways have them."""
    async with client(server, "gateway") as one, client(server, "gateway") as two:
        yield Publisher(one, Log(one), nobody_knows), Publisher(two, Log(two), nobody_knows)


async def test_of_two_owners_at_the_same_time_one_gets_the_order(log_server: EmbeddedNats, log: Log) -> None:
    async with two_publishers(log_server) as (one, two):
        for number in range(150):
            order = f"o{number}"
            mine = [placed(order, f"{order}-a"), accepted(order, f"{order}-b")]
            yours = [
                placed(order, f"{order}-x", customer_id="c2"),
                accepted(order, f"{order}-y", customer_id="c2"),
            ]
            both = await asyncio.gather(one.publish(mine), two.publish(yours))
            winner, loser = sorted(both, key=lambda results: results[0].status is not Status.STORED)
            assert statuses(winner) == [Status.STORED] * 2
            assert outcome(loser[0]) == OTHER_OWNER
            assert loser[1].status is Status.NOT_ATTEMPTED
    owners = {entry.subject.split(".")[3]: set[str]() for entry in await entries(log)}
    for entry in await entries(log):
        owners[entry.subject.split(".")[3]].add(entry.subject.split(".")[2])
    assert len(owners) == 150
    assert all(len(each) == 1 for each in owners.values())


async def test_of_one_owner_at_the_same_time_both_are_stored(log_server: EmbeddedNats, log: Log) -> None:
    async with two_publishers(log_server) as (one, two):
        for number in range(150):
            both = await asyncio.gather(
                one.publish([placed(f"o{number}", f"a{number}")]),
                two.publish([accepted(f"o{number}", f"b{number}")]),
            )
            assert [statuses(results) for results in both] == [[Status.STORED]] * 2
    assert len(set(await event_ids(log))) == len(await event_ids(log)) == 300


async def test_same_event_from_two_at_the_same_time_is_stored_once(log_server: EmbeddedNats, log: Log) -> None:
    async with two_publishers(log_server) as (one, two):
        for number in range(150):
            event = placed(f"o{number}", f"a{number}")
            both = await asyncio.gather(one.publish([event]), two.publish([event]))
            assert sorted(results[0].status for results in both) == [Status.DUPLICATE, Status.STORED]
            assert both[0][0].sequence == both[1][0].sequence == number + 1
    assert (await log.state()).last == 150


# -- What the broker does not take -----------------------------------------------------------------------------------


async def test_oversize_event_is_refused_and_the_others_go_on(publisher: Publisher, log: Log) -> None:
    items = [OrderItem(name="x" * 500, quantity=1)] * 150
    assert len(encode(placed("o1", "a", items=items))) > MAX_EVENT_BYTES
    results = await publisher.publish([placed("o1", "a", items=items), accepted("o1", "b"), placed("o2", "c")])
    assert outcome(results[0]) == (Status.FAILED, ProblemKind.REFUSED, "an event has at most 65536 bytes")
    assert (results[1].status, results[1].kind) == (Status.NOT_ATTEMPTED, ProblemKind.REFUSED)
    assert results[2].status is Status.STORED
    assert await event_ids(log) == ["c"]


async def test_brokers_own_refusal_is_told_and_the_others_go_on(
    log_server: EmbeddedNats, publisher: Publisher, log: Log
) -> None:
    async with client(log_server, "admin") as admin:
        configuration = (await api(admin, "STREAM.INFO.EVENTS"))["config"]
        updated = await api(admin, "STREAM.UPDATE.EVENTS", {**configuration, "max_msg_size": 1000})
        assert "error" not in updated
    long = {"items": [OrderItem(name="x" * 500, quantity=1)] * 2}
    results = await publisher.publish(
        [placed("o1", "a", **long), accepted("o1", "b"), assigned("c", "r1"), placed("o2", "d")]
    )
    assert results[0].kind is ProblemKind.REFUSED
    assert results[0].problem is not None
    assert "message size exceeds maximum" in results[0].problem
    assert statuses(results) == [Status.FAILED, Status.NOT_ATTEMPTED, Status.STORED, Status.STORED]


async def test_failure_about_staff_ends_what_is_said_of_that_restaurant(publisher: Publisher, log: Log) -> None:
    await publisher.publish([assigned("a", "r1")])
    results = await publisher.publish(
        [assigned("a", "r1", Role.OWNER), revoked("b", "r1"), revoked("c", "r2"), placed("o1", "d")]
    )
    assert statuses(results) == [Status.FAILED, Status.NOT_ATTEMPTED, Status.STORED, Status.STORED]
    assert await event_ids(log) == ["a", "c", "d"]


async def test_without_a_stream_nothing_is_stored_and_that_is_told_in_time(nats_server: EmbeddedNats) -> None:
    async with client(nats_server, "gateway") as nc:
        results = await timed_publish(Publisher(nc, Log(nc), all_known), [placed("o1", "a"), accepted("o1", "b")])
    assert statuses(results) == [Status.FAILED, Status.NOT_ATTEMPTED]
    assert {result.kind for result in results} == {ProblemKind.UNAVAILABLE}


# -- A broker that fails ---------------------------------------------------------------------------------------------


class Wire:
    """A TCP proxy before a broker. What the broker says passes through `change`, one protocol message at a time.

    While it is deaf, the broker hears nothing.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self.change = passed
        self.is_deaf = False
        self.port = 0

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await eventually(lambda: not self._writers)

    def cut(self) -> None:
        """End the connections that there are."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        broker_reader, broker_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, broker_writer}
        try:
            await asyncio.gather(self._to_broker(reader, broker_writer), self._from_broker(broker_reader, writer))
        finally:
            self._writers -= {writer, broker_writer}

    async def _to_broker(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if not self.is_deaf:
                    writer.write(data)
        writer.transport.abort()

    async def _from_broker(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                line = await reader.readuntil(b"\r\n")
                size = int(line.split()[-1]) + 2 if line.startswith((b"MSG ", b"HMSG ")) else 0
                writer.write(self.change(line + await reader.readexactly(size)))
        writer.transport.abort()


def passed(message: bytes) -> bytes:
    return message


def lost(message: bytes) -> bytes:
    return b""


BUSY = b'{"code":429,"err_code":10167,"description":"too many requests"}'


def refusing(message: bytes, error: bytes) -> bytes:
    """An answer of JetStream's with an error in its place."""
    payload = b'{"error":%b,"stream":"EVENTS","seq":0}' % error
    return b"%b %d\r\n%b\r\n" % (message.partition(b"\r\n")[0].rpartition(b" ")[0], len(payload), payload)


@asynccontextmanager
async def behind(wire: Wire, server: EmbeddedNats) -> AsyncIterator[Client]:
    url = server.url("gateway").replace(f":{server.port}", f":{wire.port}")
    async with connect(url, name="test", inbox_prefix=inbox_prefix("gateway"), on_closed=lambda: None) as nc:
        yield nc


@pytest.mark.parametrize("known_owner", [nobody_knows, all_known])
async def test_event_whose_acknowledgement_was_lost_is_stored_and_told_so(
    log_server: EmbeddedNats, log: Log, known_owner: Any
) -> None:
    events = [placed(f"o{number}", f"a{number}") for number in range(20)]
    async with Wire(log_server.port) as wire, behind(wire, log_server) as nc:
        publisher = Publisher(nc, Log(nc), known_owner)
        await publisher.publish([placed("first", "first")])
        wire.change = lost
        publishing = asyncio.create_task(timed_publish(publisher, events))

        async def has_come() -> bool:
            return (await log.state()).last > 1

        await eventually(has_come)
        wire.change = passed
        wire.cut()
        results = await publishing
    assert [outcome(result) for result in results] == [(Status.STORED, None, None)] * len(events)
    assert [result.sequence for result in results] == list(range(2, len(events) + 2))
    assert await event_ids(log) == ["first", *(event.event_id for event in events)]


async def test_event_without_an_answer_is_not_sent_again_behind_later_ones(log_server: EmbeddedNats, log: Log) -> None:
    """Had it not been stored, it would now come after them."""
    events = [placed(f"o{number}", f"a{number}") for number in range(2 * WINDOW)]
    async with Wire(log_server.port) as wire, behind(wire, log_server) as nc:
        publisher = Publisher(nc, Log(nc), all_known)
        wire.change = lambda message: b"" if b'"seq":4}' in message else message
        results = await timed_publish(publisher, events)
        assert statuses(results[:5]) == [Status.STORED] * 3 + [Status.FAILED] + [Status.STORED]
        assert results[3].kind is ProblemKind.UNAVAILABLE
        sent = statuses(results).index(Status.NOT_ATTEMPTED)
        assert set(statuses(results[4:sent])) == {Status.STORED}
        assert set(statuses(results[sent:])) == {Status.NOT_ATTEMPTED}
        wire.change = passed
        again = await publisher.publish(events)
    assert statuses(again) == [Status.DUPLICATE] * sent + [Status.STORED] * (len(events) - sent)
    assert await event_ids(log) == [event.event_id for event in events]


async def test_event_without_an_answer_is_sent_again_behind_what_had_been_stored_before(
    log_server: EmbeddedNats, log: Log
) -> None:
    """A later event that is a duplicate has been overtaken long ago."""
    async with Wire(log_server.port) as wire, behind(wire, log_server) as nc:
        publisher = Publisher(nc, Log(nc), all_known)
        await publisher.publish([placed("o2", "b")])
        wire.change = lambda message: b"" if b'"seq":2}' in message else message
        results = await timed_publish(publisher, [placed("o1", "a"), placed("o2", "b")])
    assert [(each.status, each.sequence) for each in results] == [(Status.STORED, 2), (Status.DUPLICATE, 1)]
    assert await event_ids(log) == ["b", "a"]


async def test_after_a_reconnect_what_was_on_its_way_goes_first(log_server: EmbeddedNats, log: Log) -> None:
    def flight(subject: str) -> Flight:
        return Flight(f"access.{subject}.StaffAssigned", b"{}")

    async with Wire(log_server.port) as wire, behind(wire, log_server) as nc:
        acknowledgements = Acknowledgements(nc)
        await acknowledgements.open()
        await nc.flush()
        flights: Flights[Flight] = Flights(nc, acknowledgements, asyncio.get_running_loop().time() + 4)
        wire.is_deaf = True
        await flights.send(flight("a"))
        await nc._flush_pending(force_flush=True)
        wire.cut()
        await eventually(lambda: not nc.is_connected)
        await flights.send(flight("b"))
        wire.is_deaf = False
        await eventually(lambda: nc.is_connected)
        await flights.send(flight("c"))
        while len(flights):
            await flights.landed()
    assert [entry.subject.split(".")[1] for entry in await entries(log)] == ["a", "b", "c"]


async def test_after_a_temporary_refusal_nothing_is_sent_again_before_the_other_answers(
    log_server: EmbeddedNats, log: Log
) -> None:
    """One of the others may be being stored, and what is sent now would come after it."""

    def first_refused_others_lost(message: bytes) -> bytes:
        if b'"stream":"EVENTS","seq":' not in message or b'"duplicate":' in message:
            return message
        return refusing(message, BUSY) if b'"seq":1}' in message else b""

    async with Wire(log_server.port) as wire, behind(wire, log_server) as nc:
        publisher = Publisher(nc, Log(nc), all_known)
        wire.change = first_refused_others_lost
        publishing = asyncio.create_task(
            timed_publish(publisher, [placed(f"o{each}", f"a{each}") for each in range(5)])
        )
        started = time.monotonic()
        await eventually(lambda: nc.stats["out_msgs"] >= 5)
        assert time.monotonic() - started < ATTEMPT_SECONDS
        await eventually(lambda: nc.stats["out_msgs"] > 5)
        assert time.monotonic() - started >= ATTEMPT_SECONDS
        assert statuses(await publishing) == [Status.DUPLICATE] + [Status.STORED] * 4
    assert await event_ids(log) == [f"a{each}" for each in range(5)]


@pytest.mark.parametrize(
    "error",
    [
        b'{"code":409,"err_code":10158,"description":"duplicate message id is in process"}',
        b'{"code":400,"err_code":10164,"description":"wrong last sequence"}',
        b'{"code":503,"err_code":10008,"description":"system temporarily unavailable"}',
        BUSY,
    ],
)
@pytest.mark.parametrize("known_owner", [nobody_knows, all_known])
async def test_temporary_refusal_is_asked_again(
    log_server: EmbeddedNats, log: Log, known_owner: Any, error: bytes
) -> None:
    """As a cluster answers, where the very same event comes from another publisher at the same time."""

    def refused(message: bytes) -> bytes:
        if b'"seq":1}' not in message:
            return message
        wire.change = passed
        return refusing(message, error)

    async with Wire(log_server.port) as wire, behind(wire, log_server) as nc:
        wire.change = refused
        results = await Publisher(nc, Log(nc), known_owner).publish([placed("o1", "a"), accepted("o1", "b")])
        assert wire.change is passed
    assert [(result.status, result.sequence) for result in results] == [(Status.DUPLICATE, 1), (Status.STORED, 2)]


@pytest.mark.parametrize("known_owner", [nobody_knows, all_known])
async def test_event_that_was_sent_again_in_vain_is_stored_once(
    log_server: EmbeddedNats, gateway: Client, log: Log, known_owner: Any
) -> None:
    publisher = Publisher(gateway, log, known_owner)
    await publisher.publish([placed("first", "first")])
    sent_before = gateway.stats["out_msgs"]
    pause(log_server.pid)
    try:
        publishing = asyncio.create_task(timed_publish(publisher, [placed("o1", "a"), accepted("o1", "b")]))
        await eventually(lambda: gateway.stats["out_msgs"] >= sent_before + 2)
    finally:
        os.kill(log_server.pid, signal.SIGCONT)
    assert statuses(await publishing) == [Status.STORED, Status.STORED]
    assert await event_ids(log) == ["first", "a", "b"]


async def test_hung_broker_is_told_in_time_and_sending_again_stores_once(
    log_server: EmbeddedNats, gateway: Client, log: Log
) -> None:
    publisher = Publisher(gateway, log, all_known)
    events = [accepted(f"o{number % 100}", f"e{number}") for number in range(300)]
    await publisher.publish(events[:10])
    pause(log_server.pid)
    try:
        hung = await timed_publish(publisher, events)
    finally:
        os.kill(log_server.pid, signal.SIGCONT)
    assert statuses(hung) == [Status.FAILED] * WINDOW + [Status.NOT_ATTEMPTED] * (len(events) - WINDOW)
    assert {result.kind for result in hung} == {ProblemKind.UNAVAILABLE}

    results = await publisher.publish(events)
    assert set(statuses(results)) <= {Status.STORED, Status.DUPLICATE}
    assert await event_ids(log) == [event.event_id for event in events]


async def test_hung_broker_is_told_in_time_to_many_who_send_much(
    log_server: EmbeddedNats, gateway: Client, log: Log
) -> None:
    """More than the connection holds back."""
    publisher = Publisher(gateway, log, all_known)
    items = [OrderItem(name="x" * 500, quantity=1)] * 110
    calls = [
        [placed(f"o{call}-{number}", f"{call}-{number}", items=items) for number in range(70)] for call in range(6)
    ]
    await publisher.publish(calls[0][:1])
    pause(log_server.pid)
    try:
        hung = await asyncio.gather(*(timed_publish(publisher, events) for events in calls))
    finally:
        os.kill(log_server.pid, signal.SIGCONT)
    assert {result.kind for results in hung for result in results} == {ProblemKind.UNAVAILABLE}
    again = await publisher.publish(calls[-1])
    assert set(statuses(again)) <= {Status.STORED, Status.DUPLICATE}


async def test_broker_that_is_away_is_told_in_time_and_found_again(
    log_server: EmbeddedNats, gateway: Client, log: Log
) -> None:
    publisher = Publisher(gateway, log, nobody_knows)
    events = [placed("o1", "a"), accepted("o1", "b"), placed("o2", "c")]
    os.kill(log_server.pid, signal.SIGKILL)
    await log_server.wait_exited()
    await eventually(lambda: not gateway.is_connected)
    away = await timed_publish(publisher, events)
    assert [outcome(result)[:2] for result in away] == [(Status.NOT_ATTEMPTED, ProblemKind.UNAVAILABLE)] * 3
    await log_server.restart()
    assert statuses(await publisher.publish(events)) == [Status.STORED] * 3
    assert await event_ids(log) == ["a", "b", "c"]


async def test_restart_in_the_middle_of_a_call_is_got_over(log_server: EmbeddedNats, gateway: Client, log: Log) -> None:
    publisher = Publisher(gateway, log, all_known)
    events = [accepted(f"o{number % 100}", f"e{number}") for number in range(600)]
    publishing = asyncio.create_task(timed_publish(publisher, events))
    async with client(log_server, "gateway") as other:

        async def half_way() -> bool:
            return (await Log(other).state()).last > 100

        await eventually(half_way)
        os.kill(log_server.pid, signal.SIGKILL)
        await log_server.restart()
        assert set(statuses(await publishing)) == {Status.STORED}
    assert await event_ids(log) == [event.event_id for event in events]


async def test_killed_broker_loses_and_doubles_nothing(log_server: EmbeddedNats, gateway: Client, log: Log) -> None:
    """Several publishers, as a service does it: what failed or was not attempted is sent again until it is stored."""
    publisher = Publisher(gateway, log, nobody_knows)
    acknowledged: dict[str, int] = {}

    async def serve(name: str) -> list[OrderEvent]:
        published: list[OrderEvent] = []
        for batch in range(8):
            events: list[OrderEvent] = [
                (placed if number < 10 and not batch else accepted)(f"{name}{number % 10}", f"{name}-{batch}-{number}")
                for number in range(60)
            ]
            published += events
            while events:
                results = await timed_publish(publisher, events)
                acknowledged.update((each.event_id, each.sequence) for each in results if each.sequence is not None)
                assert all(each.kind in (None, ProblemKind.UNAVAILABLE) for each in results)
                events = [event for event in events if event.event_id not in acknowledged]
        return published

    async def kill() -> None:
        for wanted in (300, 600, 900):

            def are_enough(wanted: int = wanted) -> bool:
                return len(acknowledged) >= wanted

            await eventually(are_enough, within=15)
            os.kill(log_server.pid, signal.SIGKILL)
            await log_server.wait_exited()
            await log_server.restart()

    *services, _ = await asyncio.gather(serve("a"), serve("b"), serve("c"), kill())
    stored = await entries(log)
    ids = [entry.headers["Nats-Msg-Id"] for entry in stored]
    assert len(ids) == len(set(ids)) == 3 * 8 * 60
    assert {entry.headers["Nats-Msg-Id"]: entry.sequence for entry in stored} == acknowledged
    for published in services:
        for order_id in {event.order_id for event in published}:
            wanted = [event.event_id for event in published if event.order_id == order_id]
            assert [each for each in ids if each in set(wanted)] == wanted


async def test_caller_that_goes_away_leaves_nothing_behind(log_server: EmbeddedNats, gateway: Client, log: Log) -> None:
    publisher = Publisher(gateway, log, all_known)
    await publisher.publish([placed("o1", "a")])
    pause(log_server.pid)
    try:
        publishing = asyncio.create_task(publisher.publish([placed(f"o{each}", f"b{each}") for each in range(200)]))
        await eventually(lambda: len(publisher._acknowledgements._waiting) == WINDOW)
        publishing.cancel()
        with suppress(asyncio.CancelledError):
            await publishing
    finally:
        os.kill(log_server.pid, signal.SIGCONT)
    assert publishing.cancelled()
    assert publisher._acknowledgements._waiting == {}
