"""Commands on their way: into the work queue and out of it, each once, and given up where nobody takes them."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from streams.command_consumer import CommandConsumer
from streams.commands import (
    Capacity,
    Commands,
    KeyReused,
    MalformedCommand,
    OrderCommand,
    SentBy,
    answer_id,
    decode_command,
    log_position,
)
from streams.errors import BrokerUnavailable, JetStreamRefused
from streams.events import (
    Command,
    CommandExpired,
    CommandRejected,
    NotificationTarget,
    OrderAccepted,
    OrderCancelled,
    OrderEvent,
    OrderPlaced,
    decode,
    encode,
)
from streams.expiry import CommandExpiry
from streams.history import OrderHistory, OrderKey
from streams.log import Log
from streams.provision import MAX_COMMANDS_WAITING, provision
from streams.subjects import identity_key
from tests.support.nats import SETTINGS, api, client, eventually, publish
from tests.support.pausing import pause

if TYPE_CHECKING:
    from nats.aio.client import Client

    from streams.embedded import EmbeddedNats
    from tests.support.nats import StartNats

ROOT = Path(__file__).parents[2]
NOW = dt.datetime(2026, 11, 20, 18, tzinfo=dt.UTC)
ORDER = OrderKey("r1", "c1", "o1")


def command(command_id: str = "k1", kind: Command = Command.ACCEPT, **more: Any) -> OrderCommand:
    return OrderCommand(
        **{
            "command_id": command_id,
            "command": kind,
            "order_id": "o1",
            "restaurant_id": "r1",
            "customer_key": "c1",
            "sent_by": SentBy("cook", Capacity.STAFF),
            "target": NotificationTarget.RESTAURANT,
            "sent_at": NOW,
            "expires_at": NOW + dt.timedelta(minutes=1),
            "cursor": "abc-0",
            **more,
        }
    )


def event(kind: type[OrderEvent] = OrderPlaced, event_id: str = "e1", customer: str = "c1", **more: Any) -> OrderEvent:
    return kind(event_id=event_id, occurred_on_utc=NOW, order_id="o1", restaurant_id="r1", customer_id=customer, **more)


async def happened(nc: Client, *events: OrderEvent) -> None:
    for each in events:
        headers = {"Nats-Msg-Id": each.event_id}
        assert "error" not in await publish(nc, each.log_subject(), encode(each), headers)


async def waiting(admin: Client) -> int:
    messages: int = (await api(admin, "STREAM.INFO.COMMANDS"))["state"]["messages"]
    return messages


async def events_of(nc: Client, order: OrderKey = ORDER) -> list[OrderEvent]:
    return (await OrderHistory(nc, Log(nc)).read(order)).events


# -- The contract ----------------------------------------------------------------------------------------------------


def test_command_is_told_in_the_words_of_the_contract() -> None:
    sent = command(kind=Command.REJECT, reason="The oven is broken.")
    assert msgspec.json.decode(msgspec.json.encode(sent)) == {
        "commandId": "k1",
        "command": "reject",
        "orderId": "o1",
        "restaurantId": "r1",
        "customerKey": "c1",
        "sentBy": {"identity": "cook", "as": "staff"},
        "target": "Restaurant",
        "sentAt": "2026-11-20T18:00:00Z",
        "expiresAt": "2026-11-20T18:01:00Z",
        "cursor": "abc-0",
        "reason": "The oven is broken.",
        "schemaVersion": 1,
    }
    assert decode_command(msgspec.json.encode(sent)) == sent
    assert sent.subject == "commands.r1.o1.reject"


def test_documentation_shows_a_command_and_an_answer_as_they_are() -> None:
    shown = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "commands.md").read_text(), re.DOTALL)
    [sent] = [msgspec.json.decode(each) for each in shown if "sentBy" in each]
    decoded = decode_command(msgspec.json.encode(sent))
    assert set(sent) == {field.encode_name for field in msgspec.structs.fields(OrderCommand)} - {
        "estimatedDeliveryTime"
    }
    [answer] = [each for each in shown if "CommandRejected" in each]
    rejected = decode(answer.replace("4d2b…", decoded.command_id).encode())
    assert isinstance(rejected, CommandRejected)
    assert (rejected.event_id, rejected.target) == (answer_id(decoded.command_id), decoded.target)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff", b"[" * 5000, b'{"command":"eat"}'])
def test_what_is_no_command_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedCommand):
        decode_command(body)


@pytest.mark.parametrize(("cursor", "position"), [("abc-7", 7), ("other-7", 0), ("rubbish", 0)])
def test_position_of_a_command_counts_in_its_own_log_only(cursor: str, position: int) -> None:
    assert log_position(command(cursor=cursor), "abc") == position


# -- Into the queue and out of it ------------------------------------------------------------------------------------


async def test_command_waits_until_it_is_done_with_and_is_given_out_again_until_then(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as gateway, client(log_server, "orders") as nc:
        await Commands(gateway).send(command(), caller_key="cook")
        first = CommandConsumer(nc, ack_wait_seconds=0.3)
        [taken] = await first.take(10, 5)
        assert taken.command == command()
        assert await first.take(10, 0.05) == []
        [again] = await CommandConsumer(nc, ack_wait_seconds=0.3).take(10, 5)
        assert again.command == command()
        await again.done()
        async with client(log_server, "admin") as admin:
            assert await waiting(admin) == 0


async def test_commands_are_given_out_in_their_order_and_wait_while_the_service_is_away(
    log_server: EmbeddedNats,
) -> None:
    sent = [command(f"k{number}", kind) for number, kind in enumerate(Command)]
    async with client(log_server, "gateway") as gateway:
        for each in sent:
            await Commands(gateway).send(each, caller_key="cook")
    async with client(log_server, "orders") as nc:
        taken = await CommandConsumer(nc).take(10, 5)
        assert [each.command for each in taken] == sent


async def test_services_of_their_own_restaurants_share_the_queue(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as gateway, client(log_server, "orders") as nc:
        for restaurant in ("r1", "r2"):
            await Commands(gateway).send(command(f"of-{restaurant}", restaurant_id=restaurant), caller_key="cook")
        ours = CommandConsumer(nc, durable="ours", filters=("commands.r1.>",))
        theirs = CommandConsumer(nc, durable="theirs", filters=("commands.r2.>",))
        assert [each.command.command_id for each in await ours.take(10, 5)] == ["of-r1"]
        assert [each.command.command_id for each in await theirs.take(10, 5)] == ["of-r2"]
        with pytest.raises(JetStreamRefused):  # a queue has one consumer for each subject
            await CommandConsumer(nc, durable="greedy").take(10, 5)


async def test_consumer_that_was_removed_is_made_again(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as gateway, client(log_server, "orders") as nc:
        consumer = CommandConsumer(nc)
        assert await consumer.take(1, 0.05) == []
        assert (await api(nc, "CONSUMER.DELETE.COMMANDS.order-service"))["success"]
        await Commands(gateway).send(command(), caller_key="cook")
        with pytest.raises(BrokerUnavailable):
            await consumer.take(1, 5)
        [taken] = await consumer.take(1, 5)
        assert taken.command == command()


async def test_what_can_not_be_read_is_left_in_the_queue(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as gateway, client(log_server, "orders") as nc:
        await publish(gateway, "commands.r1.o1.eat", b'{"command":"eat"}')
        await Commands(gateway).send(command(), caller_key="cook")
        [taken] = await CommandConsumer(nc).take(10, 5)
        await taken.done()
        async with client(log_server, "admin") as admin:
            assert await waiting(admin) == 1


async def test_full_queue_takes_no_more_and_loses_nothing(start_nats: StartNats) -> None:
    server = await start_nats("small")
    async with client(server, "admin") as admin, client(server, "gateway") as gateway:
        await provision(admin, replace(SETTINGS, commands_max_bytes=20_000))
        sent = [command(f"k{number}", order_id=f"o{number}", reason="x" * 500) for number in range(30)]
        results = await asyncio.gather(
            *(Commands(gateway).send(each, caller_key="cook") for each in sent), return_exceptions=True
        )
        accepted = [each for each in results if isinstance(each, OrderCommand)]
        assert all(isinstance(each, BrokerUnavailable) for each in results if each not in accepted)
        assert await waiting(admin) == len(accepted) == 22


async def test_one_command_may_not_wait_for_one_order_without_end(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as gateway, client(log_server, "admin") as admin:
        for number in range(MAX_COMMANDS_WAITING):
            await Commands(gateway).send(command(f"k{number}"), caller_key="cook")
        with pytest.raises(BrokerUnavailable):
            await Commands(gateway).send(command("one-more"), caller_key="cook")
        await Commands(gateway).send(command("another", Command.REJECT), caller_key="cook")
        assert await waiting(admin) == MAX_COMMANDS_WAITING + 1


async def test_broker_that_does_not_answer_is_told_within_the_time_of_a_request(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as gateway:
        commands = Commands(gateway)
        pause(log_server.pid)
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            await commands.send(command(), caller_key="cook", idempotency_key="a")
        assert time.monotonic() - began < 4
        os.kill(log_server.pid, signal.SIGCONT)


# -- Under a key of the caller's ---------------------------------------------------------------------------------------


async def test_same_command_under_the_same_key_is_sent_once(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as one, client(log_server, "gateway") as other:
        sent = [
            await Commands(nc, lambda: NOW).send(command(command_id), caller_key="cook", idempotency_key="a")
            for nc, command_id in ((one, "k1"), (other, "k2"), (one, "k3"))
        ]
        assert {each.command_id for each in sent} == {"k1"}
    async with client(log_server, "admin") as admin:
        assert await waiting(admin) == 1


async def test_same_command_under_the_same_key_is_not_sent_again_after_it_was_taken(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as gateway, client(log_server, "orders") as orders:
        commands = Commands(gateway, lambda: NOW)
        await commands.send(command("k1"), caller_key="cook", idempotency_key="a")
        [taken] = await CommandConsumer(orders).take(10, 5)
        await taken.done()
        again = await commands.send(command("k2"), caller_key="cook", idempotency_key="a")
        assert again == command("k1")
        assert await CommandConsumer(orders).take(10, 0.1) == []


async def test_command_that_was_lost_on_its_way_is_sent_when_its_sender_asks_again(
    log_server: EmbeddedNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first attempt came as far as the key."""
    async with client(log_server, "gateway") as gateway, client(log_server, "admin") as admin:
        commands = Commands(gateway, lambda: NOW)
        with monkeypatch.context() as patched:
            patched.setattr(OrderCommand, "subject", "nobody.listens.here")
            with pytest.raises(BrokerUnavailable):
                await commands.send(command("k1"), caller_key="cook", idempotency_key="a")
        assert await waiting(admin) == 0
        sent = await commands.send(command("k2"), caller_key="cook", idempotency_key="a")
        assert (sent.command_id, await waiting(admin)) == ("k1", 1)


async def test_command_that_has_expired_is_not_sent_again_under_its_key(log_server: EmbeddedNats) -> None:
    """The broker forgets what it has stored when it is restarted after that was taken."""
    async with client(log_server, "gateway") as gateway, client(log_server, "orders") as orders:
        await Commands(gateway, lambda: NOW).send(command("k1"), caller_key="cook", idempotency_key="a")
        [taken] = await CommandConsumer(orders).take(10, 5)
        await taken.done()
        await log_server.restart()
        late = Commands(gateway, lambda: NOW + dt.timedelta(minutes=2))
        assert await late.send(command("k2"), caller_key="cook", idempotency_key="a") == command("k1")
    async with client(log_server, "admin") as admin:
        assert await waiting(admin) == 0


@pytest.mark.parametrize(
    "other",
    [
        {"kind": Command.REJECT},
        {"order_id": "o2"},
        {"estimated_delivery_time": NOW},
        {"reason": "Because."},
    ],
)
async def test_another_command_under_a_used_key_is_refused(log_server: EmbeddedNats, other: dict[str, Any]) -> None:
    async with client(log_server, "gateway") as gateway, client(log_server, "admin") as admin:
        commands = Commands(gateway, lambda: NOW)
        await commands.send(command("k1"), caller_key="cook", idempotency_key="a")
        with pytest.raises(KeyReused):
            await commands.send(command("k2", **other), caller_key="cook", idempotency_key="a")
        assert await waiting(admin) == 1


async def test_keys_are_their_callers_own(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as gateway:
        for number, (caller, key) in enumerate([("cook", "a"), ("chef", "a"), ("cook", "b"), ("cook", "*.> ä")]):
            sent = await Commands(gateway).send(command(f"k{number}"), caller_key=caller, idempotency_key=key)
            assert sent.command_id == f"k{number}"


async def test_of_several_at_once_under_one_key_one_is_sent(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as gateway, client(log_server, "admin") as admin:
        commands = Commands(gateway, lambda: NOW)
        sent = await asyncio.gather(
            *(commands.send(command(f"k{n}"), caller_key="cook", idempotency_key="a") for n in range(10))
        )
        assert len({each.command_id for each in sent}) == 1
        assert await waiting(admin) == 1


# -- Given up --------------------------------------------------------------------------------------------------------


LATE = NOW + dt.timedelta(seconds=66)  # the command's minute, and the margin


def expiry(nc: Client, now: dt.datetime = LATE) -> CommandExpiry:
    return CommandExpiry(nc, Log(nc), now=lambda: now)


async def test_what_nobody_takes_is_given_up_and_told_to_the_senders_side(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as gateway, client(log_server, "worker") as worker:
        await happened(gateway, event())
        sent = command(kind=Command.CANCEL, target=NotificationTarget.CUSTOMER)
        await Commands(gateway).send(sent, caller_key="c1")
        await expiry(worker).expire_due()
        [_, expired] = await events_of(gateway)
        wanted = event(CommandExpired, answer_id("k1"), command_id="k1", command=sent.command, target=sent.target)
        assert expired == msgspec.structs.replace(wanted, occurred_on_utc=sent.expires_at)
    async with client(log_server, "admin") as admin:
        assert await waiting(admin) == 0


async def test_command_is_left_alone_until_its_time_and_the_margin_are_over(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as gateway, client(log_server, "worker") as worker:
        await happened(gateway, event())
        await Commands(gateway).send(command(), caller_key="cook")
        pause = await expiry(worker, LATE - dt.timedelta(seconds=1.5)).expire_due()
        assert 0 < pause <= 1
        assert len(await events_of(gateway)) == 1


async def test_commands_behind_one_that_can_not_be_read_are_given_up_and_that_one_only_after_an_hour(
    log_server: EmbeddedNats,
) -> None:
    async with (
        client(log_server, "gateway") as gateway,
        client(log_server, "worker") as worker,
        client(log_server, "admin") as admin,
    ):
        await happened(gateway, event())
        await publish(gateway, "commands.r1.o1.eat", b'{"command":"eat"}')
        now = dt.datetime.now(dt.UTC)
        await Commands(gateway).send(command(expires_at=now - dt.timedelta(seconds=10)), caller_key="cook")
        await expiry(worker, now).expire_due()
        assert len(await events_of(gateway)) == 2
        assert await waiting(admin) == 1
        await expiry(worker, now + dt.timedelta(hours=1, seconds=1)).expire_due()
        assert await waiting(admin) == 0


async def test_several_workers_give_up_a_command_once(log_server: EmbeddedNats) -> None:
    async with (
        client(log_server, "gateway") as gateway,
        client(log_server, "worker") as one,
        client(log_server, "worker") as other,
    ):
        await happened(gateway, event())
        for number in range(10):
            await Commands(gateway).send(command(f"k{number}"), caller_key="cook")
        await asyncio.gather(*(expiry(worker).expire_due() for worker in (one, other, one)))
        expired = [each.command_id for each in await events_of(gateway) if isinstance(each, CommandExpired)]
        assert expired == [f"k{number}" for number in range(10)]


async def test_worker_that_dies_between_telling_and_removing_tells_once(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as gateway, client(log_server, "worker") as worker:
        await happened(gateway, event())
        epoch = (await Log(gateway).state()).epoch
        sent = command(cursor=f"{epoch}-1")
        await Commands(gateway).send(sent, caller_key="cook")
        await happened(
            gateway, event(CommandExpired, "of-another-time", command_id="k1", command=sent.command, target=sent.target)
        )
        await expiry(worker).expire_due()
        assert len(await events_of(gateway)) == 2
    async with client(log_server, "admin") as admin:
        assert await waiting(admin) == 0


async def test_command_whose_answer_is_in_the_log_is_not_given_up(log_server: EmbeddedNats) -> None:
    """Its service has not acknowledged it, or not been heard."""
    async with client(log_server, "gateway") as gateway, client(log_server, "worker") as worker:
        await happened(gateway, event())
        await Commands(gateway).send(command(), caller_key="cook")
        await happened(gateway, event(OrderAccepted, "an-id-of-the-services-own", command_id="k1"))
        await expiry(worker).expire_due()
        assert [type(each) for each in await events_of(gateway)] == [OrderPlaced, OrderAccepted]


async def test_of_an_answer_and_an_expiry_the_log_takes_the_first(log_server: EmbeddedNats) -> None:
    async with (
        client(log_server, "gateway") as gateway,
        client(log_server, "worker") as worker,
        client(log_server, "orders") as orders,
    ):
        await happened(gateway, event())
        await Commands(gateway).send(command(), caller_key="cook")
        [taken] = await CommandConsumer(orders).take(10, 5)
        await expiry(worker).expire_due()
        history = OrderHistory(orders, Log(orders))
        last = (await history.read(ORDER)).last
        answer = event(OrderAccepted, answer_id("k1"), command_id="k1")
        assert not await history.append(answer, last)
        assert [type(each) for each in await events_of(gateway)] == [OrderPlaced, CommandExpired]
        await taken.done()  # of no effect, and no error


async def test_customer_whose_key_is_a_hash_is_named_as_their_order_names_them(log_server: EmbeddedNats) -> None:
    key = identity_key("auth0|5f")
    async with client(log_server, "gateway") as gateway, client(log_server, "worker") as worker:
        await happened(gateway, event(customer="auth0|5f"))
        await Commands(gateway).send(command(customer_key=key), caller_key="cook")
        await expiry(worker).expire_due()
        assert {each.customer_id for each in await events_of(gateway, OrderKey("r1", key, "o1"))} == {"auth0|5f"}


async def test_command_of_an_order_that_the_log_has_forgotten_and_can_not_name_is_dropped(
    log_server: EmbeddedNats,
) -> None:
    async with client(log_server, "gateway") as gateway, client(log_server, "worker") as worker:
        await Commands(gateway).send(command(customer_key="h_x"), caller_key="cook")
        await expiry(worker).expire_due()
        assert (await Log(gateway).state()).last == 0
    async with client(log_server, "admin") as admin:
        assert await waiting(admin) == 0


async def test_expiry_waits_for_a_broker_that_is_away(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as gateway, client(log_server, "worker") as worker:
        await happened(gateway, event())
        await Commands(gateway).send(command(), caller_key="cook")
        restarting = asyncio.create_task(log_server.restart())
        running = asyncio.create_task(expiry(worker).run())
        await restarting

        async def told() -> bool:
            return len(await events_of(gateway)) == 2

        await eventually(told, within=15)
        running.cancel()
        await asyncio.wait({running})


# -- The history of an order -----------------------------------------------------------------------------------------


async def test_event_that_was_decided_by_what_is_no_longer_so_is_refused(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as gateway, client(log_server, "orders") as orders:
        history = OrderHistory(orders, Log(orders))
        await happened(gateway, event())
        seen = (await history.read(ORDER)).last
        await happened(gateway, event(OrderCancelled, "e2"))
        assert not await history.append(event(OrderAccepted, "e3"), seen)
        past = await history.read(ORDER, seen)
        assert [type(each) for each in past.events] == [OrderCancelled]
        assert await history.append(event(OrderAccepted, "e3"), past.last)


async def test_what_is_no_event_counts_for_the_place_and_for_nothing_else(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as gateway, client(log_server, "orders") as orders:
        await happened(gateway, event())
        await publish(gateway, "orders.r1.c1.o1.OrderAccepted", b"rubbish")
        history = OrderHistory(orders, Log(orders))
        past = await history.read(ORDER)
        assert ([type(each) for each in past.events], past.last) == ([OrderPlaced], 2)
        assert await history.append(event(OrderAccepted, "e3"), past.last)
