"""What happened: the domain events as their owners publish them, and their decoding.

The body is JSON in camelCase with `type` as the tag. A field that a publisher leaves out is `UNSET`; `null` means that
the value was cleared. Unknown fields are ignored, so newer publishers don't break older gateways.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TypeAlias

import msgspec

from streams.errors import StreamsError
from streams.events.access import (
    AccessEvent,
    DeviceEvent,
    DeviceRegistered,
    DeviceRevoked,
    PairingOpened,
    PassEvent,
    PassIssued,
    PassRevoked,
    Role,
    StaffAssigned,
    StaffEvent,
    StaffRevoked,
    TokenRevoked,
)
from streams.events.carts import (
    CartItem,
    TeamCartConverted,
    TeamCartCreated,
    TeamCartEvent,
    TeamCartExpired,
    TeamCartItemAdded,
    TeamCartItemRemoved,
    TeamCartItemUpdated,
    TeamCartLockedForPayment,
    TeamCartMemberEvent,
    TeamCartMemberJoined,
    TeamCartMemberLeft,
    TeamCartMemberRemoved,
    TeamCartPaymentAuthorized,
    TeamCartPaymentFailed,
    TeamCartQuoteUpdated,
)
from streams.events.fields import (
    Digest,
    Event,
    EventId,
    Id,
    Identity,
    Money,
    OrderItem,
    Text,
    UtcTime,
)
from streams.events.money import (
    CouponUsed,
    FinanceEvent,
    PlatformFeeRecorded,
    RevenueRecorded,
)
from streams.events.orders import (
    Alarm,
    Command,
    CommandEvent,
    CommandExpired,
    CommandRejected,
    NotificationTarget,
    OrderAccepted,
    OrderCancelled,
    OrderCreated,
    OrderDelayed,
    OrderDelivered,
    OrderEtaUpdated,
    OrderEvent,
    OrderPaymentFailed,
    OrderPaymentSucceeded,
    OrderPlaced,
    OrderPreparing,
    OrderReadyForDelivery,
    OrderRejected,
    OrderUnattended,
)
from streams.events.workflows import (
    OrderProcessed,
    OrderReference,
    WorkflowAccepted,
    WorkflowBound,
    WorkflowEvent,
    WorkflowProcessing,
    WorkflowUserEvent,
    processed_event_id,
)

__all__ = [
    "EVENT_TYPES",
    "MAX_EVENT_BYTES",
    "AccessEvent",
    "Alarm",
    "AnyEvent",
    "CartItem",
    "Command",
    "CommandEvent",
    "CommandExpired",
    "CommandRejected",
    "CouponUsed",
    "DeviceEvent",
    "DeviceRegistered",
    "DeviceRevoked",
    "Digest",
    "Event",
    "EventError",
    "EventId",
    "FinanceEvent",
    "Id",
    "Identity",
    "MalformedEvent",
    "Money",
    "NotificationTarget",
    "OrderAccepted",
    "OrderCancelled",
    "OrderCreated",
    "OrderDelayed",
    "OrderDelivered",
    "OrderEtaUpdated",
    "OrderEvent",
    "OrderItem",
    "OrderPaymentFailed",
    "OrderPaymentSucceeded",
    "OrderPlaced",
    "OrderPreparing",
    "OrderProcessed",
    "OrderReadyForDelivery",
    "OrderReference",
    "OrderRejected",
    "OrderUnattended",
    "PairingOpened",
    "PassEvent",
    "PassIssued",
    "PassRevoked",
    "PlatformFeeRecorded",
    "RevenueRecorded",
    "Role",
    "StaffAssigned",
    "StaffEvent",
    "StaffRevoked",
    "TeamCartConverted",
    "TeamCartCreated",
    "TeamCartEvent",
    "TeamCartExpired",
    "TeamCartItemAdded",
    "TeamCartItemRemoved",
    "TeamCartItemUpdated",
    "TeamCartLockedForPayment",
    "TeamCartMemberEvent",
    "TeamCartMemberJoined",
    "TeamCartMemberLeft",
    "TeamCartMemberRemoved",
    "TeamCartPaymentAuthorized",
    "TeamCartPaymentFailed",
    "TeamCartQuoteUpdated",
    "Text",
    "TokenRevoked",
    "UnknownEventType",
    "UtcTime",
    "WorkflowAccepted",
    "WorkflowBound",
    "WorkflowEvent",
    "WorkflowProcessing",
    "WorkflowUserEvent",
    "decode",
    "encode",
    "processed_event_id",
    "split_path",
]

MAX_EVENT_BYTES = 64 * 1024
"""The longest body of an event, in bytes of JSON."""

_MAX_DETAIL = 200  # characters: a detail may repeat a value that was sent

AnyEvent: TypeAlias = (
    OrderPlaced
    | OrderCreated
    | OrderPaymentSucceeded
    | OrderPaymentFailed
    | OrderAccepted
    | OrderPreparing
    | OrderReadyForDelivery
    | OrderDelivered
    | OrderRejected
    | OrderCancelled
    | OrderEtaUpdated
    | OrderDelayed
    | OrderUnattended
    | CommandRejected
    | CommandExpired
    | TeamCartCreated
    | TeamCartMemberJoined
    | TeamCartMemberLeft
    | TeamCartMemberRemoved
    | TeamCartItemAdded
    | TeamCartItemUpdated
    | TeamCartItemRemoved
    | TeamCartQuoteUpdated
    | TeamCartLockedForPayment
    | TeamCartPaymentAuthorized
    | TeamCartPaymentFailed
    | TeamCartConverted
    | TeamCartExpired
    | WorkflowBound
    | WorkflowAccepted
    | WorkflowProcessing
    | OrderProcessed
    | RevenueRecorded
    | PlatformFeeRecorded
    | CouponUsed
    | StaffAssigned
    | StaffRevoked
    | TokenRevoked
    | PassIssued
    | PassRevoked
    | PairingOpened
    | DeviceRegistered
    | DeviceRevoked
)
EVENT_TYPES: dict[str, type[Event]] = {each.type_name(): each for each in AnyEvent.__args__}


class EventError(StreamsError, ValueError):
    """A body that is no event. `detail` says what is wrong and `path` where, as a JSON pointer (RFC 6901)."""

    def __init__(self, detail: str, path: str = "") -> None:
        super().__init__(f"{detail} (at {path})" if path else detail)
        self.detail = detail
        self.path = path


class MalformedEvent(EventError):
    """Not JSON, or not what its type asks for."""


class UnknownEventType(EventError):
    """A well-formed event of a type that this version does not know. `type` is the name."""

    def __init__(self, name: str) -> None:
        nearest = get_close_matches(name[:64], EVENT_TYPES, n=3, cutoff=0)
        super().__init__(f"unknown event type {name[:64]!r}; the nearest known are {', '.join(nearest)}", "/type")
        self.type = name


class _Tag(msgspec.Struct):
    type: str


_event_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)
_tag_decoder = msgspec.json.Decoder(_Tag)
_encoder = msgspec.json.Encoder()


def decode(data: bytes) -> AnyEvent:
    """The event in `data`, a body of at most MAX_EVENT_BYTES.

    Raises:
        UnknownEventType: it names a type that is not in EVENT_TYPES.
        MalformedEvent: anything else is wrong.
    """
    if len(data) > MAX_EVENT_BYTES:
        raise MalformedEvent(f"an event has at most {MAX_EVENT_BYTES} bytes, this one {len(data)}")
    try:
        return _event_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _explained(data, error) from error


def encode(event: Event) -> bytes:
    """The event as it is published: JSON, one line, only the fields that it has."""
    return _encoder.encode(event)


def _explained(data: bytes, error: Exception) -> EventError:
    if isinstance(error, RecursionError):
        return MalformedEvent("nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return MalformedEvent("not UTF-8")
    try:
        name = _tag_decoder.decode(data).type
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        name = None
    if name is not None and name not in EVENT_TYPES:
        return UnknownEventType(name)
    detail, path = split_path(str(error))
    return MalformedEvent(detail[:_MAX_DETAIL], path)


def split_path(message: str) -> tuple[str, str]:
    """A msgspec message apart: what is wrong, and where as a JSON pointer."""
    detail, found, tail = message.rpartition(" - at `$")  # the last one: before it may stand a value that was sent
    if not found:
        return message, ""
    return detail, re.sub(r"\[(\d+)\]", r"/\1", tail.removesuffix("`")).replace(".", "/")
