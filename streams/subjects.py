"""Ids, identity keys, and the subjects of the log: the one place where they are built and parsed.

A NATS subject is a path of tokens in which `.`, `*`, `>` and white space have a meaning of their own, and a client
library checks none of it. So nothing enters a subject that is not a valid id or the key of an identity.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

from streams.errors import StreamsError

ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}$(?!\n)"
"""What an id may look like, for schemas (a UUID is one). In Python `$` would allow a line feed at the end."""

IDENTITY_LENGTH = 256
"""The longest identity, in characters."""

EVENT_SUBJECTS = ("orders.>", "carts.>", "workflows.>", "finance.>", "coupons.>", "access.>")
"""Everything that the stream EVENTS holds."""

COMMAND_SUBJECTS = "commands.>"
"""Everything that the stream COMMANDS holds."""

IDEMPOTENCY_SUBJECTS = "idempotency.>"
"""Everything that the stream IDEMPOTENCY holds."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HASHED = "h_"


class InvalidId(StreamsError, ValueError):
    """A text that is no id. `text` is what was given."""

    def __init__(self, text: str) -> None:
        super().__init__("an id is 1 to 64 characters of A-Z, a-z, 0-9, '_' and '-'")
        self.text = text


class InvalidIdentity(StreamsError, ValueError):
    """A text that can't be an identity. `text` is what was given."""

    def __init__(self, text: str) -> None:
        super().__init__(f"an identity is 1 to {IDENTITY_LENGTH} printable characters")
        self.text = text


def is_id(text: str) -> bool:
    """Whether `text` may stand in a subject, a topic or a path as an id."""
    return _ID.fullmatch(text) is not None


def checked_id(text: str) -> str:
    """`text` itself.

    Raises:
        InvalidId: it is none.
    """
    if not is_id(text):
        raise InvalidId(text)
    return text


@lru_cache(maxsize=65_536)
def identity_key(identity: str) -> str:
    """The form in which an identity stands in subjects, topics and paths: always a valid id.

    An identity that is a valid id stands for itself, unless it could be mistaken for a hash; any other one becomes
    `h_` and 160 bits of its SHA-256 in hexadecimal.

    Raises:
        InvalidIdentity: empty, too long, or not printable.
    """
    if not 1 <= len(identity) <= IDENTITY_LENGTH or not identity.isprintable():
        raise InvalidIdentity(identity)
    if is_id(identity) and not identity.startswith(_HASHED):
        return identity
    return _HASHED + hashlib.sha256(identity.encode()).hexdigest()[:40]


def is_hashed(key: str) -> bool:
    """Whether an identity's key does not tell the identity."""
    return key.startswith(_HASHED)


def order_subject(restaurant_id: str, customer_key: str, order_id: str, event: str) -> str:
    """Where an order's event stands in the log."""
    return f"orders.{restaurant_id}.{customer_key}.{order_id}.{event}"


def access_subject(key: str, event: str) -> str:
    """Where a fact about access stands: under its restaurant's id, or under a key."""
    return f"access.{key}.{event}"


def cart_subject(cart_id: str, event: str) -> str:
    """Where a cart's event stands in the log."""
    return f"carts.{cart_id}.{event}"


def workflow_subject(correlation_id: str, event: str) -> str:
    """Where a step of a workflow stands in the log."""
    return f"workflows.{correlation_id}.{event}"


def finance_subject(restaurant_id: str, event: str) -> str:
    """Where a booking of a restaurant stands in the log."""
    return f"finance.{restaurant_id}.{event}"


def coupon_subject(coupon_id: str, event: str) -> str:
    """Where the use of a coupon stands in the log."""
    return f"coupons.{coupon_id}.{event}"


def command_subject(restaurant_id: str, order_id: str, command: str) -> str:
    """Where a command for an order waits for its order service."""
    return f"commands.{restaurant_id}.{order_id}.{command}"


def idempotency_subject(caller_key: str, key: str) -> str:
    """Where it is remembered what `caller_key` has asked for under an idempotency key; a key may be any text."""
    return f"idempotency.{hashlib.sha256(f'{caller_key} {key}'.encode()).hexdigest()[:40]}"


def restaurant_filter(restaurant_id: str) -> str:
    """Every order event of a restaurant."""
    return f"orders.{restaurant_id}.>"


def order_filter(restaurant_id: str, customer_key: str, order_id: str) -> str:
    """Every event of an order, under its own restaurant and customer only."""
    return f"orders.{restaurant_id}.{customer_key}.{order_id}.>"


def customer_filter(customer_key: str) -> str:
    """Every event of every order of a customer."""
    return f"orders.*.{customer_key}.>"


def cart_filter(cart_id: str) -> str:
    """Every event of a cart."""
    return f"carts.{cart_id}.>"


def workflow_filter(correlation_id: str) -> str:
    """Every step of a workflow."""
    return f"workflows.{correlation_id}.>"


def finance_filter(restaurant_id: str) -> str:
    """Every booking of a restaurant."""
    return f"finance.{restaurant_id}.>"


def coupon_filter(coupon_id: str) -> str:
    """Every use of a coupon."""
    return f"coupons.{coupon_id}.>"


def every_coupon_filter() -> str:
    """Every use of every coupon."""
    return "coupons.>"


def any_owner_filter(order_id: str) -> str:
    """Every event that claims to be of this order, whichever restaurant and customer it names."""
    return f"orders.*.*.{order_id}.>"


def without_contained(filters: list[str]) -> list[str]:
    """The filters that no other one of them covers: JetStream refuses a consumer whose filters overlap."""
    unique = sorted(set(filters))
    return [each for each in unique if not any(other != each and _covers(other, each) for other in unique)]


def _covers(wide: str, narrow: str) -> bool:
    wide_tokens, narrow_tokens = wide.split("."), narrow.split(".")
    for index, part in enumerate(wide_tokens):
        if part == ">":
            return len(narrow_tokens) > index
        if index >= len(narrow_tokens) or narrow_tokens[index] == ">":
            return False
        if part != "*" and part != narrow_tokens[index]:
            return False
    return len(wide_tokens) == len(narrow_tokens)
