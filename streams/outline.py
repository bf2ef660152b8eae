"""An order's event judged without being made: is it one that `events.decode` takes, and whom does it concern? Pure.

A tail judges every event of the log and shows few of them. To make the event takes 3 to 6 µs, most of it for a regular
expression a field. Here the same fields are decoded by the same types and limits, and what the expressions ask is asked
of all of them together. What can't be told so is decoded after all; what `decode` refuses is never taken.
"""

from __future__ import annotations

import re
import string
from functools import lru_cache, reduce
from operator import or_
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from streams.events import EVENT_TYPES, MAX_EVENT_BYTES, Event, NotificationTarget, OrderEvent, UtcTime
from streams.subjects import IDENTITY_LENGTH, InvalidIdentity, identity_key, is_id

_Id: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
_EventId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128)]
_Identity: TypeAlias = Annotated[str, Meta(min_length=1, max_length=IDENTITY_LENGTH)]
_Text: TypeAlias = Annotated[str, Meta(max_length=512)]


class _Money(msgspec.Struct, gc=False):
    amount: str
    currency: str


class _Item(msgspec.Struct, gc=False, rename="camel"):
    name: _Text
    quantity: Annotated[int, Meta(ge=1, le=1_000_000)]
    unit_price: _Money | UnsetType | None = UNSET


class Outline(msgspec.Struct, gc=False, kw_only=True, rename="camel", tag_field="type"):
    """The fields of `OrderEvent`, by types that cost little, and the customer's key, which is no field of the body."""

    event_id: _EventId
    occurred_on_utc: UtcTime
    schema_version: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    order_id: _Id
    restaurant_id: _Id
    customer_id: _Identity
    order_number: _Text | UnsetType | None = UNSET
    customer_name: _Text | UnsetType | None = UNSET
    items: Annotated[list[_Item], Meta(max_length=1000)] | UnsetType | None = UNSET
    total: _Money | UnsetType | None = UNSET
    platform_fee: _Money | UnsetType | None = UNSET
    estimated_delivery_time: UtcTime | UnsetType | None = UNSET
    actual_delivery_time: UtcTime | UnsetType | None = UNSET
    reason: _Text | UnsetType | None = UNSET
    target: NotificationTarget | UnsetType | None = UNSET
    command_id: _EventId | UnsetType | None = UNSET
    customer_key: str = ""


def _is_plain(kind: type[Event]) -> bool:
    """Whether it asks for nothing but what every order's event asks for."""
    return (
        issubclass(kind, OrderEvent)
        and kind.__struct_fields__ == OrderEvent.__struct_fields__
        and kind.__post_init__ is OrderEvent.__post_init__
    )


# One class an event, as there, so that both decoders think alike of two tags in one body.
KINDS: dict[type[Any], type[Any]] = {
    msgspec.defstruct(name, (), bases=(Outline,), tag=name, gc=False): kind
    for name, kind in EVENT_TYPES.items()
    if _is_plain(kind)
}
"""The event's class by the class of its outline."""

_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(reduce(or_, KINDS))
_BACKSLASH = ord("\\")
_OF_IDS = (string.ascii_letters + string.digits + "-_").encode()
_MONEY = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,6})? [A-Z]{3}")


def outline(body: bytes) -> Outline | None:
    """What `decode` would take from `body`, if it is an order's event; None also where only `decode` can tell."""
    # An escape may be of a NUL, which no text holds. Unescaped, none is JSON.
    if len(body) > MAX_EVENT_BYTES or _BACKSLASH in body:
        return None
    try:
        found: Outline = _decoder.decode(body)
        found.customer_key = identity_key(found.customer_id)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidIdentity):
        return None
    if (
        # Most publishers give their events ids that would do for orders.
        (not (found.order_id + found.event_id).encode().translate(None, _OF_IDS) or _has_sound_ids(found))
        and _is_known_id(found.restaurant_id)
        and (not (found.total or found.items or found.platform_fee or found.command_id) or _has_sound_parts(found))
    ):
        return found
    return None


def _has_sound_ids(found: Outline) -> bool:
    return is_id(found.order_id) and _is_event_id(found.event_id)


def _is_event_id(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


def _has_sound_parts(found: Outline) -> bool:
    if found.command_id and not _is_event_id(found.command_id):
        return False
    for money in (found.total, found.platform_fee):
        if money and not _is_money(money.amount, money.currency):
            return False
    for item in found.items or ():
        if (price := item.unit_price) and not _is_money(price.amount, price.currency):
            return False
    return True


# There are few restaurants, and few prices, beside orders.
_is_known_id = lru_cache(16_384)(is_id)


@lru_cache(16_384)
def _is_money(amount: str, currency: str) -> bool:
    return _MONEY.fullmatch(f"{amount} {currency}") is not None
