"""What a consumer makes of the messages that reach it, one by one; what a real broker sends is in test_reader."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from streams.consumer import MAX_BATCH, Consumer, ConsumerLost
from streams.intake import TappingParser
from tests.support.logs import append_order, append_orders, order_body
from tests.support.nats import client, eventually

if TYPE_CHECKING:
    from streams.embedded import EmbeddedNats

SUBJECT = b"orders.r1.c1.o1.OrderAccepted"
IDLE = b"NATS/1.0 100 Idle Heartbeat\r\n%b\r\n"


class Connection:
    """Stands for nats-py's client: notes what is published."""

    def __init__(self) -> None:
        self.stats = {"reconnects": 0}
        self.published: list[str] = []

    async def publish(self, subject: str) -> None:
        self.published.append(subject)


def new_consumer() -> tuple[Consumer, Connection]:
    connection = Connection()
    return Consumer(connection, 0, ()), connection  # type: ignore[arg-type]


def acknowledged(consumer: int, stream: int | None = None, *, pending: int = 0) -> bytes:
    return b"$JS.ACK.EVENTS.c.1.%d.%d.1800000000250000000.%d" % (stream or consumer, consumer, pending)


def deliver(consumer: Consumer, number: int, reply: bytes | None = None, **place: int) -> None:
    body = order_body(str(number), restaurant="r1", customer="c1", order="o1", kind="OrderAccepted")
    consumer._arrive((SUBJECT, acknowledged(number, **place) if reply is None else reply, b"", body))


def control(consumer: Consumer, block: bytes, reply: bytes = b"") -> None:
    consumer._arrive((b"_INBOX.x", reply, block, b""))


async def test_message_is_an_entry_at_the_place_that_its_acknowledgement_subject_tells() -> None:
    consumer, _ = new_consumer()
    deliver(consumer, 1, stream=40, pending=7)
    (entry,) = await consumer.next_entries()
    assert (entry.sequence, entry.time, entry.subject, entry.problem) == (40, 1_800_000_000.25, SUBJECT.decode(), None)
    assert consumer.pending == 7


async def test_acknowledgement_subject_may_name_a_domain_and_an_account() -> None:
    consumer, _ = new_consumer()
    deliver(consumer, 1, b"$JS.ACK.hub.accounthash.EVENTS.c.1.40.1.1800000000250000000.7.token")
    (entry,) = await consumer.next_entries()
    assert (entry.sequence, entry.time, consumer.pending) == (40, 1_800_000_000.25, 7)


@pytest.mark.parametrize("place", range(5, 9))
async def test_acknowledgement_subject_that_can_not_be_read_loses_the_consumer(place: int) -> None:
    consumer, _ = new_consumer()
    tokens = acknowledged(1).split(b".")
    tokens[place] = b"x"
    deliver(consumer, 1, b".".join(tokens))
    with pytest.raises(ConsumerLost):
        await consumer.next_entries()


@pytest.mark.parametrize("second", [1, 3])
async def test_message_that_is_missing_or_comes_twice_loses_the_consumer(second: int) -> None:
    consumer, _ = new_consumer()
    deliver(consumer, 1)
    await consumer.next_entries()
    deliver(consumer, second)
    with pytest.raises(ConsumerLost, match="message 2 is missing"):
        await consumer.next_entries()


async def test_no_more_is_handed_on_at_a_time_than_leaves_others_their_turn() -> None:
    consumer, _ = new_consumer()
    for number in range(1, MAX_BATCH + 3):
        deliver(consumer, number)
    assert [len(await consumer.next_entries()) for _ in range(2)] == [MAX_BATCH, 2]


async def test_flow_control_is_answered_when_what_came_before_it_is_done_with() -> None:
    consumer, connection = new_consumer()
    deliver(consumer, 1)
    control(consumer, b"NATS/1.0 100 FlowControl Request\r\n\r\n", b"$JS.FC.EVENTS.c.x")
    deliver(consumer, 2)
    assert len(await consumer.next_entries()) == 1
    assert connection.published == []
    assert len(await consumer.next_entries()) == 1
    assert connection.published == ["$JS.FC.EVENTS.c.x"]


async def test_consumer_that_has_stalled_is_told_to_go_on() -> None:
    consumer, connection = new_consumer()
    control(consumer, IDLE % b"Nats-Last-Consumer: 0\r\nNats-Consumer-Stalled: $JS.FC.EVENTS.c.y\r\n")
    deliver(consumer, 1)
    await consumer.next_entries()
    assert connection.published == ["$JS.FC.EVENTS.c.y"]


async def test_heartbeat_that_counts_more_messages_than_came_loses_the_consumer() -> None:
    consumer, _ = new_consumer()
    for number in (1, 2):
        deliver(consumer, number)
    control(consumer, IDLE % b"Nats-Last-Consumer: 2\r\nNats-Last-Stream: 2\r\n")
    deliver(consumer, 3)
    control(consumer, IDLE % b"Nats-Last-Consumer: 4\r\nNats-Last-Stream: 4\r\n")
    assert len(await consumer.next_entries()) == 2
    assert len(await consumer.next_entries()) == 1
    with pytest.raises(ConsumerLost, match="has sent 4 messages, 3 came"):
        await consumer.next_entries()


async def test_word_that_the_server_has_ended_it_loses_the_consumer() -> None:
    consumer, _ = new_consumer()
    control(consumer, b"NATS/1.0 409 Consumer Deleted\r\n\r\n")
    with pytest.raises(ConsumerLost, match="Consumer Deleted"):
        await consumer.next_entries()


async def test_header_of_an_event_is_no_word_of_the_servers() -> None:
    consumer, connection = new_consumer()
    consumer._arrive(
        (SUBJECT, acknowledged(1), b"NATS/1.0 409 Consumer Deleted\r\nNats-Consumer-Stalled: a\r\n\r\n", b"{}")
    )
    assert len(await consumer.next_entries()) == 1
    assert connection.published == []


async def test_silence_loses_the_consumer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.consumer.SILENCE_SECONDS", 0.0)
    consumer, _ = new_consumer()
    with pytest.raises(ConsumerLost, match="not a word"):
        await consumer.next_entries()


async def test_connection_that_was_replaced_loses_the_consumer() -> None:
    consumer, connection = new_consumer()
    connection.stats["reconnects"] = 1
    with pytest.raises(ConsumerLost, match="replaced"):
        await consumer.next_entries()


async def test_consumer_reads_far_beyond_what_the_server_sends_without_an_answer(log_server: EmbeddedNats) -> None:
    """Flow control begins at 2 MB: beyond that the server waits for our answers."""
    async with client(log_server, "gateway") as nc:
        items = [{"name": "x" * 500, "quantity": 1}] * 100
        for begin in range(0, 100, 20):
            await asyncio.gather(*(append_order(nc, f"e{begin + index}", items=items) for index in range(20)))
        async with Consumer(nc, 0, ()) as consumer:
            read = 0
            async with asyncio.timeout(10):
                while read < 100:
                    read += len(await consumer.next_entries())


async def test_consumer_leaves_nothing_behind_in_the_client(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as nc:
        await append_orders(nc, 3)
        parser = nc._ps
        assert isinstance(parser, TappingParser)
        async with Consumer(nc, 0, ()) as consumer:
            assert len(parser.taps) == 1
            await eventually(lambda: len(consumer._arrived) >= 3)
        assert parser.taps == {}
        assert consumer._poller is not None
        assert consumer._poller.cancelled()
