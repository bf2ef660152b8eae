"""What events are made of: ids, identities, times, money, and what every event says."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from streams.subjects import ID_PATTERN, IDENTITY_LENGTH, InvalidIdentity, identity_key

Id: TypeAlias = Annotated[str, Meta(pattern=ID_PATTERN, description="An id; a UUID is one.")]
EventId: TypeAlias = Annotated[str, Meta(pattern=r"^[!-~]{1,128}$(?!\n)", description="Unique for ever.")]
Identity: TypeAlias = Annotated[
    str,
    Meta(min_length=1, max_length=IDENTITY_LENGTH, description="What the issuer's token says; printable."),
]
UtcTime: TypeAlias = Annotated[dt.datetime, Meta(tz=True, description="RFC 3339 with an offset.")]
Text: TypeAlias = Annotated[str, Meta(max_length=512, pattern=r"^[^\x00]*$")]  # PostgreSQL holds no NUL
Digest: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)", description="SHA-256 in hexadecimal.")]


class Money(msgspec.Struct, frozen=True, gc=False):
    """An exact amount: a decimal string, never a float, and an ISO 4217 currency."""

    amount: Annotated[str, Meta(pattern=r"^-?[0-9]{1,15}(\.[0-9]{1,6})?$(?!\n)")]
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}$(?!\n)")]


class OrderItem(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """One line of an order."""

    name: Text
    quantity: Annotated[int, Meta(ge=1, le=1_000_000)]
    unit_price: Money | UnsetType | None = UNSET


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


def check_identity(field: str, identity: str) -> None:
    """For `__post_init__`: msgspec makes a ValidationError of the ValueError."""
    try:
        identity_key(identity)
    except InvalidIdentity as error:
        raise ValueError(f"{field}: {error}") from error
