"""What a client may name, and which events that brings."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.matrix import notifications
from streams.subjects import identity_key
from streams.topics import Feed, InvalidTopic, Topic, TopicKind, order_feed, restaurant_feed
from tests.support.delivery import order_entry

IDS = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


@given(st.builds(Topic, st.sampled_from(TopicKind), IDS))
def test_topic_survives_its_text(topic: Topic) -> None:
    assert str(topic) == f"{topic.kind.value}/{topic.id}"
    assert Topic.parse(str(topic)) == topic


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
    assert "restaurants/<id>, orders/<id>" in str(refusal.value)


def test_feed_of_a_restaurant_is_every_order_of_it() -> None:
    assert restaurant_feed("r1") == Feed("restaurants/r1", "restaurants/r1", "orders.r1.>")


def test_feed_of_an_order_names_its_restaurant_and_its_customer_in_key_and_filter_only() -> None:
    assert order_feed("o1", "r1", "c1") == Feed("orders/o1", "orders/o1@r1.c1", "orders.r1.c1.o1.>")
    key = identity_key("auth0|5f")
    assert order_feed("o1", "r1", key) == Feed("orders/o1", f"orders/o1@r1.{key}", f"orders.r1.{key}.o1.>")


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
