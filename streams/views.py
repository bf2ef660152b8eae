"""What each audience may see of an event: allow-lists, one struct an audience, never the event with fields removed.

A field that the event does not say is omitted; `null` means that it was cleared.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from streams.events import Money, OrderDelivered, OrderEvent, OrderItem


class View(msgspec.Struct, frozen=True, kw_only=True, gc=False, rename="camel"):
    """What every view says. A client that keeps state removes doubles by (`eventId`, `topic`)."""

    event_id: str
    occurred_on_utc: dt.datetime
    topic: str
    schema_version: int


class OrderStatusBroadcast(View, frozen=True, kw_only=True, gc=False):
    """An order's event for everybody who may see the order."""

    order_id: str
    order_number: str | UnsetType | None
    status: str | UnsetType
    restaurant_id: str
    last_update_timestamp: dt.datetime
    estimated_delivery_time: dt.datetime | UnsetType | None
    actual_delivery_time: dt.datetime | UnsetType | None
    delivered_at: dt.datetime | UnsetType


class RestaurantOrderBroadcast(OrderStatusBroadcast, frozen=True, kw_only=True, gc=False):
    """Placed and payment events for the restaurant: what to cook, and what it costs."""

    items: list[OrderItem] | UnsetType | None
    total: Money | UnsetType | None


class CustomerOrderBroadcast(OrderStatusBroadcast, frozen=True, kw_only=True, gc=False):
    """Placed and payment events for the customer, who knows what they ordered."""

    total: Money | UnsetType | None


def order_status(event: OrderEvent, topic: str, status: str | None) -> OrderStatusBroadcast:
    """The view that both audiences share. `status` is the order's status after the event, None where it stays."""
    return OrderStatusBroadcast(**_order_fields(event, topic, status))


def restaurant_order(event: OrderEvent, topic: str, status: str | None) -> RestaurantOrderBroadcast:
    """The restaurant's view of a placed or payment event."""
    return RestaurantOrderBroadcast(**_order_fields(event, topic, status), items=event.items, total=event.total)


def customer_order(event: OrderEvent, topic: str, status: str | None) -> CustomerOrderBroadcast:
    """The customer's view of a placed or payment event."""
    return CustomerOrderBroadcast(**_order_fields(event, topic, status), total=event.total)


def _order_fields(event: OrderEvent, topic: str, status: str | None) -> dict[str, Any]:
    return {
        "event_id": event.event_id,
        "occurred_on_utc": event.occurred_on_utc,
        "topic": topic,
        "schema_version": event.schema_version,
        "order_id": event.order_id,
        "order_number": event.order_number,
        "status": UNSET if status is None else status,
        "restaurant_id": event.restaurant_id,
        "last_update_timestamp": event.occurred_on_utc,
        "estimated_delivery_time": event.estimated_delivery_time,
        "actual_delivery_time": event.actual_delivery_time,
        "delivered_at": event.occurred_on_utc if isinstance(event, OrderDelivered) else UNSET,
    }
