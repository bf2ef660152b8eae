"""What each audience may see of an event: allow-lists, one struct an audience, never the event with fields removed.

A field that the event does not say is omitted; `null` means that it was cleared.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from streams.events import (
    CartItem,
    CommandEvent,
    CouponUsed,
    Event,
    FinanceEvent,
    Money,
    OrderDelayed,
    OrderDelivered,
    OrderEvent,
    OrderItem,
    TeamCartConverted,
    TeamCartEvent,
    WorkflowEvent,
)
from streams.subjects import identity_key


class About(msgspec.Struct, frozen=True, gc=False):
    """What a view is made with beside the event: the topic, the order's or workflow's status after it (None where it
    stays), and whether customers are shown the platform's fee.
    """

    topic: str
    status: str | None = None
    shows_fee: bool = False


class View(msgspec.Struct, frozen=True, kw_only=True, gc=False, rename="camel"):
    """What every view says. A client that keeps state removes doubles by (`eventId`, `topic`)."""

    event_id: str
    occurred_on_utc: dt.datetime
    topic: str
    schema_version: int


# -- Orders ------------------------------------------------------------------------------------------------------------


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
    """Placed and payment events for the customer, who knows what they ordered. The fee is there where it is shown."""

    total: Money | UnsetType | None
    platform_fee: Money | UnsetType | None


class OrderDelayedBroadcast(OrderStatusBroadcast, frozen=True, kw_only=True, gc=False):
    """What should have happened, and until when."""

    alarm: str
    due_at: dt.datetime


class CommandBroadcast(OrderStatusBroadcast, frozen=True, kw_only=True, gc=False):
    """A command that was not carried out, for the side that sent it."""

    command_id: str
    command: str


class NewOrder(View, frozen=True, kw_only=True, gc=False):
    """A new order on a partner's device. The name is the first name and the first letter of the last one."""

    order_id: str
    customer_name: str | UnsetType | None
    items: list[OrderItem] | UnsetType | None
    total_price: Money | UnsetType | None


def order_status(event: OrderEvent, about: About) -> OrderStatusBroadcast:
    """The view that all audiences of an order share."""
    return OrderStatusBroadcast(**_order_fields(event, about))


def restaurant_order(event: OrderEvent, about: About) -> RestaurantOrderBroadcast:
    """The restaurant's view of a placed or payment event."""
    return RestaurantOrderBroadcast(**_order_fields(event, about), items=event.items, total=event.total)


def customer_order(event: OrderEvent, about: About) -> CustomerOrderBroadcast:
    """The customer's view of a placed or payment event."""
    fee = event.platform_fee if about.shows_fee else UNSET
    return CustomerOrderBroadcast(**_order_fields(event, about), total=event.total, platform_fee=fee)


def order_delayed(event: OrderDelayed, about: About) -> OrderDelayedBroadcast:
    """An alarm."""
    return OrderDelayedBroadcast(**_order_fields(event, about), alarm=event.alarm, due_at=event.due_at)


def command_failed(event: CommandEvent, about: About) -> CommandBroadcast:
    """What became of a command."""
    return CommandBroadcast(**_order_fields(event, about), command_id=event.command_id, command=event.command)


def new_order(event: OrderEvent, about: About) -> NewOrder:
    """A placed order on a partner's device."""
    name = event.customer_name
    return NewOrder(
        **_every_field(event, about),
        order_id=event.order_id,
        customer_name=short_name(name) if isinstance(name, str) else name,
        items=event.items,
        total_price=event.total,
    )


def short_name(name: str) -> str:
    """`Ada Lovelace` is `Ada L.`; one word stays as it is."""
    words = name.split()
    return f"{words[0]} {words[-1][0]}." if len(words) > 1 else name.strip()


# -- Carts -------------------------------------------------------------------------------------------------------------


class TeamCartBroadcast(View, frozen=True, kw_only=True, gc=False):
    """A cart's event for its members. `memberRef` stands for a member within this cart and means nothing elsewhere."""

    team_cart_id: str
    member_ref: str | UnsetType | None
    member_name: str | UnsetType | None
    item: CartItem | UnsetType | None
    item_id: str | UnsetType | None
    total: Money | UnsetType | None
    amount: Money | UnsetType | None
    expires_at: dt.datetime | UnsetType | None
    order_id: str | UnsetType
    restaurant_id: str | UnsetType


def team_cart(event: TeamCartEvent, about: About) -> TeamCartBroadcast:
    """The view of all members."""
    member, name = event.member_id, event.member_name
    return TeamCartBroadcast(
        **_every_field(event, about),
        team_cart_id=event.team_cart_id,
        member_ref=member_ref(event.team_cart_id, identity_key(member)) if isinstance(member, str) else member,
        member_name=short_name(name) if isinstance(name, str) else name,
        item=event.item,
        item_id=event.item_id,
        total=event.total,
        amount=event.amount,
        expires_at=event.expires_at,
        order_id=event.order_id if isinstance(event, TeamCartConverted) else UNSET,
        restaurant_id=event.restaurant_id if isinstance(event, TeamCartConverted) else UNSET,
    )


def member_ref(cart_id: str, member_key: str) -> str:
    """What stands for a member of a cart: the others see that it is the same one, and not who."""
    return hashlib.sha256(f"{cart_id}/{member_key}".encode()).hexdigest()[:16]


# -- Workflows, money --------------------------------------------------------------------------------------------------


class WorkflowBroadcast(View, frozen=True, kw_only=True, gc=False):
    """A step of a workflow. The order's id is as the order service gave it."""

    correlation_id: str
    order_id: str | int | UnsetType | None
    status: str


class FinanceBroadcast(View, frozen=True, kw_only=True, gc=False):
    """A booking on a restaurant's account."""

    restaurant_account_id: str
    restaurant_id: str
    order_id: str | UnsetType | None
    amount: Money
    new_balance: Money


class CouponBroadcast(View, frozen=True, kw_only=True, gc=False):
    """The use of a coupon."""

    coupon_id: str
    previous_usage_count: int
    new_usage_count: int
    used_at: dt.datetime


def workflow_step(event: WorkflowEvent, about: About) -> WorkflowBroadcast:
    """For whom the workflow is bound to."""
    return WorkflowBroadcast(
        **_every_field(event, about),
        correlation_id=event.correlation_id,
        order_id=getattr(event, "order_id", UNSET),
        status=about.status or "",
    )


def booking(event: FinanceEvent, about: About) -> FinanceBroadcast:
    """For the owner and the finance role."""
    return FinanceBroadcast(
        **_every_field(event, about),
        restaurant_account_id=event.restaurant_account_id,
        restaurant_id=event.restaurant_id,
        order_id=event.order_id,
        amount=event.amount,
        new_balance=event.new_balance,
    )


def coupon_use(event: CouponUsed, about: About) -> CouponBroadcast:
    """For marketing."""
    return CouponBroadcast(
        **_every_field(event, about),
        coupon_id=event.coupon_id,
        previous_usage_count=event.previous_usage_count,
        new_usage_count=event.new_usage_count,
        used_at=event.used_at,
    )


def _every_field(event: Event, about: About) -> dict[str, Any]:
    return {
        "event_id": event.event_id,
        "occurred_on_utc": event.occurred_on_utc,
        "topic": about.topic,
        "schema_version": event.schema_version,
    }


def _order_fields(event: OrderEvent, about: About) -> dict[str, Any]:
    return {
        "event_id": event.event_id,
        "occurred_on_utc": event.occurred_on_utc,
        "topic": about.topic,
        "schema_version": event.schema_version,
        "order_id": event.order_id,
        "order_number": event.order_number,
        "status": UNSET if about.status is None else about.status,
        "restaurant_id": event.restaurant_id,
        "last_update_timestamp": event.occurred_on_utc,
        "estimated_delivery_time": event.estimated_delivery_time,
        "actual_delivery_time": event.actual_delivery_time,
        "delivered_at": event.occurred_on_utc if isinstance(event, OrderDelivered) else UNSET,
    }
