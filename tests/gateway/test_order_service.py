"""The demo's order service: what it makes of a command, and that it answers each once whatever happens."""

from __future__ import annotations

import asyncio
import datetime as dt
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from gateway.order_service import CUSTOMER_CANCELS, STEPS, Order, OrderService, decide
from streams.command_consumer import CommandConsumer, TakenCommand
from streams.commands import Capacity, Commands, OrderCommand, SentBy, answer_id
from streams.errors import BrokerUnavailable
from streams.events import (
    Command,
    CommandRejected,
    NotificationTarget,
    OrderAccepted,
    OrderCancelled,
    OrderDelivered,
    OrderEvent,
    OrderPaymentFailed,
    OrderPaymentSucceeded,
    OrderPlaced,
    OrderPreparing,
    OrderReadyForDelivery,
    OrderRejected,
    encode,
)
from streams.history import OrderHistory, OrderKey
from streams.log import Log
from tests.support.nats import api, client, eventually, publish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.client import Client

    from streams.embedded import EmbeddedNats

NOW = dt.datetime(2026, 11, 20, 18, tzinfo=dt.UTC)
STATUSES = {
    "Placed": OrderPlaced,
    "PaymentFailed": OrderPaymentFailed,
    "Accepted": OrderAccepted,
    "Preparing": OrderPreparing,
    "ReadyForDelivery": OrderReadyForDelivery,
    "Delivered": OrderDelivered,
    "Rejected": OrderRejected,
    "Cancelled": OrderCancelled,
}


def command(kind: Command, command_id: str = "k1", order: str = "o1", **more: Any) -> OrderCommand:
    return OrderCommand(
        **{
            "command_id": command_id,
            "command": kind,
            "order_id": order,
            "restaurant_id": "r1",
            "customer_key": "c1",
            "sent_by": SentBy("cook", Capacity.STAFF),
            "target": NotificationTarget.RESTAURANT,
            "sent_at": NOW,
            "expires_at": dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1),
            "cursor": "abc-0",
            **more,
        }
    )


def event(kind: type[OrderEvent], event_id: str = "e1", order: str = "o1", **more: Any) -> OrderEvent:
    return kind(event_id=event_id, occurred_on_utc=NOW, order_id=order, restaurant_id="r1", customer_id="c1", **more)


def order_after(*events: OrderEvent) -> Order:
    order = Order()
    for each in events:
        order.apply(each)
    return order


# -- What it decides ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("kind", Command)
def test_command_is_carried_out_where_it_can_be_and_refused_elsewhere(kind: Command, status: str) -> None:
    order = order_after(event(STATUSES[status]))
    answer = decide(command(kind), order, NOW)
    assert (answer.event_id, answer.command_id) == (answer_id("k1"), "k1")
    if status in STEPS[kind].status:
        assert type(answer) is STEPS[kind].event
    else:
        assert isinstance(answer, CommandRejected)
        assert (answer.command, answer.target) == (kind, NotificationTarget.RESTAURANT)
        assert answer.reason == f"The order is {status}."


@pytest.mark.parametrize("status", STATUSES)
def test_customer_may_cancel_until_the_kitchen_has_accepted(status: str) -> None:
    asked = command(Command.CANCEL, sent_by=SentBy("c1", Capacity.CUSTOMER), target=NotificationTarget.CUSTOMER)
    answer = decide(asked, order_after(event(STATUSES[status])), NOW)
    assert isinstance(answer, OrderCancelled) == (status in CUSTOMER_CANCELS)
    assert isinstance(answer, OrderCancelled) or answer.target is NotificationTarget.CUSTOMER


def test_what_was_said_with_a_command_stands_in_its_answer() -> None:
    placed = order_after(event(OrderPlaced, order_number="#7"))
    rejected = decide(command(Command.REJECT, reason="The oven is broken."), placed, NOW)
    assert (rejected.reason, rejected.order_number) == ("The oven is broken.", "#7")
    in_an_hour = NOW + dt.timedelta(hours=1)
    accepted = decide(command(Command.ACCEPT, estimated_delivery_time=in_an_hour), placed, NOW)
    assert accepted.estimated_delivery_time == in_an_hour
    assert decide(command(Command.ACCEPT), placed, NOW).estimated_delivery_time == NOW + dt.timedelta(minutes=25)
    ready = order_after(event(OrderReadyForDelivery))
    assert decide(command(Command.DELIVERED), ready, NOW).actual_delivery_time == NOW


def test_order_whose_second_payment_succeeds_can_be_accepted() -> None:
    order = order_after(event(OrderPlaced), event(OrderPaymentFailed), event(OrderPaymentSucceeded))
    assert isinstance(decide(command(Command.ACCEPT), order, NOW), OrderAccepted)


# -- At work ---------------------------------------------------------------------------------------------------------


class Town:
    """A broker with an order service, as its gateway and its log see it."""

    def __init__(self, server: EmbeddedNats, gateway: Client) -> None:
        self.server = server
        self.nc = gateway

    async def happened(self, *events: OrderEvent) -> None:
        for each in events:
            assert "error" not in await publish(
                self.nc, each.log_subject(), encode(each), {"Nats-Msg-Id": each.event_id}
            )

    async def asked(self, *commands: OrderCommand) -> None:
        for each in commands:
            await Commands(self.nc).send(each, caller_key="cook")

    async def events(self, order: str = "o1") -> list[OrderEvent]:
        return (await OrderHistory(self.nc, Log(self.nc)).read(OrderKey("r1", "c1", order))).events

    async def waiting(self) -> int:
        async with client(self.server, "admin") as admin:
            messages: int = (await api(admin, "STREAM.INFO.COMMANDS"))["state"]["messages"]
            return messages

    async def all_taken(self) -> None:
        async def taken() -> bool:
            return await self.waiting() == 0

        await eventually(taken, within=15)

    @asynccontextmanager
    async def service(self) -> AsyncIterator[None]:
        async with client(self.server, "orders") as nc:
            consumer = CommandConsumer(nc, ack_wait_seconds=0.5)
            running = asyncio.create_task(OrderService(consumer, OrderHistory(nc, Log(nc))).run())
            try:
                yield
                assert not running.done()
            finally:
                running.cancel()
                await asyncio.wait({running})


@pytest.fixture
async def town(log_server: EmbeddedNats) -> AsyncIterator[Town]:
    async with client(log_server, "gateway") as gateway:
        yield Town(log_server, gateway)


async def test_order_is_led_to_its_end_by_commands_that_came_at_once(town: Town) -> None:
    await town.happened(event(OrderPlaced), event(OrderPaymentSucceeded, "e2"))
    steps = (Command.ACCEPT, Command.PREPARING, Command.READY, Command.DELIVERED, Command.CANCEL)
    await town.asked(*(command(kind, f"k-{kind}") for kind in steps))
    async with town.service():
        await town.all_taken()
    _, _, *answers = await town.events()
    assert [(type(each), each.command_id) for each in answers] == [
        (OrderAccepted, "k-accept"),
        (OrderPreparing, "k-preparing"),
        (OrderReadyForDelivery, "k-ready"),
        (OrderDelivered, "k-delivered"),
        (CommandRejected, "k-cancel"),
    ]


async def test_several_services_answer_each_command_once(town: Town) -> None:
    orders = [f"o{number}" for number in range(20)]
    for order in orders:
        await town.happened(event(OrderPlaced, f"placed-{order}", order))
    async with town.service(), town.service():
        for order in orders:
            await town.asked(command(Command.ACCEPT, f"a-{order}", order), command(Command.CANCEL, f"c-{order}", order))
        await town.all_taken()
    for order in orders:
        answers = await town.events(order)
        assert sorted(str(each.command_id) for each in answers[1:]) == [f"a-{order}", f"c-{order}"]


async def test_command_that_is_given_out_again_after_its_answer_is_not_answered_again(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service dies, or is cut off, between the answer and the acknowledgement."""
    done = TakenCommand.done
    lost: list[TakenCommand] = []

    async def lost_at_first(taken: TakenCommand) -> None:
        if not lost:
            lost.append(taken)
            raise BrokerUnavailable("an acknowledgement", 0, "the service has died")
        await done(taken)

    monkeypatch.setattr(TakenCommand, "done", lost_at_first)
    await town.happened(event(OrderPlaced))
    await town.asked(command(Command.ACCEPT))
    async with town.service():
        await town.all_taken()
    assert lost
    assert [type(each) for each in await town.events()] == [OrderPlaced, OrderAccepted]


async def test_answer_rests_on_what_the_log_has_at_that_moment(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the reading and the answer the customer's order is cancelled by somebody else."""
    append, between = OrderHistory.append, [event(OrderCancelled, "e2")]

    async def after_another(history: OrderHistory, answer: OrderEvent, after: int) -> bool:
        while between:
            await town.happened(between.pop())
        return await append(history, answer, after)

    monkeypatch.setattr(OrderHistory, "append", after_another)
    await town.happened(event(OrderPlaced))
    await town.asked(command(Command.ACCEPT))
    async with town.service():
        await town.all_taken()
    assert [type(each) for each in await town.events()] == [OrderPlaced, OrderCancelled, CommandRejected]


@pytest.mark.parametrize("late", [True, False])
async def test_what_is_late_or_of_an_unknown_order_is_left_to_expire(town: Town, late: bool) -> None:
    await town.happened(event(OrderPlaced))
    asked = command(Command.ACCEPT, expires_at=dt.datetime.now(dt.UTC)) if late else command(Command.ACCEPT, order="o9")
    await town.asked(asked, command(Command.ACCEPT, "another"))
    async with town.service():

        async def another_is_done() -> bool:
            return len(await town.events()) == 2

        await eventually(another_is_done)
        assert await town.waiting() == 1
    assert [each.command_id for each in (await town.events())[1:]] == ["another"]


async def test_service_outlives_its_broker(town: Town) -> None:
    await town.happened(event(OrderPlaced))
    async with town.service():
        await town.server.restart()
        await town.asked(command(Command.ACCEPT))
        await town.all_taken()
    assert [type(each) for each in await town.events()] == [OrderPlaced, OrderAccepted]
