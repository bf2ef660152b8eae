"""Topics: what a client subscribes to, and what of the log feeds each. Pure.

A topic is named `<kind>/<id>`. For one audience of it there is a `Feed`: its key, by which the matrix finds what that
audience is shown; the lane on which the hub and the window find its events; and the subjects on which they stand in the
log. Several audiences share a lane: what a kitchen and a partner's device are shown are two views of the same events.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import lru_cache

import msgspec

from streams.errors import StreamsError
from streams.subjects import (
    cart_filter,
    coupon_filter,
    customer_filter,
    every_coupon_filter,
    finance_filter,
    is_id,
    order_filter,
    restaurant_filter,
    workflow_filter,
)


class TopicKind(StrEnum):
    """The first part of a topic."""

    RESTAURANT = "restaurants"
    PARTNER = "partners"
    ORDER = "orders"
    CUSTOMER = "customers"
    CART = "carts"
    WORKFLOW = "workflows"
    FINANCE = "finance"
    COUPON = "coupons"
    MARKETING = "marketing"


class Audience(StrEnum):
    """Who is shown a topic's events, by the first part of the feed's key. An order has two of them."""

    RESTAURANT = "restaurants"
    PARTNER = "partners"
    ORDER = "orders"
    GUEST = "guests"
    CUSTOMER = "customers"
    CART = "carts"
    WORKFLOW = "workflows"
    FINANCE = "finance"
    COUPON = "coupons"
    MARKETING = "marketing"


class InvalidTopic(StreamsError, ValueError):
    """A text that names no topic. `text` is what was given."""

    def __init__(self, text: str) -> None:
        kinds = ", ".join(f"{kind}/<id>" for kind in TopicKind if kind is not TopicKind.MARKETING)
        super().__init__(
            f"a topic is one of {kinds}, with an id of 1 to 64 characters of A-Z, a-z, 0-9, '_' and '-', or marketing"
        )
        self.text = text


class Topic(msgspec.Struct, frozen=True, gc=False):
    """What a stream is about; its text is `<kind>/<id>`, of `marketing` the kind alone."""

    kind: TopicKind
    id: str = ""

    def __str__(self) -> str:
        return f"{self.kind}/{self.id}" if self.id else self.kind.value

    @classmethod
    def parse(cls, text: str) -> Topic:
        """Raises InvalidTopic."""
        kind, slash, id_ = text.partition("/")
        if kind == TopicKind.MARKETING and not slash:
            return cls(TopicKind.MARKETING)
        if not is_id(id_) or kind == TopicKind.MARKETING:
            raise InvalidTopic(text)
        try:
            return cls(TopicKind(kind), id_)
        except ValueError as error:
            raise InvalidTopic(text) from error


class Feed(msgspec.Struct, frozen=True, gc=False):
    """A topic bound to the log, for one audience.

    An order's key, lane and filter hold its restaurant and its customer too, so an event that puts an order under
    somebody else's name never reaches the order's stream.
    """

    topic: str
    key: str
    lane: str
    filter: str


# -- Lanes, as the events of the log name them: asked of everything that is read ---------------------------------------

MARKETING_LANE = "marketing"


@lru_cache(maxsize=16_384)  # the window holds it for each of a restaurant's events
def restaurant_lane(restaurant_id: str) -> str:
    """Every order event that the restaurant is told of."""
    return f"restaurants/{restaurant_id}"


def order_lane(order_id: str, restaurant_id: str, customer_key: str) -> str:
    """Every event of an order that its customer is told of."""
    return f"orders/{order_id}@{restaurant_id}.{customer_key}"


@lru_cache(maxsize=16_384)
def customer_lane(customer_key: str) -> str:
    """Every order event that the customer is told of."""
    return f"customers/{customer_key}"


# -- Feeds -------------------------------------------------------------------------------------------------------------


def restaurant_feed(restaurant_id: str) -> Feed:
    """`restaurants/<id>`: every order of one restaurant, for its owner and staff."""
    lane = restaurant_lane(restaurant_id)
    return Feed(lane, lane, lane, restaurant_filter(restaurant_id))


def partner_feed(restaurant_id: str) -> Feed:
    """`partners/<id>`: the same for the restaurant's devices."""
    topic = f"partners/{restaurant_id}"
    return Feed(topic, topic, restaurant_lane(restaurant_id), restaurant_filter(restaurant_id))


def order_feed(order_id: str, restaurant_id: str, customer_key: str) -> Feed:
    """`orders/<id>`: one order, for the customer who placed it."""
    lane = order_lane(order_id, restaurant_id, customer_key)
    return Feed(f"orders/{order_id}", lane, lane, order_filter(restaurant_id, customer_key, order_id))


def guest_feed(order_id: str, restaurant_id: str, customer_key: str) -> Feed:
    """`orders/<id>`: one order, for who has a pass for it."""
    lane = order_lane(order_id, restaurant_id, customer_key)
    key = f"guests/{lane.removeprefix('orders/')}"
    return Feed(f"orders/{order_id}", key, lane, order_filter(restaurant_id, customer_key, order_id))


def customer_feed(customer_key: str) -> Feed:
    """`customers/<key>`: every order of one customer."""
    lane = customer_lane(customer_key)
    return Feed(lane, lane, lane, customer_filter(customer_key))


def cart_feed(cart_id: str) -> Feed:
    """`carts/<id>`: a cart, for its members."""
    return _plain_feed(f"carts/{cart_id}", cart_filter(cart_id))


def workflow_feed(correlation_id: str, user_key: str = "") -> Feed:
    """`workflows/<correlation id>`: for whom it is bound to, who is shown nothing of an event that names another user.

    Without the user, for whoever asks what there is of it.
    """
    lane = f"workflows/{correlation_id}"
    return Feed(lane, f"{lane}@{user_key}" if user_key else lane, lane, workflow_filter(correlation_id))


def finance_feed(restaurant_id: str) -> Feed:
    """`finance/<restaurant>`: the bookings of a restaurant."""
    return _plain_feed(f"finance/{restaurant_id}", finance_filter(restaurant_id))


def coupon_feed(coupon_id: str) -> Feed:
    """`coupons/<id>`: the uses of one coupon."""
    return _plain_feed(f"coupons/{coupon_id}", coupon_filter(coupon_id))


def marketing_feed() -> Feed:
    """`marketing`: the uses of all coupons."""
    return _plain_feed(MARKETING_LANE, every_coupon_filter())


def _plain_feed(topic: str, subjects: str) -> Feed:
    return Feed(topic, topic, topic, subjects)


FEEDS: dict[TopicKind, Callable[[str], Feed]] = {
    TopicKind.RESTAURANT: restaurant_feed,
    TopicKind.PARTNER: partner_feed,
    TopicKind.CUSTOMER: customer_feed,
    TopicKind.CART: cart_feed,
    TopicKind.WORKFLOW: workflow_feed,
    TopicKind.FINANCE: finance_feed,
    TopicKind.COUPON: coupon_feed,
    TopicKind.MARKETING: lambda _: marketing_feed(),
}
"""Of every kind whose feed is known by its id alone; an order's is known by its restaurant and its customer, too."""

# -- What a key says ---------------------------------------------------------------------------------------------------


def audience_of(key: str) -> Audience:
    """Whose key it is."""
    return Audience(key.partition("/")[0])


def topic_of(key: str) -> str:
    """The topic that a feed's key is for."""
    kind, slash, rest = key.partition("/")
    if kind in (Audience.ORDER, Audience.GUEST):
        return f"orders/{rest.partition('@')[0]}"
    if kind == Audience.WORKFLOW:
        return key.partition("@")[0]
    return f"{kind}{slash}{rest}"


def lane_of(key: str) -> str:
    """The lane that feeds a key."""
    kind, _, rest = key.partition("/")
    if kind == Audience.PARTNER:
        return restaurant_lane(rest)
    if kind == Audience.WORKFLOW:
        return key.partition("@")[0]
    return f"orders/{rest}" if kind == Audience.GUEST else key


def user_of(key: str) -> str:
    """Whose key of a workflow it is, empty for nobody's in particular."""
    return key.partition("@")[2]
