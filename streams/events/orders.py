"""What happens to an order."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from streams.events.fields import Event, EventId, Id, Identity, Money, OrderItem, Text, UtcTime, check_identity
from streams.subjects import identity_key, order_subject


class NotificationTarget(StrEnum):
    """Who is told of an order's event instead of the matrix's default."""

    RESTAURANT = "Restaurant"
    CUSTOMER = "Customer"
    BOTH = "Both"


class Alarm(StrEnum):
    """What an order is late for."""

    ACCEPT = "accept"
    READY = "ready"
    DELIVER = "deliver"


class Command(StrEnum):
    """What somebody may ask the order service to do with an order."""

    ACCEPT = "accept"
    REJECT = "reject"
    PREPARING = "preparing"
    READY = "ready"
    DELIVERED = "delivered"
    CANCEL = "cancel"


class OrderEvent(Event, frozen=True, kw_only=True, gc=False):
    """Something that happened to an order. Restaurant and customer are fixed by the order's first event."""

    order_id: Id
    restaurant_id: Id
    customer_id: Identity
    order_number: Text | UnsetType | None = UNSET
    customer_name: Text | UnsetType | None = UNSET
    items: Annotated[list[OrderItem], Meta(max_length=1000)] | UnsetType | None = UNSET
    total: Money | UnsetType | None = UNSET
    platform_fee: Money | UnsetType | None = UNSET
    estimated_delivery_time: UtcTime | UnsetType | None = UNSET
    actual_delivery_time: UtcTime | UnsetType | None = UNSET
    reason: Text | UnsetType | None = UNSET
    target: NotificationTarget | UnsetType | None = UNSET
    command_id: EventId | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        check_identity("customerId", self.customer_id)

    @property
    def customer_key(self) -> str:
        """The customer as subjects and topics name them."""
        return identity_key(self.customer_id)

    def log_subject(self) -> str:
        return order_subject(self.restaurant_id, self.customer_key, self.order_id, self.type_name())


class OrderPlaced(OrderEvent, frozen=True, kw_only=True, gc=False, tag="OrderPlaced"): ...


class OrderCreated(OrderPlaced, frozen=True, kw_only=True, gc=False, tag="OrderCreated"):
    """The same as OrderPlaced, under the name that some order services use."""


class OrderPaymentSucceeded(OrderEvent, frozen=True, kw_only=True, gc=False, tag="OrderPaymentSucceeded"): ...


class OrderPaymentFailed(OrderEvent, frozen=True, kw_only=True, gc=False, tag="OrderPaymentFailed"): ...


class OrderAccepted(OrderEvent, frozen=True, kw_only=True, gc=False, tag="OrderAccepted"): ...


class OrderPreparing(OrderEvent, frozen=True, kw_only=True, gc=False, tag="OrderPreparing"): ...


class OrderReadyForDelivery(OrderEvent, frozen=True, kw_only=True, gc=False, tag="OrderReadyForDelivery"): ...


class OrderDelivered(OrderEvent, frozen=True, kw_only=True, gc=False, tag="OrderDelivered"): ...


class OrderRejected(OrderEvent, frozen=True, kw_only=True, gc=False, tag="OrderRejected"): ...


class OrderCancelled(OrderEvent, frozen=True, kw_only=True, gc=False, tag="OrderCancelled"): ...


class OrderEtaUpdated(OrderEvent, frozen=True, kw_only=True, gc=False, tag="OrderEtaUpdated"):
    """Another `estimatedDeliveryTime`; null takes the last one back."""


class OrderDelayed(OrderEvent, frozen=True, kw_only=True, gc=False, tag="OrderDelayed"):
    """What should have happened until `dueAt` has not."""

    alarm: Alarm
    due_at: UtcTime


class OrderUnattended(OrderEvent, frozen=True, kw_only=True, gc=False, tag="OrderUnattended"):
    """Since the order was placed nobody who may see its restaurant has had a stream open."""


class CommandEvent(OrderEvent, frozen=True, kw_only=True, gc=False):
    """What became of a command that was not carried out. `target` is the side of whoever sent it."""

    command_id: EventId
    target: NotificationTarget
    command: Command


class CommandRejected(CommandEvent, frozen=True, kw_only=True, gc=False, tag="CommandRejected"):
    """The order service would not: the order is not where the command could be carried out."""


class CommandExpired(CommandEvent, frozen=True, kw_only=True, gc=False, tag="CommandExpired"):
    """No order service took it in time."""
