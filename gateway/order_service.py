"""An order service, as the demo has one: an example of what stands behind the commands (docs/commands.md).

It keeps no database: an order's state is what its events in the log make of it. So it can be ended at any moment and
run in any number; what it had taken is given out again, and found answered.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import structlog
from msgspec import UNSET, UnsetType

from streams.commands import Capacity, answer_id
from streams.errors import StreamsError
from streams.events import (
    Command,
    CommandRejected,
    OrderAccepted,
    OrderCancelled,
    OrderDelivered,
    OrderEvent,
    OrderPaymentSucceeded,
    OrderPreparing,
    OrderReadyForDelivery,
    OrderRejected,
)
from streams.history import OrderKey
from streams.matrix import status_after

if TYPE_CHECKING:
    from streams.command_consumer import CommandConsumer, TakenCommand
    from streams.commands import OrderCommand
    from streams.history import OrderHistory

DELIVERY_TIME: Final = dt.timedelta(minutes=25)
"""What customers are told where whoever accepts does not say."""

_TAKEN_AT_ONCE = 64
_TAKE_SECONDS = 1.0
_ORDERS_KEPT = 10_000
_ATTEMPTS = 8

_log = structlog.get_logger()


class Step(NamedTuple):
    """What a command makes of an order, and in which status it may be asked for."""

    event: type[OrderEvent]
    status: Collection[str]


# fmt: off
STEPS: Final[Mapping[Command, Step]] = {
    Command.ACCEPT:    Step(OrderAccepted,         {"Placed"}),
    Command.REJECT:    Step(OrderRejected,         {"Placed"}),
    Command.PREPARING: Step(OrderPreparing,        {"Accepted"}),
    Command.READY:     Step(OrderReadyForDelivery, {"Accepted", "Preparing"}),
    Command.DELIVERED: Step(OrderDelivered,        {"ReadyForDelivery"}),
    Command.CANCEL:    Step(OrderCancelled,        {"Placed", "PaymentFailed", "Accepted", "Preparing"}),
}
# fmt: on
CUSTOMER_CANCELS: Final = {"Placed", "PaymentFailed"}
"""Once the kitchen has accepted, a customer can't go back by themselves."""


class Order(msgspec.Struct):
    """An order as its events up to `sequence` have left it. `answered` are the commands that they answer."""

    sequence: int = 0
    status: str = ""
    customer_id: str = ""
    number: str | UnsetType | None = UNSET
    answered: set[str] = msgspec.field(default_factory=set)

    def apply(self, event: OrderEvent) -> None:
        """What the event makes of it."""
        self.customer_id = event.customer_id
        self.status = status_after(event) or self.status
        if isinstance(event, OrderPaymentSucceeded) and self.status == "PaymentFailed":
            self.status = "Placed"
        if event.order_number:
            self.number = event.order_number
        if event.command_id:
            self.answered.add(event.command_id)


def decide(command: OrderCommand, order: Order, now: dt.datetime) -> OrderEvent:
    """The answer to a command: what it asks for, or a refusal where the order is not where that could be done. Pure.

    Its id is derived from the command's: however often a command is given out, the log takes one answer.
    """
    step = STEPS[command.command]
    says: dict[str, Any] = {
        "event_id": answer_id(command.command_id),
        "occurred_on_utc": now,
        "order_id": command.order_id,
        "restaurant_id": command.restaurant_id,
        "customer_id": order.customer_id,
        "order_number": order.number,
        "command_id": command.command_id,
    }
    by_customer = command.command is Command.CANCEL and command.sent_by.capacity is Capacity.CUSTOMER
    if order.status not in (CUSTOMER_CANCELS if by_customer else step.status):
        reason = f"The order is {order.status}."
        return CommandRejected(**says, command=command.command, target=command.target, reason=reason)
    if command.reason:
        says["reason"] = command.reason
    if step.event is OrderAccepted:
        says["estimated_delivery_time"] = command.estimated_delivery_time or now + DELIVERY_TIME
    if step.event is OrderDelivered:
        says["actual_delivery_time"] = now
    return step.event(**says)


class OrderService:
    """Takes commands and answers each with an event."""

    def __init__(
        self,
        commands: CommandConsumer,
        history: OrderHistory,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._commands = commands
        self._history = history
        self._now = now
        self._orders: OrderedDict[OrderKey, Order] = OrderedDict()

    async def run(self) -> None:
        """Until cancelled. A broker that is away is waited for."""
        while True:
            try:
                taken = await self._commands.take(_TAKEN_AT_ONCE, _TAKE_SECONDS)
            except StreamsError as error:
                _log.warning("order_service.halted", reason=str(error))
                await asyncio.sleep(_TAKE_SECONDS)
                continue
            await asyncio.gather(*(self._answer_in_order(each) for each in _by_order(taken)))

    async def _answer_in_order(self, taken: Iterable[TakenCommand]) -> None:
        """Commands of one order, one after another. What is not done with is given out again after a while."""
        try:
            for each in taken:
                if await self._answer(each.command):
                    await each.done()  # only now, as the answer is on the broker's disk
                else:
                    await each.later()
        except StreamsError as error:
            _log.warning("order_service.command_left", reason=str(error))

    async def _answer(self, command: OrderCommand) -> bool:
        """See to it that the log has an answer; False if that is not ours to give, or not now."""
        for _ in range(_ATTEMPTS):
            order = await self._order(_key(command))
            if command.command_id in order.answered:
                return True  # by us, before we could say so, or it has expired
            if not order.status or self._now() >= command.expires_at:
                return False  # an order that is not ours, or too late: Passline will tell the sender
            if await self._history.append(decide(command, order, self._now()), order.sequence):
                return True
            self._orders.pop(_key(command), None)  # it has moved on meanwhile
        return False

    async def _order(self, key: OrderKey) -> Order:
        """The order as it is now: what is remembered of it, and its events since."""
        order = self._orders.setdefault(key, Order())
        self._orders.move_to_end(key)
        past = await self._history.read(key, order.sequence)
        for event in past.events:
            order.apply(event)
        order.sequence = past.last
        while len(self._orders) > _ORDERS_KEPT:
            self._orders.popitem(last=False)
        return order


def _key(command: OrderCommand) -> OrderKey:
    return OrderKey(command.restaurant_id, command.customer_key, command.order_id)


def _by_order(taken: Iterable[TakenCommand]) -> Iterable[list[TakenCommand]]:
    groups: dict[OrderKey, list[TakenCommand]] = {}
    for each in taken:
        groups.setdefault(_key(each.command), []).append(each)
    return groups.values()
