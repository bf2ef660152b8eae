"""Topics: what a client subscribes to, and what of the log feeds each.

A topic is named `<kind>/<id>`. Bound to the log it is a `Feed`: the routing key that the matrix gives to the events of
that topic, and the subjects on which they stand.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache

import msgspec

from streams.errors import StreamsError
from streams.subjects import is_id, order_filter, restaurant_filter


class TopicKind(StrEnum):
    """The first part of a topic."""

    RESTAURANT = "restaurants"
    ORDER = "orders"


class InvalidTopic(StreamsError, ValueError):
    """A text that names no topic. `text` is what was given."""

    def __init__(self, text: str) -> None:
        kinds = ", ".join(f"{kind}/<id>" for kind in TopicKind)
        super().__init__(f"a topic is one of {kinds}, with an id of 1 to 64 characters of A-Z, a-z, 0-9, '_' and '-'")
        self.text = text


class Topic(msgspec.Struct, frozen=True, gc=False):
    """What a stream is about; its text is `<kind>/<id>`."""

    kind: TopicKind
    id: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.id}"

    @classmethod
    def parse(cls, text: str) -> Topic:
        """Raises InvalidTopic."""
        kind, _, id_ = text.partition("/")
        if not is_id(id_):
            raise InvalidTopic(text)
        try:
            return cls(TopicKind(kind), id_)
        except ValueError as error:
            raise InvalidTopic(text) from error


class Feed(msgspec.Struct, frozen=True, gc=False):
    """A topic bound to the log.

    `key` is what the hub routes by. An order's key and filter hold its restaurant and its customer too, so an event
    that puts an order under somebody else's name never reaches the order's stream.
    """

    topic: str
    key: str
    filter: str


@lru_cache(maxsize=16_384)  # the window holds it for each of a restaurant's events
def restaurant_key(restaurant_id: str) -> str:
    """The routing key of a restaurant's topic: the topic itself."""
    return f"restaurants/{restaurant_id}"


def order_key(order_id: str, restaurant_id: str, customer_key: str) -> str:
    """The routing key of an order's topic."""
    return f"orders/{order_id}@{restaurant_id}.{customer_key}"


def restaurant_feed(restaurant_id: str) -> Feed:
    """`restaurants/<id>`: every order of one restaurant."""
    topic = restaurant_key(restaurant_id)
    return Feed(topic, topic, restaurant_filter(restaurant_id))


def order_feed(order_id: str, restaurant_id: str, customer_key: str) -> Feed:
    """`orders/<id>`: one order, for the customer who placed it."""
    return Feed(
        f"orders/{order_id}",
        order_key(order_id, restaurant_id, customer_key),
        order_filter(restaurant_id, customer_key, order_id),
    )
