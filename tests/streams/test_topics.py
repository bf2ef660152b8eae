"""What a client may name, and which events that brings."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.matrix import notifications
from streams.subjects import identity_key
from streams.topics import (
    FEEDS,
    Feed,
    InvalidTopic,
    Topic,
    TopicKind,
    guest_feed,
    lane_of,
    order_feed,
    partner_feed,
    restaurant_feed,
    topic_of,
)
from tests.support.delivery import order_entry

IDS = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


@given(st.builds(Topic, st.sampled_from([each for each in TopicKind if each is not TopicKind.MARKETING]), IDS))
def test_topic_survives_its_text(topic: Topic) -> None:
    assert str(topic) == f"{topic.kind.value}/{topic.id}"
    assert Topic.parse(str(topic)) == topic


def test_marketing_is_one_topic_and_has_no_id() -> None:
    assert Topic.parse("marketing") == Topic(TopicKind.MARKETING)
    assert str(Topic(TopicKind.MARKETING)) == "marketing"
    for text in ("marketing/", "marketing/m1"):
        with pytest.raises(InvalidTopic):
            Topic.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        *["", "/", "orders", "orders/", "/o1", "order/o1", "Orders/o1", "ORDER/o1", "orders//o1", "orders/o1/"],
        *["orders/o1/events", "orders/*", "orders/>", "orders/o.1", "orders/o 1", " orders/o1", "orders /o1"],
        *["orders/o1\n", "orders/o1\0", "orders\n/o1", "orders/é", "orders/" + "x" * 65, "orders.o1", "$SYS/o1"],
    ],
)
def test_text_outside_the_grammar_is_no_topic(text: str) -> None:
    with pytest.raises(InvalidTopic) as refusal:
        Topic.parse(text)
    assert refusal.value.text == text
    assert "restaurants/<id>, partners/<id>, orders/<id>" in str(refusal.value)


def test_feed_of_a_restaurant_is_every_order_of_it() -> None:
    assert restaurant_feed("r1") == Feed("restaurants/r1", "restaurants/r1", "restaurants/r1", "orders.r1.>")


def test_feed_of_an_order_names_its_restaurant_and_its_customer_in_key_and_filter_only() -> None:
    for customer in ("c1", identity_key("auth0|5f")):
        lane = f"orders/o1@r1.{customer}"
        assert order_feed("o1", "r1", customer) == Feed("orders/o1", lane, lane, f"orders.r1.{customer}.o1.>")


def test_audiences_of_one_thing_share_its_lane_and_its_filter() -> None:
    order, guest = order_feed("o1", "r1", "c1"), guest_feed("o1", "r1", "c1")
    assert (guest.topic, guest.key) == ("orders/o1", "guests/o1@r1.c1")
    assert (guest.lane, guest.filter) == (order.lane, order.filter)
    restaurant, partner = restaurant_feed("r1"), partner_feed("r1")
    assert (partner.topic, partner.key) == ("partners/r1", "partners/r1")
    assert (partner.lane, partner.filter) == (restaurant.lane, restaurant.filter)


@pytest.mark.parametrize(
    "feed", [FEEDS[kind]("x1") for kind in FEEDS] + [order_feed("o1", "r1", "c1"), guest_feed("o1", "r1", "c1")]
)
def test_key_says_its_topic_and_its_lane(feed: Feed) -> None:
    assert (topic_of(feed.key), lane_of(feed.key)) == (feed.topic, feed.lane)
    Topic.parse(feed.topic)


TOKENS = ["a", "b", "a-b", "a_"]


def test_event_has_the_key_of_an_orders_feed_exactly_where_order_restaurant_and_customer_agree() -> None:
    """And stands under the feed's filter exactly there, too: what is live and what is replayed are the same."""
    owners = list(product(TOKENS, repeat=3))
    feeds = {owner: order_feed(*owner) for owner in owners}
    assert len({feed.key for feed in feeds.values()}) == len(owners)
    for order, restaurant, customer in owners:
        entry = order_entry(1, restaurant=restaurant, customer=customer, order=order)
        assert entry.event is not None
        keys = {notification.key for notification in notifications(entry.event)}
        for owner, feed in feeds.items():
            agrees = owner == (order, restaurant, customer)
            assert (feed.key in keys) == agrees
            assert entry.subject.startswith(feed.filter.removesuffix(">")) == agrees
        for token in TOKENS:
            feed = restaurant_feed(token)
            assert (feed.key in keys) == (token == restaurant)
            assert entry.subject.startswith(feed.filter.removesuffix(">")) == (token == restaurant)


@given(st.tuples(IDS, IDS, IDS), st.tuples(IDS, IDS, IDS))
def test_different_orders_never_share_a_key(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    assert (order_feed(*one).key == order_feed(*other).key) == (one == other)
    assert order_feed(*one).key != restaurant_feed(one[0]).key
