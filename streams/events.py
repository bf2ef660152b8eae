"""What happened: the domain events as their owners publish them, and their decoding.

The body is JSON in camelCase with `type` as the tag. A field that a publisher leaves out is `UNSET`; `null` means that
the value was cleared. Unknown fields are ignored, so newer publishers don't break older gateways.
"""

from __future__ import annotations

import datetime as dt
import re
from enum import StrEnum
from typing import Annotated, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from streams.errors import StreamsError
from streams.subjects import (
    ID_PATTERN,
    IDENTITY_LENGTH,
    InvalidIdentity,
    access_subject,
    identity_key,
    order_subject,
)

MAX_EVENT_BYTES = 64 * 1024
"""The longest body of an event, in bytes of JSON."""

_MAX_DETAIL = 200  # characters: a detail may repeat a value that was sent

Id: TypeAlias = Annotated[str, Meta(pattern=ID_PATTERN, description="An id; a UUID is one.")]
EventId: TypeAlias = Annotated[str, Meta(pattern=r"^[!-~]{1,128}$(?!\n)", description="Unique for ever.")]
Identity: TypeAlias = Annotated[
    str,
    Meta(min_length=1, max_length=IDENTITY_LENGTH, description="What the issuer's token says; printable."),
]
UtcTime: TypeAlias = Annotated[dt.datetime, Meta(tz=True, description="RFC 3339 with an offset.")]
Text: TypeAlias = Annotated[str, Meta(max_length=512, pattern=r"^[^\x00]*$")]  # PostgreSQL holds no NUL


class NotificationTarget(StrEnum):
    """Who is told of an order's event instead of the matrix's default."""

    RESTAURANT = "Restaurant"
    CUSTOMER = "Customer"
    BOTH = "Both"


class Role(StrEnum):
    """What somebody is to a restaurant."""

    OWNER = "owner"
    STAFF = "staff"
    FINANCE = "finance"


class Money(msgspec.Struct, frozen=True, gc=False):
    """An exact amount: a decimal string, never a float, and an ISO 4217 currency."""

    amount: Annotated[str, Meta(pattern=r"^-?[0-9]{1,15}(\.[0-9]{1,6})?$(?!\n)")]
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}$(?!\n)")]


class OrderItem(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """One line of an order."""

    name: Text
    quantity: Annotated[int, Meta(ge=1, le=1_000_000)]
    unit_price: Money | UnsetType | None = UNSET


def _check_identity(field: str, identity: str) -> None:
    try:
        identity_key(identity)
    except InvalidIdentity as error:
        raise ValueError(f"{field}: {error}") from error  # msgspec makes a ValidationError of it


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False, rename="camel", tag_field="type"):
    """What every event says. `event_id` is the message id that JetStream deduplicates by."""

    event_id: EventId
    occurred_on_utc: UtcTime
    schema_version: Annotated[int, Meta(ge=1, le=1_000_000)] = 1

    def log_subject(self) -> str:
        """The subject under which this event must stand in the log."""
        raise NotImplementedError

    @classmethod
    def type_name(cls) -> str:
        """The event's name, as in the field `type` and in the last token of its subject."""
        return str(cls.__struct_config__.tag)


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
        _check_identity("customerId", self.customer_id)

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


class StaffEvent(Event, frozen=True, kw_only=True, gc=False):
    """Who belongs to a restaurant. A fact: it is shown to nobody and decides what others are shown."""

    restaurant_id: Id
    subject: Identity

    def __post_init__(self) -> None:
        _check_identity("subject", self.subject)

    @property
    def subject_key(self) -> str:
        """The person as grants name them."""
        return identity_key(self.subject)

    def log_subject(self) -> str:
        return access_subject(self.restaurant_id, self.type_name())


class StaffAssigned(StaffEvent, frozen=True, kw_only=True, gc=False, tag="StaffAssigned"):
    role: Role


class StaffRevoked(StaffEvent, frozen=True, kw_only=True, gc=False, tag="StaffRevoked"):
    """Ends one role, or every role of the person in that restaurant if it names none."""

    role: Role | UnsetType | None = UNSET


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
    | StaffAssigned
    | StaffRevoked
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
        super().__init__(f"unknown event type {name[:64]!r}; known are {', '.join(EVENT_TYPES)}", "/type")
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
