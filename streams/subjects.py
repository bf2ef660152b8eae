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


def order_subject(restaurant_id: str, customer_key: str, order_id: str, event: str) -> str:
    """Where an order's event stands in the log."""
    return f"orders.{restaurant_id}.{customer_key}.{order_id}.{event}"


def access_subject(key: str, event: str) -> str:
    """Where a fact about access stands: under its restaurant's id, or under a key."""
    return f"access.{key}.{event}"


def restaurant_filter(restaurant_id: str) -> str:
    """Every order event of a restaurant."""
    return f"orders.{restaurant_id}.>"


def order_filter(restaurant_id: str, customer_key: str, order_id: str) -> str:
    """Every event of an order, under its own restaurant and customer only."""
    return f"orders.{restaurant_id}.{customer_key}.{order_id}.>"


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
