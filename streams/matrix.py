"""The broadcast matrix: which event goes to which topic, under which SSE event name, in which view. Pure.

To add an audience: a view in `views`, a column here, a policy in `auth.policies`, a route in `gateway.routes`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Flag
from typing import TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from streams.events import (
    Event,
    NotificationTarget,
    OrderAccepted,
    OrderCancelled,
    OrderCreated,
    OrderDelivered,
    OrderEvent,
    OrderPaymentFailed,
    OrderPaymentSucceeded,
    OrderPlaced,
    OrderPreparing,
    OrderReadyForDelivery,
    OrderRejected,
    StaffAssigned,
    StaffRevoked,
)
from streams.topics import order_key, restaurant_key
from streams.views import View, customer_order, order_status, restaurant_order

Keys: TypeAlias = Callable[[str, str, str], tuple[str, ...]]
OrderView: TypeAlias = Callable[[OrderEvent, str, str | None], View]


class To(Flag):
    """Who is told. Facts are told to nobody: they decide what others are told."""

    NOBODY = 0
    RESTAURANT = 1
    CUSTOMER = 2
    BOTH = 3


class Row(msgspec.Struct, frozen=True):
    """One line of the matrix. `status` is the order's status after the event, None where it stays as it was."""

    to: To
    name: str = ""
    status: str | None = None
    restaurant_view: OrderView = order_status
    customer_view: OrderView = order_status


_PLACED = Row(To.BOTH, "ReceiveOrderPlaced", "Placed", restaurant_order, customer_order)
_FACT = Row(To.NOBODY)


def _moved_to(status: str) -> Row:
    """Every step of an order has one name to listen to; rejection and cancellation are steps too."""
    return Row(To.BOTH, "ReceiveOrderStatusChanged", status)


# fmt: off
MATRIX: dict[type[Event], Row] = {
    OrderPlaced:           _PLACED,
    OrderCreated:          _PLACED,
    OrderPaymentSucceeded: Row(To.BOTH, "ReceiveOrderPaymentSucceeded", None, restaurant_order, customer_order),
    OrderPaymentFailed:    Row(To.BOTH, "ReceiveOrderPaymentFailed", "PaymentFailed", restaurant_order, customer_order),
    OrderAccepted:         _moved_to("Accepted"),
    OrderPreparing:        _moved_to("Preparing"),
    OrderReadyForDelivery: _moved_to("ReadyForDelivery"),
    OrderDelivered:        _moved_to("Delivered"),
    OrderRejected:         _moved_to("Rejected"),
    OrderCancelled:        _moved_to("Cancelled"),
    StaffAssigned:         _FACT,
    StaffRevoked:          _FACT,
}
# fmt: on

_TARGETS: dict[NotificationTarget | UnsetType | None, To | None] = {
    NotificationTarget.RESTAURANT: To.RESTAURANT,
    NotificationTarget.CUSTOMER: To.CUSTOMER,
    NotificationTarget.BOTH: To.BOTH,
    UNSET: None,
    None: None,
}
_TOLD: dict[tuple[type[Event], NotificationTarget | UnsetType | None], To] = {
    (kind, target): row.to if to is None else to for kind, row in MATRIX.items() for target, to in _TARGETS.items()
}


class Notification(msgspec.Struct, frozen=True, gc=False):
    """One event for one topic. `key` is what the hub routes by, `view` makes what the topic's audience sees."""

    key: str
    topic: str
    name: str
    status: str | None
    view: OrderView

    def render(self, event: OrderEvent) -> View:
        """What the topic's audience sees of the event. May raise whatever a faulty view raises."""
        return self.view(event, self.topic, self.status)


def notifications(event: Event) -> tuple[Notification, ...]:
    """Whom the event is for; the views are made later, and only for topics that somebody watches."""
    if not isinstance(event, OrderEvent):
        return ()
    row, to = MATRIX[type(event)], _TOLD[type(event), event.target]
    found = []
    if To.RESTAURANT in to:
        key = restaurant_key(event.restaurant_id)
        found.append(Notification(key, key, row.name, row.status, row.restaurant_view))
    if To.CUSTOMER in to:
        key = order_key(event.order_id, event.restaurant_id, event.customer_key)
        found.append(Notification(key, f"orders/{event.order_id}", row.name, row.status, row.customer_view))
    return tuple(found)


# Of order id, restaurant id and customer key.
_KEYS_FOR: dict[To, Keys] = {
    To.NOBODY: lambda *_: (),
    To.RESTAURANT: lambda _, restaurant_id, __: (restaurant_key(restaurant_id),),
    To.CUSTOMER: lambda *order: (order_key(*order),),
    To.BOTH: lambda order_id, restaurant_id, customer_key: (
        restaurant_key(restaurant_id),
        order_key(order_id, restaurant_id, customer_key),
    ),
}

KEYS: dict[type[Event], dict[NotificationTarget | UnsetType | None, Keys]] = {
    kind: {target: _KEYS_FOR[_TOLD[kind, target]] for target in _TARGETS} for kind in MATRIX
}
"""What makes the keys of an order event's `notifications` of order id, restaurant id and customer key, by the event's
class and target. They are asked of everything in the log, so they are told without the event."""


def status_after(event: Event) -> str | None:
    """The order's status after the event, None where it stays as it was."""
    return MATRIX[type(event)].status
